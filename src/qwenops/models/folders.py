"""A folder that is there whole or not at all.

A writer fills a hidden sibling of the target and renames it at the end, so a crash in the middle leaves the old folder
untouched. The writer holds a lock on its sibling; one that nobody holds was left by a crash and is removed by the next
writer.
"""

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


@contextmanager
def new_folder(target: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` when the block ends without an error.

    Raises:
        InsufficientDiskError: Less than `needed_bytes` are free, or the disk ran full in the block.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_left_overs(target)
    require_disk(target.parent, needed_bytes)
    folder, lock = _locked_sibling(target)
    try:
        yield folder
        _take_place(folder, target)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(target.parent, needed_bytes) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


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
    """Remove what crashed writers of `target` left behind; a sibling that is still being filled stays."""
    for folder in target.parent.glob(f".{target.name}.*.tmp"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _locked_sibling(target: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
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
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    target.rename(old)  # a rename may replace an empty folder
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _sync_small_files(folder: Path) -> None:
    """Make the descriptions durable before the rename; the large files' sizes and hashes stand in them."""
    for path in folder.iterdir():
        if path.suffix in {".json", ".jinja", ".xml"}:
            with path.open("rb") as file:
                os.fsync(file.fileno())
