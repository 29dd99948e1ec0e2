"""The machine during a run: who used its CPU, memory and disk, and what held them back."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from qwenops.bench.clock import Clock
from qwenops.bench.collect.collector import Listen

SCHEMA = "qwenops.host/1"


class HostWatch:
    """Takes a sample of the host at equal times; a `Collector`.

    Args:
        process_ids: The server's processes, read anew at each sample; their children are found by themselves.
        clock: The run's clock. With a virtual one nothing is sampled: no machine is as old as it says.
        every_s: Time between samples.
        root: The folder that holds `proc` and `sys`.
        disk: Whose free space is told.
    """

    journal = "host"

    def __init__(
        self,
        process_ids: Callable[[], tuple[int, ...]],
        clock: Clock,
        *,
        every_s: float = 1.0,
        root: Path = Path("/"),
        disk: Path = Path(),
    ) -> None:
        """Remember what to look at; nothing is read yet."""
        self._process_ids = process_ids
        self._clock = clock
        self._every_s = every_s
        self._root = root
        self._disk = disk

    @asynccontextmanager
    async def watching(self, origin_ns: int, listen: Listen) -> AsyncIterator[None]:
        """Sample until the block is left."""
        yield
