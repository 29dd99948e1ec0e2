"""What the client adds to every figure: it measures streams whose times are known exactly.

Where a server is measured, the streams come over HTTP from a process on this machine, which notes when it hands each
chunk to the operating system; so network stack, event loop and parser are in it, as they are in every figure. Where
the model is computed in this process, the streams come from within it too.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence

from qwenops.bench.clock import Clock
from qwenops.bench.record import NS_PER_S, Phase, RequestRecord
from qwenops.bench.send import Line
from qwenops.bench.simulated.process import simulated_process
from qwenops.bench.target import Target
from qwenops.bench.validity import Calibration
from qwenops.bench.workload import Ask
from qwenops.engines.openai import api_url, open_server
from qwenops.engines.remote import Remote
from qwenops.engines.seam import EngineInfo
from qwenops.errors import EngineUnavailableError, QwenOpsError
from qwenops.generation import Chunk, FinishReason, GenerationRequest, Message, Messages, SamplingParams, Usage
from qwenops.text import say

STREAMS = 8
TOKENS_PER_S = 40
STAGGER_NS = 20_000_000
"""Between the starts of two streams, so that none waits for another's head."""
MODEL = f"simulated:?slots=64&contention=0&coherence=0&prefill_tokens_per_s=0&decode_tokens_per_s={TOKENS_PER_S}"


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


async def calibrate(clock: Clock, duration_s: float, *, over_http: bool = False, streams: int = STREAMS) -> Calibration:
    """Measure known streams for about `duration_s` seconds, and return how far off the client was.

    Args:
        clock: Where moments come from; over HTTP it must be the machine's.
        duration_s: How long a stream lasts.
        over_http: Whether they come from another process. Where that cannot be started, they come from this one.
        streams: How many at the same time.
    """
    if over_http:
        try:
            return await _over_http(clock, duration_s, streams)
        except (QwenOpsError, OSError):
            pass  # what it finds instead says that no network was in it
    return await _in_process(clock, duration_s, streams)


async def _in_process(clock: Clock, duration_s: float, streams: int) -> Calibration:
    engine = NullEngine(clock)
    target = Target(text="null", kind="in-process", engine=engine, model="null")
    records, cpu_s = await _sent(target, clock, duration_s, streams, stagger_ns=0)
    due_ns = [engine.due_ns[f"bench-{record.index}"] for record in records]
    return _calibration(records, due_ns, cpu_s, over_http=False)


async def _over_http(clock: Clock, duration_s: float, streams: int) -> Calibration:
    async with simulated_process(MODEL) as url:
        engine = await open_server(Remote(api_url(url)))
        try:
            target = Target(
                text=url,
                kind="openai",
                engine=engine,
                model=engine.info.model,
                listen_moments=engine.listen_moments,
            )
            records, cpu_s = await _sent(target, clock, duration_s, streams, stagger_ns=STAGGER_NS)
            _, told = await engine.remote.ask("/simulated/sent", base=url)
        finally:
            await engine.aclose()
    told_of = {each["came_ns"]: each["sent_ns"] for each in json.loads(told)["requests"]}
    due_ns = [told_of[_came_ns(record, list(told_of))] for record in records]
    if any(len(due) != record.num_chunks or record.failure for record, due in zip(records, due_ns, strict=True)):
        raise EngineUnavailableError(say("The simulated server did not answer as it should."))
    return _calibration(records, due_ns, cpu_s, over_http=True)


def _came_ns(record: RequestRecord, came_ns: Sequence[int]) -> int:
    """Return when the server saw a request: the first moment after it was sent."""
    sent_ns = record.sent_ns or 0
    return min((each for each in came_ns if each >= sent_ns), default=came_ns[-1])


async def _sent(
    target: Target, clock: Clock, duration_s: float, streams: int, *, stagger_ns: int
) -> tuple[list[RequestRecord], float]:
    """Send one request for each stream; return the records, and the CPU time that all took."""
    line = Line(target, clock, 0, timeout_s=60 + duration_s)
    ask = Ask(
        item="null",
        messages=Messages(messages=(Message(role="user", content="x"),)),
        sampling=SamplingParams(max_tokens=max(2, round(duration_s * TOKENS_PER_S)), ignore_eos=True),
        prompt_hash="",
    )
    errands = [line.errand(ask, index=index, segment="calibration", phase=Phase.WARMUP) for index in range(streams)]
    began_ns, cpu_ns = clock.now_ns(), time.process_time_ns()

    async def send(number: int) -> RequestRecord:
        due_ns = began_ns + number * stagger_ns
        await clock.sleep_until_ns(due_ns)
        return await line.send(errands[number], due_ns)

    records = await asyncio.gather(*(send(number) for number in range(streams)))
    line.close()
    return records, (time.process_time_ns() - cpu_ns) / NS_PER_S


def _calibration(
    records: Sequence[RequestRecord], due_ns: Sequence[list[int]], cpu_s: float, *, over_http: bool
) -> Calibration:
    pairs = list(zip(records, due_ns, strict=True))
    firsts = sorted((record.first_content_ns or 0) - due[0] for record, due in pairs)
    gaps = sorted(error for record, due in pairs for error in _gap_errors_ns(record, due))
    chunks = sum(record.num_chunks for record in records)
    return Calibration(
        bias_ttft_s=firsts[len(firsts) // 2] / NS_PER_S,
        bias_gap_s=gaps[int(0.99 * (len(gaps) - 1))] / NS_PER_S,
        cost_per_chunk_s=cpu_s / chunks,
        chunks=chunks,
        over_http=over_http,
    )


def _gap_errors_ns(record: RequestRecord, due_ns: list[int]) -> list[int]:
    """Return how far each gap was off, without its sign."""
    true_ns = [later - earlier for earlier, later in itertools.pairwise(due_ns)]
    return [abs(seen_us * 1000 - true) for seen_us, true in zip(record.chunk_gaps_us, true_ns, strict=True)]
