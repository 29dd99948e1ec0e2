"""Install torch, and say first what that downloads.

pip decides what torch needs on this machine (`pip install --dry-run --report`). The sizes come from the index itself,
one small request for each file; a size that the index does not tell stays unknown. On a machine without an NVIDIA GPU a
CUDA build is announced together with the way to the CPU build, since it is several times larger and of no use there.
Nothing is printed when the wanted version is installed already.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIREMENT = "torch==2.13.0"
TIMEOUT_S = 15
INSTALL_TIMEOUT_S = 3600
CUDA_NAMES = ("nvidia-", "cuda-", "triton", "pytorch-triton")
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version")

CPU_HINT = """\
This machine has no NVIDIA GPU, and {count} of these packages are for CUDA. The CPU build is far smaller:
    Put TORCH_INDEX=https://download.pytorch.org/whl/cpu behind the same make command.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file that pip would fetch; `num_bytes` is None when the index does not say."""

    name: str
    version: str
    url: str
    num_bytes: int | None

    @property
    def is_cuda(self) -> bool:
        """Whether it is of use on NVIDIA GPUs only."""
        return self.name.lower().startswith(CUDA_NAMES) or "+cu" in self.version


def installed_version(name: str = "torch") -> str | None:
    """Return the version that is installed, without a local suffix such as `+cpu`."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def pip_argv(index: str, *more: str) -> list[str]:
    """Return the command line of pip; without an index it takes the one that is configured."""
    source = ["--index-url", index] if index else []
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *source, *more, REQUIREMENT]


def planned(report: Mapping[str, Any], size_of: Callable[[str], int | None]) -> list[Download]:
    """Return what a report of pip would download."""
    found = []
    for item in report["install"]:
        url = item["download_info"]["url"]
        meta = item["metadata"]
        found.append(Download(name=meta["name"], version=meta["version"], url=url, num_bytes=size_of(url)))
    return found


def size_of(url: str) -> int | None:
    """Return what the server says about the length of a file; None when it does not say."""
    if not url.startswith(("http://", "https://")):
        path = Path(urllib.request.url2pathname(url.removeprefix("file://")))
        return path.stat().st_size if path.is_file() else None
    # Some indexes answer HEAD without a length; the answer to a request for the first byte tells the whole.
    for method, headers, told in (("HEAD", {}, "Content-Length"), ("GET", {"Range": "bytes=0-0"}, "Content-Range")):
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 -- checked above
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 -- checked above
                length = (answer.headers.get(told) or "").rpartition("/")[2]
        except OSError:
            continue
        if length.isdigit():
            return int(length)
    return None


def summary(downloads: Sequence[Download]) -> str:
    """Say in one line what is about to be fetched."""
    known = [each.num_bytes for each in downloads if each.num_bytes is not None]
    count = len(downloads)
    if not known:
        return f"{REQUIREMENT} brings {count} packages; the size of the download is unknown."
    size = f"{sum(known) / 2**20:,.0f} MiB"
    missing = [each.name for each in downloads if each.num_bytes is None]
    rest = f", and {', '.join(missing)} of unknown size" if missing else ""
    return f"{REQUIREMENT} brings {count} packages: {size} to download{rest}."


def cuda_warning(downloads: Sequence[Download], *, has_gpu: bool) -> str:
    """Return the warning about a CUDA build on a machine without a GPU; empty when there is nothing to warn of."""
    count = sum(each.is_cuda for each in downloads)
    return CPU_HINT.format(count=count) if count and not has_gpu else ""


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """Whether an NVIDIA driver runs here."""
    return any((root / device.lstrip("/")).exists() for device in GPU_DEVICES)


def read_report(index: str) -> dict[str, Any]:
    """Ask pip what it would install; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        argv = pip_argv(index, "--quiet", "--dry-run", "--report", str(path))
        subprocess.run(argv, check=True, timeout=INSTALL_TIMEOUT_S)
        report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Install torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", default="", help="package index to take torch from, instead of pip's own")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be downloaded")
    options = parser.parse_args(argv)
    if installed_version() == REQUIREMENT.partition("==")[2]:
        return 0
    try:
        downloads = planned(read_report(options.index), size_of)
        print(summary(downloads))
        print(cuda_warning(downloads, has_gpu=has_nvidia_gpu()), end="", flush=True)
        if not options.dry_run:
            subprocess.run(pip_argv(options.index, "--quiet"), check=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        print(f"pip failed (exit {error.returncode}); its message stands above.", file=sys.stderr)
        return 1
    except subprocess.TimeoutExpired:
        print(f"pip took longer than {INSTALL_TIMEOUT_S} s.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
