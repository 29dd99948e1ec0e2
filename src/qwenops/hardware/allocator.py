"""Memory that this process holds without needing it: what the C library keeps, and pages of mapped files."""

import ctypes
from pathlib import Path

_MADV_DONTNEED = 4


def give_memory_back() -> None:
    """Return to the system what was needed for a moment; C libraries other than glibc do it by themselves or not."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def forget_file(path: Path, maps: Path = Path("/proc/self/maps")) -> None:
    """Let go of the pages of a mapped file that are in memory; what is read again comes back from the file.

    OpenVINO keeps the weight file mapped, but computes with its own repacked copy. Does nothing where there is no such
    list of mappings, and nothing to a mapping that could have been written to.
    """
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in lines:
        where, permissions, *_, name = (*line.split(maxsplit=5), "")[:6]
        if name.strip() == str(path.resolve()) and permissions.startswith("r-"):
            begin, end = (int(each, 16) for each in where.split("-"))
            advise(begin, end - begin, _MADV_DONTNEED)
