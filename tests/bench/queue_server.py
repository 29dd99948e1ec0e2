"""A queue of known law that a command can drive as it drives a run: time passes at once, and records come back."""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Failure, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment

S = 1_000_000_000


@dataclass(slots=True, kw_only=True)
class QueueServer:
    """Exponential services: `servers` lines first come first served, or one that all who are there share.

    The first token comes when a service begins (with sharing: with the last one); a share of the requests fails.
    """

    service_s: float
    servers: int = 1
    discipline: Literal["lines", "sharing"] = "lines"
    seed: int = 1
    fail_share: float = 0.0
    options: BenchOptions = field(default_factory=BenchOptions)
    expected_s: float | None = None
    now_s: float = 0.0
    most_present: int = 0
    segments: list[Segment] = field(default_factory=list)
    drivens: list[Driven] = field(default_factory=list)
    stop_after: int | None = None
    """Segments after which the run is interrupted."""

    async def drive(self, segment: Segment, target: str = "", *, overload: bool = False) -> Driven:
        assert overload
        assert not target
        self.segments.append(segment)
        began_s = self.now_s
        flow = _Flow(self, np.random.default_rng((self.seed, len(self.segments))), segment)
        flow.run()
        self.now_s = began_s + flow.now_s
        self.most_present = max(self.most_present, flow.most_present)
        window_s = segment.duration_s or flow.now_s
        driven = Driven(
            segment=segment,
            began_ns=round(began_s * S),
            window_ns=round(window_s * S),
            ended_ns=round(self.now_s * S),
            records=tuple(
                self._record(segment, index, began_s, *times) for index, times in sorted(flow.finished.items())
            ),
            dropped=flow.dropped,
            interrupted=self.stop_after is not None and len(self.segments) >= self.stop_after,
        )
        self.drivens.append(driven)
        return driven

    def _record(
        self, segment: Segment, index: int, began_s: float, came_s: float, started_s: float, ended_s: float
    ) -> RequestRecord:
        came_ns, first_ns, last_ns = (round((began_s + each) * S) for each in (came_s, started_s, ended_s))
        failed = math.fmod((index + 1) * self.fail_share, 1.0) < self.fail_share
        return RequestRecord(
            index=index,
            segment=segment.name,
            phase=segment.phase,
            item=str(index),
            prompt_hash="",
            scheduled_ns=came_ns,
            sent_ns=came_ns,
            first_content_ns=None if failed else first_ns,
            first_answer_ns=None if failed else first_ns,
            last_content_ns=None if failed else last_ns,
            ended_ns=last_ns,
            completion_tokens=1,
            failure=Failure.FAILED if failed else None,
        )


class _Flow:
    """One segment through the queue."""

    def __init__(self, server: QueueServer, random: np.random.Generator, segment: Segment) -> None:
        self.server, self.segment, self.random = server, segment, random
        self.now_s = 0.0
        self.finished: dict[int, tuple[float, float, float]] = {}
        self.dropped = 0
        self.most_present = 0
        self._present: dict[int, tuple[float, float]] = {}
        self._ends: list[tuple[float, int]] = []
        self._waiting: deque[int] = deque()
        self._progress = 0.0
        self._number = 0

    def run(self) -> None:
        load = self.segment.load
        end_s = self.segment.duration_s if self.segment.duration_s is not None else math.inf
        if isinstance(load, ClosedLoop):
            for _ in range(load.users):
                self._arrive()
            while self._present:
                self._finish()
                if self.now_s < end_s and (load.requests is None or self._number < load.requests):
                    self._arrive()
            return
        assert isinstance(load, OpenLoop)
        for offset_ns in load.offsets_ns:
            due_s = offset_ns / S
            while self._ends and self._next_end_s() <= due_s:
                self._finish()
            self._pass(due_s)
            most = self.segment.max_in_flight
            if most is not None and len(self._present) >= most:
                self.dropped += 1
                self._number += 1
            else:
                self._arrive()
        while self._present:
            self._finish()
        self.now_s = max(self.now_s, end_s if end_s < math.inf else 0.0)

    def _next_end_s(self) -> float:
        left = self._ends[0][0]
        if self.server.discipline == "lines":
            return left
        return self.now_s + (left - self._progress) * len(self._present)

    def _pass(self, to_s: float) -> None:
        if self._present and self.server.discipline == "sharing":
            self._progress += (to_s - self.now_s) / len(self._present)
        self.now_s = to_s

    def _arrive(self) -> None:
        number, self._number = self._number, self._number + 1
        self._present[number] = (self.now_s, math.nan)
        self.most_present = max(self.most_present, len(self._present))
        if self.server.discipline == "sharing":
            heapq.heappush(self._ends, (self._progress + self._service_s(), number))
        elif len(self._ends) < self.server.servers:
            self._begin(number)
        else:
            self._waiting.append(number)

    def _begin(self, number: int) -> None:
        self._present[number] = (self._present[number][0], self.now_s)
        heapq.heappush(self._ends, (self.now_s + self._service_s(), number))

    def _service_s(self) -> float:
        return float(self.random.exponential(self.server.service_s))

    def _finish(self) -> None:
        at_s = self._next_end_s()
        self._pass(at_s)
        _, number = heapq.heappop(self._ends)
        came_s, started_s = self._present.pop(number)
        self.finished[number] = (came_s, at_s if math.isnan(started_s) else started_s, at_s)
        if self._waiting:
            self._begin(self._waiting.popleft())
