"""Files that a reader sees whole: the old text or the new one, also after a crash."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write `text` beside `path`, make it durable, and let it take the place of `path`.

    Args:
        path: The file; its folder is made if there is none.
        text: What it shall hold, as UTF-8.
        mode: Who may read and write it, less what the process's umask forbids.
    """
    with whole_file(path, mode=mode) as out:
        out.write(text.encode("utf-8"))


@contextlib.contextmanager
def whole_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Yield a file beside `path` to write to; at the end it is made durable and takes the place of `path`.

    An error within the block leaves `path` as it was.

    Args:
        path: The file; its folder is made if there is none.
        mode: Who may read and write it, less what the process's umask forbids.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two writers never share a name; one that died left a file that the next of its number overwrites.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(descriptor)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
