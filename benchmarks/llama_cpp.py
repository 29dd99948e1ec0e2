"""llama.cpp, built from source for this processor, and its server.

    python -m benchmarks.llama_cpp DIR [--jobs 2]        # DIR/plain/bin/llama-server, DIR/build.json; 4 to 20 minutes
    python -m benchmarks.scoring --llama-cpp DIR

The source is the one in the source distribution of llama-cpp-python: a fixed version, checked by its SHA-256. pip
fetches it; cmake, ninja and a C++ compiler must be there (`apt install cmake ninja-build g++`, or `pip install cmake
ninja`). Everything that this processor has is used (`GGML_NATIVE`), with one exception: where it has AMX there are two
builds, `plain` without it and `amx`, and the comparison takes the faster one. The wheels of xllamacpp, which the
comparison falls back to, choose among kernels compiled for several kinds of processors when they start.
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recording import machine
from qwenops.atomic import write_text
from qwenops.command import Spawned, run, spawn

VERSION = "0.3.36"
"""Of llama-cpp-python, which carries llama.cpp."""
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
TARGETS = ("llama-server", "llama-bench")
FEATURES = ("AVX512", "AVXVNNI", "AMX", "BF16")
WITHOUT_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
OPTIONS: Mapping[str, str] = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",
    "GGML_OPENMP": "ON",
    "GGML_CCACHE": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
}
FETCH_TIMEOUT_S, CONFIGURE_TIMEOUT_S, BUILD_TIMEOUT_S = 600.0, 300.0, 7200.0
READY_TIMEOUT_S = 120.0
PLAIN, AMX = "plain", "amx"
FACTS = "build.json"
WHEEL = "wheel"
"""Stands for the server in the package xllamacpp where a build's folder is wanted."""


# -- the build ---------------------------------------------------------------------------------------------------------


def build(folder: Path, *, jobs: int, has_amx: bool) -> Path:
    """Fetch the source, compile it into `folder` and return the file that says how."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    source = fetch(folder)
    builds = {}
    for name in (PLAIN, AMX) if has_amx else (PLAIN,):
        flags = WITHOUT_AMX if has_amx and name == PLAIN else ""
        compile_into(folder / name, source, flags, jobs)
        builds[name] = {"extra_flags": flags, "features": features_of(flags)}
    facts = {
        "llama_cpp_python": VERSION,
        "sha256": SHA256,
        "compiler": run(["c++", "--version"], timeout_s=30).stdout.splitlines()[0],
        "options": OPTIONS,
        "machine": machine(),
        "builds": builds,
    }
    write_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")
    return folder / FACTS


def fetch(folder: Path) -> Path:
    """Fetch and unpack the source, unless it lies there; return llama.cpp's own folder."""
    if (folder / INSIDE).is_dir():
        return folder / INSIDE
    with tempfile.TemporaryDirectory(dir=folder) as name:
        wanted = ["--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}"]
        run([sys.executable, "-m", "pip", "download", "-q", "-d", name, *wanted], timeout_s=FETCH_TIMEOUT_S)
        (archive,) = Path(name).glob("*.tar.gz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            raise RuntimeError(f"{archive.name} has the SHA-256 {found} instead of {SHA256}")
        with tarfile.open(archive) as packed:
            packed.extractall(Path(name) / "source", filter="data")
        top = Path(INSIDE).parts[0]
        shutil.move(Path(name) / "source" / top, folder / top)
    return folder / INSIDE


def compile_into(target: Path, source: Path, flags: str, jobs: int) -> None:
    """Compile the programs into `target/bin`."""
    defined = {**OPTIONS, "CMAKE_C_FLAGS": flags, "CMAKE_CXX_FLAGS": flags}
    argv: list[str | Path] = ["cmake", "-G", "Ninja", "-S", source, "-B", target]
    alone = {"GIT_CEILING_DIRECTORIES": str(source.parent)}  # no repository around it is llama.cpp's
    run([*argv, *(f"-D{name}={value}" for name, value in defined.items())], timeout_s=CONFIGURE_TIMEOUT_S, env=alone)
    run(["cmake", "--build", target, "-j", str(jobs), "--target", *TARGETS], timeout_s=BUILD_TIMEOUT_S, env=alone)


def features_of(flags: str) -> list[str]:
    """Return what the compiler says of this processor, as far as it matters here."""
    argv = ["c++", "-march=native", *flags.split(), "-dM", "-E", "-x", "c++", os.devnull]
    names = [line.split()[1].strip("_") for line in run(argv, timeout_s=30).stdout.splitlines()]
    return sorted({name for name in names if any(each in name for each in FEATURES)})


def facts_of(folder: Path) -> Mapping[str, Any]:
    """Return how a folder was built."""
    facts: Mapping[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return facts


# -- the server --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a server is started."""

    model: Path
    slots: int
    context_tokens: int
    """Of each slot."""
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server."""

    url: str
    process_id: int
    version: str


@contextmanager
def serving(build_folder: str, wanted: Wanted) -> Iterator[Server]:
    """Run the server of one build, `DIR/plain` or `DIR/amx`, or that of the wheel, in this process."""
    if build_folder == WHEEL:
        server = _wheel(wanted)
        number = getattr(sys.modules["xllamacpp"], "BUILD_INFO", {}).get("build_number")
        yield Server(url=server.listening_address, process_id=os.getpid(), version=f"xllamacpp, build {number}")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv: list[str | Path] = [Path(build_folder) / "bin/llama-server", "-m", wanted.model, "--host", "127.0.0.1"]
    argv += ["--port", str(port), "-np", str(wanted.slots), "-c", str(wanted.slots * wanted.context_tokens)]
    argv += ["-t", str(wanted.threads), "-tb", str(wanted.threads)]
    argv += ["--no-jinja", "--chat-template", "chatml"]  # no conversations here, so no model's template is parsed
    with tempfile.TemporaryFile() as said, spawn(argv, stdout=said, stderr=said) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(url, process, lambda: _tail(said))
        yield Server(url=url, process_id=process.pid, version=f"llama-cpp-python {VERSION}, from source")


def _wheel(wanted: Wanted) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(wanted.model)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = wanted.slots
    params.n_ctx = wanted.slots * wanted.context_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = wanted.threads
    return xllamacpp.Server(params)


def _wait(url: str, process: Spawned, said: Callable[[], str]) -> None:
    """Wait until the server answers."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 -- an address of this machine
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"llama-server does not answer: {said()}")


def _tail(file: Any) -> str:
    file.seek(0)
    return bytes(file.read())[-1000:].decode(errors="replace")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args(arguments)
    print(build(given.folder, jobs=given.jobs, has_amx="amx_tile" in machine()["isa"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
