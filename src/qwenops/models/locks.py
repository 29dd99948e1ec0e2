"""Locks between processes: a file for each thing that only one may do at a time. A process that dies lets go."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import filelock

from qwenops.errors import DeadlineError
from qwenops.text import say

POLL_S = 0.1
LONGEST_WAIT_S = 6 * 3600.0


@contextmanager
def held(path: Path, waiting: Callable[[], None], *, timeout_s: float = LONGEST_WAIT_S) -> Iterator[None]:
    """Hold the lock at `path`; `waiting` is called at each look while another process has it.

    A thread that waits cannot be cancelled; `waiting` can raise, which ends the wait.

    Raises:
        DeadlineError: The other one did not let go within `timeout_s`.
    """
    lock = _lock(path)
    deadline_s = time.monotonic() + timeout_s
    while not _taken(lock):
        waiting()
        if time.monotonic() >= deadline_s:
            raise _too_long(path, timeout_s)
        time.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()


@asynccontextmanager
async def held_async(
    path: Path, waiting: Callable[[], None], *, timeout_s: float = LONGEST_WAIT_S
) -> AsyncIterator[None]:
    """Hold the lock at `path` without holding up the loop; see `held`."""
    lock = _lock(path)
    deadline_s = time.monotonic() + timeout_s
    while not _taken(lock):
        waiting()
        if time.monotonic() >= deadline_s:
            raise _too_long(path, timeout_s)
        await asyncio.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Yield whether the lock could be taken at once; it is held inside the block if so."""
    lock = _lock(path)
    taken = _taken(lock)
    try:
        yield taken
    finally:
        if taken:
            lock.release()


def _lock(path: Path) -> filelock.BaseFileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(path, thread_local=False)


def _taken(lock: filelock.BaseFileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return False
    return True


def _too_long(path: Path, timeout_s: float) -> DeadlineError:
    return DeadlineError(
        say("Another process has held {lock} for more than {seconds:.0f} s.", lock=path, seconds=timeout_s),
        hint=say("Wait for it, or end it and try again."),
    )
