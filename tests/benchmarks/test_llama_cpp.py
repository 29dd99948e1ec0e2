"""llama.cpp is built from the source that is meant, with what the processor has; its server is waited for and ended."""

import io
import json
import os
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import llama_cpp

SERVER = """#!{python} -I
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

sys.argv.remove("--no-jinja")
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert given["-c"] == "6000" and given["-np"] == "3" and given["-t"] == given["-tb"] == "2", given
print("loading", given["-m"], flush=True)
if given["-m"] == "broken.gguf":
    sys.exit("no such model")
HTTPServer((given["--host"], int(given["--port"])), Answer).serve_forever()
"""


def archive(path: Path) -> Path:
    """Write what a source distribution looks like."""
    with tarfile.open(path, "w:gz") as packed:
        info = tarfile.TarInfo(f"{llama_cpp.INSIDE}/CMakeLists.txt")
        info.size = 3
        packed.addfile(info, io.BytesIO(b"abc"))
    return path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stand in for pip, cmake and the compiler; keep what they were asked."""
    kept: list[list[str]] = []

    def run(argv: Sequence[str | Path], **_more: Any) -> SimpleNamespace:
        words = list(map(str, argv))
        kept.append(words)
        if "download" in words:
            archive(Path(words[words.index("-d") + 1]) / "llama_cpp_python.tar.gz")
        macros = "#define __AVX512VNNI__ 1\n#define __AMX_TILE__ 1\n#define __SSE__ 1\n"
        return SimpleNamespace(stdout=macros if "-dM" in words else "c++ 12.2.0\n")

    monkeypatch.setattr(llama_cpp, "run", run)
    return kept


@pytest.mark.parametrize("has_amx", [False, True])
def test_a_processor_with_amx_gets_two_builds(
    tmp_path: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, *, has_amx: bool
) -> None:
    monkeypatch.setattr(llama_cpp, "fetch", lambda folder: folder / llama_cpp.INSIDE)
    facts = json.loads(llama_cpp.build(tmp_path, jobs=3, has_amx=has_amx).read_text())
    assert facts["sha256"] == llama_cpp.SHA256
    assert facts["compiler"] == "c++ 12.2.0"
    assert llama_cpp.facts_of(tmp_path) == facts
    flags = {name: each["extra_flags"] for name, each in facts["builds"].items()}
    assert flags == ({"plain": llama_cpp.WITHOUT_AMX, "amx": ""} if has_amx else {"plain": ""})
    assert facts["builds"]["plain"]["features"] == ["AMX_TILE", "AVX512VNNI"]
    configured = [words for words in ran if "-S" in words]
    assert [Path(words[words.index("-B") + 1]).name for words in configured] == list(flags)
    assert all("-DGGML_NATIVE=ON" in words and "-DCMAKE_BUILD_TYPE=Release" in words for words in configured)
    assert next(words for words in ran if "--build" in words)[3:6] == ["-j", "3", "--target"]


def test_another_source_than_the_known_one_is_refused(tmp_path: Path, ran: list[list[str]]) -> None:
    with pytest.raises(RuntimeError, match=f"instead of {llama_cpp.SHA256}"):
        llama_cpp.fetch(tmp_path)
    assert f"llama-cpp-python=={llama_cpp.VERSION}" in ran[0]
    assert list(tmp_path.iterdir()) == [], "nothing of it stays"


def test_the_known_source_is_unpacked_once(
    tmp_path: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = SimpleNamespace(hexdigest=lambda: llama_cpp.SHA256)
    monkeypatch.setattr("benchmarks.llama_cpp.hashlib.sha256", lambda _content: digest)
    found = llama_cpp.fetch(tmp_path)
    assert (found / "CMakeLists.txt").read_text() == "abc"
    assert llama_cpp.fetch(tmp_path) == found
    assert len(ran) == 1


def started(folder: Path) -> Path:
    """Write a program that stands for llama-server."""
    program = folder / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text(SERVER.format(python=sys.executable))
    program.chmod(0o755)
    return folder


def test_a_server_is_waited_for_and_ended(tmp_path: Path) -> None:
    wanted = llama_cpp.Wanted(model=Path("some.gguf"), slots=3, context_tokens=2000, threads=2)
    with llama_cpp.serving(str(started(tmp_path)), wanted) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert llama_cpp.VERSION in server.version
        os.kill(server.process_id, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.process_id, 0)


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    wanted = llama_cpp.Wanted(model=Path("broken.gguf"), slots=3, context_tokens=2000, threads=2)
    with (
        pytest.raises(RuntimeError, match="no such model"),
        llama_cpp.serving(str(started(tmp_path)), wanted),
    ):
        pass
