"""One measurement from its beginning to its folder: what every command of `qwenops bench` is written with.

    async with begin("load", {"": target}, options, clock=clock) as run:
        conclusion = await load(run)
        finish(run, conclusion)

A command is a sequence of segments. `Run.drive` runs one and writes its records as they end. When a run is continued,
segments that are over are answered from the journal and the command goes on where it was, so that commands need to
know nothing about it. The run's own time stands still between two sittings; the gap is marked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from qwenops.bench.clock import Clock
from qwenops.bench.conclusion import Conclusion
from qwenops.bench.folder import RunFolder
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Phase, RequestRecord
from qwenops.bench.segment import Driven, Segment
from qwenops.bench.target import Target
from qwenops.bench.validity import Validity

Keep = Callable[[Literal["host", "engine"], Mapping[str, Any]], None]
"""Takes a sample for one of the two journals; the sample has `at_ns`, since the run's origin."""


class Collector(Protocol):
    """Looks at something while the run runs."""

    def watching(self, now_ns: Callable[[], int], keep: Keep) -> AbstractAsyncContextManager[object]:
        """Take samples until the context is left; `now_ns` reads the run's own time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How a run is going, for a live view."""

    verb: str
    elapsed_s: float
    expected_s: float | None
    """How long the whole run is expected to take; None when nobody knows."""
    segment: str
    phase: Phase
    target: str = ""
    target_rate: float | None = None
    users: int | None = None
    achieved_rate: float = 0.0
    """Requests sent per second in the segment so far."""
    segment_elapsed_s: float = 0.0
    segment_expected_s: float | None = None
    sent: int = 0
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    dropped: int = 0
    recent_ttft_s: tuple[float, ...] = ()
    """Of the last answers, oldest first; at most 60."""
    recent_e2e_s: tuple[float, ...] = ()
    validity: Validity = field(default_factory=Validity)
    host: Mapping[str, Any] = field(default_factory=dict)
    """The latest sample of the host."""
    resumed: bool = False


Listen = Callable[[Snapshot], None]


def ignore(_snapshot: Snapshot) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a run is opened, besides what is measured."""

    out: Path | None = None
    """The run's folder by name (`--out`); else a new one in `options.folder`."""
    resume_from: Path | None = None
    command: tuple[str, ...] = ()
    """As it was typed, for the manifest; must hold no secret."""
    calibrate_s: float = 3.0
    """How long the client measures itself first; never in virtual time."""
    tick_s: float = 0.5
    """How often the listener is told."""


class Run:
    """A measurement under way."""

    folder: RunFolder
    targets: Mapping[str, Target]
    workload: Any
    """`workload.Workload`: what is asked."""
    clock: Clock
    options: BenchOptions
    stop: asyncio.Event
    """Set it to end the run early: sending stops, what is in flight gets a moment, the rest is given up."""
    expected_s: float | None
    """A command that knows how long it will take says so here, for the live view."""

    def now_ns(self) -> int:
        """Return the run's own time: nanoseconds since its origin, without the gaps between sittings."""
        raise NotImplementedError

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before its end."""
        return self.stop.is_set()

    async def drive(
        self, segment: Segment, target: str = "", *, each: Callable[[RequestRecord], None] | None = None
    ) -> Driven:
        """Run one segment against one of the targets and return what came of it.

        Args:
            segment: What to send.
            target: Which target; the only one needs no name.
            each: Is told each record as it ends, also those of an earlier sitting; then the returned `Driven` holds no
                records, so that a run of hours needs no more memory than one of minutes.
        """
        raise NotImplementedError

    def validity(self) -> Validity:
        """Judge the client so far."""
        raise NotImplementedError


@asynccontextmanager
async def begin(
    verb: str,
    targets: Mapping[str, Target],
    options: BenchOptions,
    *,
    clock: Clock | None = None,
    listen: Listen = ignore,
    collectors: Sequence[Collector] = (),
    workload: Any = None,
    opening: Opening | None = None,
) -> AsyncIterator[Run]:
    """Open a run's folder, measure the client, watch the host, and give the run out.

    Raises:
        RunFolderError: The folder is in use, damaged, or of a run with other options.
        InsufficientDiskError: There is no room for it.
    """
    raise NotImplementedError
    yield Run()


def finish(run: Run, conclusion: Conclusion) -> Conclusion:
    """Write the summary and the manifest's end; return the conclusion with the verdict on the client in it."""
    raise NotImplementedError
