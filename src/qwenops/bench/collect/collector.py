"""What every collector is: something that hands samples to a journal while a run goes on."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Sample = Mapping[str, Any]
"""Plain data; has `schema` and `at_ns`, nanoseconds since the run's origin."""
Listen = Callable[[Sample], None]


class Collector(Protocol):
    """Takes samples beside a run."""

    @property
    def journal(self) -> str:
        """Name of the journal its samples belong to: `host` or `engine`."""
        ...

    def watching(self, origin_ns: int, listen: Listen) -> AbstractAsyncContextManager[None]:
        """Take samples until the block is left, and hand each to `listen` in the event loop's thread.

        Args:
            origin_ns: The run's origin on the clock the collector was made with.
            listen: Gets each sample; the last one is taken when the block is left.
        """
        ...
