"""Records and segments with known moments, for tests of what is computed from them."""

from collections.abc import Sequence
from typing import Any

from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment

NS = 1_000_000_000


def answer(
    index: int = 0,
    *,
    at_s: float = 0.0,
    ttft_s: float = 0.1,
    gaps_s: Sequence[float] = (),
    tokens: int | None = -1,
    **changes: Any,
) -> RequestRecord:
    """Return a good answer, sent on time; it has a token in each chunk unless told otherwise."""
    sent_ns = round(at_s * NS)
    first_ns = sent_ns + round(ttft_s * NS)
    last_ns = first_ns + sum(round(gap * 1e6) * 1000 for gap in gaps_s)
    known: dict[str, Any] = {
        "index": index,
        "segment": "load",
        "phase": Phase.MEASURE,
        "item": f"item-{index}",
        "prompt_hash": f"{index}",
        "scheduled_ns": sent_ns,
        "sent_ns": sent_ns,
        "first_content_ns": first_ns,
        "first_answer_ns": first_ns,
        "last_content_ns": last_ns,
        "ended_ns": last_ns,
        "chunk_gaps_us": tuple(round(gap * 1e6) for gap in gaps_s),
        "prompt_tokens": 10,
        "completion_tokens": len(gaps_s) + 1 if tokens == -1 else tokens,
        "token_source": "server",
    }
    return RequestRecord(**(known | changes))


def failed(index: int = 0, *, at_s: float = 0.0, failure: Failure = Failure.TIMEOUT) -> RequestRecord:
    """Return a request without an answer."""
    at_ns = round(at_s * NS)
    return RequestRecord(
        index=index,
        segment="load",
        phase=Phase.MEASURE,
        item=f"item-{index}",
        prompt_hash=f"{index}",
        scheduled_ns=at_ns,
        sent_ns=at_ns,
        ended_ns=at_ns + NS,
        failure=failure,
    )


def driven(
    records: Sequence[RequestRecord],
    *,
    window_s: float = 10.0,
    load: OpenLoop | ClosedLoop | None = None,
    dropped: int = 0,
) -> Driven:
    """Return a segment of these records that began at 0."""
    window_ns = round(window_s * NS)
    return Driven(
        segment=Segment(name="load", load=load or ClosedLoop(users=1)),
        began_ns=0,
        window_ns=window_ns,
        ended_ns=max([window_ns, *(each.ended_ns or 0 for each in records)]),
        records=tuple(records),
        dropped=dropped,
    )
