"""What the client adds to every figure: it measures streams in this process whose times are known exactly."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

from qwenops.bench.clock import Clock
from qwenops.bench.record import Phase, RequestRecord
from qwenops.bench.send import Line
from qwenops.bench.target import Target
from qwenops.bench.validity import Calibration
from qwenops.bench.workload import Ask
from qwenops.engines.seam import EngineInfo
from qwenops.generation import Chunk, FinishReason, GenerationRequest, Message, Messages, SamplingParams, Usage

STREAMS = 8
TOKENS_PER_S = 40
NS_PER_S = 1_000_000_000


class NullEngine:
    """An engine that sends a chunk at exact times and does nothing else.

    Args:
        clock: Whose times they are.
        tokens_per_s: Chunks per second of each stream.
    """

    def __init__(self, clock: Clock, tokens_per_s: float = TOKENS_PER_S) -> None:
        """Begin with no streams."""
        self.due_ns: dict[str, list[int]] = {}
        """When each chunk of a request was due, on the clock."""
        self._clock = clock
        self._gap_ns = round(NS_PER_S / tokens_per_s)

    @property
    def info(self) -> EngineInfo:
        """Describe it."""
        return EngineInfo(engine="null", model="null", accepts="both", context_tokens=1 << 20)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Send `max_tokens` chunks, evenly spaced."""
        due = self.due_ns[request.id] = []
        at_ns = self._clock.now_ns()
        for count in range(1, request.sampling.max_tokens + 1):
            at_ns += self._gap_ns
            await self._clock.sleep_until_ns(at_ns)
            due.append(at_ns)
            if count < request.sampling.max_tokens:
                yield Chunk(text="x")
        usage = Usage(prompt_tokens=1, completion_tokens=request.sampling.max_tokens)
        yield Chunk(text="x", finish_reason=FinishReason.LENGTH, usage=usage)

    async def aclose(self) -> None:
        """Hold nothing."""


async def calibrate(clock: Clock, duration_s: float, *, streams: int = STREAMS) -> Calibration:
    """Measure known streams for about `duration_s` seconds, and return how far off the client was."""
    engine = NullEngine(clock)
    line = Line(
        Target(text="null", kind="in-process", engine=engine, model="null"), clock, 0, timeout_s=60 + duration_s
    )
    num_tokens = max(2, round(duration_s * TOKENS_PER_S))
    ask = Ask(
        item="null",
        messages=Messages(messages=(Message(role="user", content="x"),)),
        sampling=SamplingParams(max_tokens=num_tokens),
        prompt_hash="",
    )
    errands = [line.errand(ask, index=index, segment="calibration", phase=Phase.WARMUP) for index in range(streams)]
    cpu_ns = time.process_time_ns()
    records = await asyncio.gather(*(line.send(each, clock.now_ns()) for each in errands))
    cpu_ns = time.process_time_ns() - cpu_ns
    firsts, gaps = [], []
    for errand, record in zip(errands, records, strict=True):
        due = engine.due_ns[errand.request.id]
        if record.first_content_ns is not None:
            firsts.append((record.first_content_ns - due[0]) / NS_PER_S)
        gaps.extend(_gap_errors_s(record, due))
    firsts.sort()
    gaps.sort()
    chunks = sum(record.num_chunks for record in records)
    return Calibration(
        bias_ttft_s=firsts[len(firsts) // 2],
        bias_gap_s=gaps[int(0.99 * (len(gaps) - 1))],
        cost_per_chunk_s=cpu_ns / NS_PER_S / chunks,
        chunks=chunks,
    )


def _gap_errors_s(record: RequestRecord, due_ns: list[int]) -> list[float]:
    """Return how far each gap was off, without its sign."""
    true_ns = [later - earlier for earlier, later in itertools.pairwise(due_ns)]
    return [abs(seen_us * 1000 - true) / NS_PER_S for seen_us, true in zip(record.chunk_gaps_us, true_ns, strict=True)]
