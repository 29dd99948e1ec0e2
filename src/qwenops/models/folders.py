"""A folder that is there whole or not at all.

A writer fills a hidden sibling of the target and takes its name at the end. Where the kernel and the file system can
exchange two names at once, there is no moment without a whole folder; elsewhere the old one steps aside for a moment,
and after a crash in that moment the next writer or cleaning puts it back. Who works on a hidden sibling holds a lock on
it; one that nobody holds was left by a crash and is removed.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qwenops.errors import InsufficientDiskError
from qwenops.text import say

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write says when there is no room: disk, quota, or the largest file that is allowed."""

_NEW, _OLD = ".tmp", ".old"
_HERE, _RENAME_EXCHANGE = -100, 2
"""AT_FDCWD and the flag of renameat2(2)."""


@contextmanager
def new_folder(target: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` when the block ends without an error.

    Raises:
        InsufficientDiskError: Less than `needed_bytes` are free, or the disk ran full in the block.
    """
    target = target.absolute()
    with _full_disk_said(target.parent, needed_bytes):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_left_overs(target)
        require_disk(target.parent, needed_bytes)
        folder, lock = _locked_sibling(target)
    try:
        with _full_disk_said(target.parent, needed_bytes):
            yield folder
            _take_place(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def _full_disk_said(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Make an error of this program of what the system says when a disk has no room, or no place for one more name."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(folder, needed_bytes) from error
        raise


def require_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse when fewer than `needed_bytes` are free where `folder` is.

    Raises:
        InsufficientDiskError: There is not enough room.
    """
    if shutil.disk_usage(folder).free < needed_bytes:
        raise disk_full(folder, needed_bytes)


def disk_full(folder: Path, needed_bytes: int) -> InsufficientDiskError:
    """Make the error that says how much room is missing where `folder` is."""
    free = shutil.disk_usage(folder).free
    return InsufficientDiskError(
        say(
            "Writing into {folder} needs {needed:.2f} GiB, and {free:.2f} GiB are free.",
            folder=str(folder),
            needed=needed_bytes / 1024**3,
            free=free / 1024**3,
        ),
        needed_bytes=needed_bytes,
        available_bytes=free,
        hint=say("Free disk space there, or put the models elsewhere with QWENOPS_HOME."),
    )


def remove_left_overs(target: Path) -> None:
    """Remove what crashed writers of `target` left behind; what is still being worked on stays.

    An old folder that had stepped aside is put back when no new one has taken its place.
    """
    for folder in (*target.parent.glob(f".{target.name}.*{_NEW}"), *target.parent.glob(f".{target.name}.*{_OLD}")):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.suffix == _OLD and not target.exists():
                folder.rename(target)
            else:
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _locked_sibling(target: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_NEW, dir=target.parent))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # else another writer took it for a left-over before the lock was held
            folder.chmod(0o755)
            return folder, lock
        os.close(lock)


def _take_place(folder: Path, target: Path) -> None:
    _sync_small_files(folder)
    if not target.exists():
        folder.rename(target)
        return
    if _exchange(folder, target):
        return  # what is called `folder` now is the old one, and goes
    old = folder.with_suffix(_OLD)
    lock = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # else another writer could take it for one that a crash left
        target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths swap their names in one step; says no where that is not possible."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        return False
    return bool(exchange(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _sync_small_files(folder: Path) -> None:
    """Make the descriptions durable before the rename; the large files' sizes and hashes stand in them."""
    for path in folder.iterdir():
        if path.suffix in {".json", ".jinja", ".xml"}:
            with path.open("rb") as file:
                os.fsync(file.fileno())
