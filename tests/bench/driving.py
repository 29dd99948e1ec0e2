"""What the tests of sending, driving and running share: asks, lines and targets whose answers are known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenops.bench.clock import Clock
from qwenops.bench.drive import Course
from qwenops.bench.record import Phase, RequestRecord
from qwenops.bench.send import Line
from qwenops.bench.target import Target
from qwenops.bench.workload import Ask
from qwenops.engines.remote import OnMoment
from qwenops.engines.seam import Engine
from qwenops.generation import Message, Messages, SamplingParams

MS = 1_000_000
S = 1_000_000_000


def ask(index: int = 0, *, max_tokens: int = 4, text: str = "") -> Ask:
    return Ask(
        item=f"item-{index}",
        messages=Messages(messages=(Message(role="user", content=text or f"question {index} please"),)),
        sampling=SamplingParams(max_tokens=max_tokens),
        prompt_hash=f"hash-{index}",
    )


def target_of(engine: Engine, listen: Callable[[OnMoment | None], None] = lambda _hook: None) -> Target:
    return Target(text="test", kind="in-process", engine=engine, model="test", listen_moments=listen)


@dataclass
class Asks:
    """A workload of equal requests."""

    max_tokens: int = 4
    name: str = "asks"
    facts: Mapping[str, Any] = field(default_factory=lambda: {"kind": "asks"})
    arrivals_ns: Sequence[int] | None = None

    def ask(self, index: int) -> Ask:
        return ask(index, max_tokens=self.max_tokens)

    def warmup(self, index: int) -> Ask:
        return ask(-1 - index, max_tokens=self.max_tokens)


@dataclass
class Kept:
    """A course whose records are kept in a list."""

    line: Line
    records: list[RequestRecord] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    max_tokens: int = 4

    def course(self, **more: Any) -> Course:
        return Course(
            line=self.line,
            prepare=lambda position: self.line.errand(
                ask(position, max_tokens=self.max_tokens), index=position, segment="test", phase=Phase.MEASURE
            ),
            keep=self.records.append,
            drop=self.dropped.append,
            **more,
        )


def line_to(engine: Engine, clock: Clock, **more: Any) -> Line:
    return Line(target_of(engine), clock, clock.now_ns(), **more)
