"""What every figure means: from the moments of a record to seconds, and one table of all metrics.

The documentation, the language of objectives, comparisons and reports take names, units and words from `METRICS`.
A figure that cannot be known is None, never 0: an answer of one token has a time to first token and no time per token.
A chunk is not a token: gaps between chunks are `icl`, and they are called `itl` only where the answer came in as many
chunks as it has tokens, within 2 %, by the count of somebody who knows (not of who counts chunks). Chunks without text
(a role, the usage at the end) are no content and have no time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from qwenops.bench.record import ESTIMATE, NS_PER_S, RequestRecord
from qwenops.text import Text, say

US_PER_S = 1e6
ITL_TOLERANCE = 0.02
"""Chunks may differ from tokens by this share for their gaps to count as gaps between tokens."""

Better = Literal["lower", "higher"]
Unit = Literal["s", "1/s", "tokens/s", "share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One quantity with its one name."""

    name: str
    """As the user writes it: `ttft`."""
    unit: Unit
    title: Text
    definition: Text
    better: Better = "lower"
    of_request: Callable[[RequestRecord], float | None] | None = None
    """Its value for one request; None where it is a quantity of gaps, or of a whole run."""
    of_gaps: Callable[[RequestRecord], Sequence[float] | None] | None = None
    """Its many values for one request."""

    @property
    def is_distributed(self) -> bool:
        """Whether it has a distribution over requests or gaps, and not one value for a run."""
        return self.of_request is not None or self.of_gaps is not None

    @property
    def key(self) -> str:
        """Its name in code and JSON, with the unit where that is seconds."""
        return f"{self.name}_s" if self.unit == "s" else self.name


def ttft_s(record: RequestRecord) -> float | None:
    """Return the time to first token: from sending to the first content."""
    return _between(record.sent_ns, record.first_content_ns)


def ttft_response_s(record: RequestRecord) -> float | None:
    """Return the time to first token as a caller sees it: from when it should have been sent."""
    return _between(record.scheduled_ns, record.first_content_ns)


def ttfa_s(record: RequestRecord) -> float | None:
    """Return the time to first answer: from sending to the first content after the reasoning."""
    return _between(record.sent_ns, record.first_answer_ns)


def e2e_s(record: RequestRecord) -> float | None:
    """Return the whole latency: from sending to the last content."""
    return _between(record.sent_ns, record.last_content_ns)


def e2e_response_s(record: RequestRecord) -> float | None:
    """Return the whole latency as a caller sees it: from when it should have been sent."""
    return _between(record.scheduled_ns, record.last_content_ns)


def tpot_s(record: RequestRecord) -> float | None:
    """Return the time per output token after the first; None for fewer than two tokens, or all at one moment."""
    tokens = counted_tokens(record)
    if tokens is None or tokens < 2:  # noqa: PLR2004 -- an interval has two ends
        return None
    whole = _between(record.first_content_ns, record.last_content_ns)
    return whole / (tokens - 1) if whole else None


def counted_tokens(record: RequestRecord) -> int | None:
    """Return the tokens of the answer where somebody counted them; a number of chunks is none."""
    return None if record.token_source == ESTIMATE else record.completion_tokens


def icl_s(record: RequestRecord) -> tuple[float, ...]:
    """Return the inter-chunk latencies: gaps between consecutive chunks that hold content."""
    return tuple(gap / US_PER_S for gap in record.chunk_gaps_us)


def itl_s(record: RequestRecord) -> tuple[float, ...] | None:
    """Return the inter-token latencies: the gaps between chunks where a chunk is a token; None where it is not."""
    tokens = counted_tokens(record)
    if not tokens or abs(record.num_chunks / tokens - 1) > ITL_TOLERANCE:
        return None
    return icl_s(record)


def stall_s(record: RequestRecord) -> float | None:
    """Return the longest gap between chunks; None for fewer than two chunks."""
    return max(record.chunk_gaps_us) / US_PER_S if record.chunk_gaps_us else None


def connect_s(record: RequestRecord) -> float | None:
    """Return how long opening the connection took; None where one was used again."""
    return _between(record.sent_ns, record.connected_ns)


def first_byte_s(record: RequestRecord) -> float | None:
    """Return the time from sending to the head of the response."""
    return _between(record.sent_ns, record.first_byte_ns)


def schedule_lag_s(record: RequestRecord) -> float | None:
    """Return how late the client sent: a fault of the client, not of the server."""
    return _between(record.scheduled_ns, record.sent_ns)


def chunk_times_ns(record: RequestRecord) -> list[int]:
    """Return when each chunk with content came, oldest first."""
    if record.first_content_ns is None:
        return []
    times = [record.first_content_ns]
    for gap_us in record.chunk_gaps_us:
        times.append(times[-1] + gap_us * 1000)
    return times


def _between(first_ns: int | None, last_ns: int | None) -> float | None:
    return None if first_ns is None or last_ns is None else (last_ns - first_ns) / NS_PER_S


def _table() -> dict[str, Metric]:  # one table, which is read as a whole
    metrics = (
        Metric(
            name="ttft",
            unit="s",
            title=say("Time to first token"),
            definition=say("From sending the request to the first non-empty content of the answer."),
            of_request=ttft_s,
        ),
        Metric(
            name="ttft_response",
            unit="s",
            title=say("Time to first token, from the schedule"),
            definition=say("From the moment the request was due to the first content: a late client hides nothing."),
            of_request=ttft_response_s,
        ),
        Metric(
            name="ttfa",
            unit="s",
            title=say("Time to first answer"),
            definition=say("From sending the request to the first content after the model's reasoning."),
            of_request=ttfa_s,
        ),
        Metric(
            name="e2e",
            unit="s",
            title=say("End-to-end latency"),
            definition=say("From sending the request to the last content of the answer."),
            of_request=e2e_s,
        ),
        Metric(
            name="e2e_response",
            unit="s",
            title=say("End-to-end latency, from the schedule"),
            definition=say("From the moment the request was due to the last content of the answer."),
            of_request=e2e_response_s,
        ),
        Metric(
            name="tpot",
            unit="s",
            title=say("Time per output token"),
            definition=say(
                "From the first to the last content, divided by one less than the tokens of the answer; "
                "an answer of one token, one that came all at once, or one whose tokens nobody counted has none."
            ),
            of_request=tpot_s,
        ),
        Metric(
            name="icl",
            unit="s",
            title=say("Gap between chunks"),
            definition=say("Time between consecutive chunks that hold content; a chunk can hold several tokens."),
            of_gaps=icl_s,
        ),
        Metric(
            name="itl",
            unit="s",
            title=say("Gap between tokens"),
            definition=say(
                "The gaps between chunks of answers whose chunks and tokens agree within 2 %; where nobody counted the "
                "tokens there is none."
            ),
            of_gaps=itl_s,
        ),
        Metric(
            name="stall",
            unit="s",
            title=say("Longest gap"),
            definition=say("The longest gap between chunks of an answer."),
            of_request=stall_s,
        ),
        Metric(
            name="connect",
            unit="s",
            title=say("Connecting"),
            definition=say("From sending the request until its new connection stood; none where one was used again."),
            of_request=connect_s,
        ),
        Metric(
            name="first_byte",
            unit="s",
            title=say("First byte"),
            definition=say("From sending the request to the head of the response."),
            of_request=first_byte_s,
        ),
        Metric(
            name="schedule_lag",
            unit="s",
            title=say("Lateness of the client"),
            definition=say("From the moment the request was due until the client sent it."),
            of_request=schedule_lag_s,
        ),
        Metric(
            name="errors",
            unit="share",
            title=say("Failed requests"),
            definition=say("Requests without a good answer, as a share of those sent; interrupted ones do not count."),
        ),
        Metric(
            name="achieved_rate",
            unit="1/s",
            title=say("Requests sent"),
            definition=say(
                "Requests sent per second: over the whole schedule, or with callers that wait after their ramp."
            ),
            better="higher",
        ),
        Metric(
            name="completed_rate",
            unit="1/s",
            title=say("Answers completed"),
            definition=say(
                "Good answers per second after the ramp; one that is under way at an end counts by the part of its "
                "work that was done inside. The ramp lasts until all that was in flight at the first answer is over, "
                "and half an answer longer."
            ),
            better="higher",
        ),
        Metric(
            name="goodput",
            unit="1/s",
            title=say("Goodput"),
            definition=say("Good answers per second, as above, of requests that met every bound; a failure is a miss."),
            better="higher",
        ),
        Metric(
            name="attainment",
            unit="share",
            title=say("Attainment"),
            definition=say(
                "Share of the requests of the window that met every bound; failed and unsent ones are misses."
            ),
            better="higher",
        ),
        Metric(
            name="output_tokens_per_s",
            unit="tokens/s",
            title=say("Tokens written"),
            definition=say(
                "Tokens whose chunk came after the ramp and before the end of the window, per second; the tokens of an "
                "answer are spread evenly over its chunks. Where nobody counted them, it is chunks, and said so."
            ),
            better="higher",
        ),
        Metric(
            name="input_tokens_per_s",
            unit="tokens/s",
            title=say("Tokens read"),
            definition=say("Prompt tokens of the good answers, counted as good answers per second are."),
            better="higher",
        ),
    )
    return {each.name: each for each in metrics}


METRICS: Mapping[str, Metric] = MappingProxyType(_table())
"""Every metric by its name, in the order in which they are shown."""
