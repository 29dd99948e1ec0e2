"""Whether a server keeps what was promised: objectives as text, and a verdict that says how sure it is.

    ttft p95 < 2s, e2e p99 < 20s, errors < 1%, goodput > 95%

Each clause says of every request whether it was met, and how many may miss it. So a verdict is about a share, and the
exact binomial bound of Clopper and Pearson holds for every distribution of latencies. A failed request has no latency
and misses every clause about one. Pure: no clock, no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from qwenops.bench.record import RequestRecord


class Decision(StrEnum):
    """What the requests prove."""

    PASS = "pass"  # noqa: S105 -- a verdict
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class SloClause:
    """One promise: at most `allowed` of the requests may miss it."""

    text: str
    """As it was written."""
    allowed: float
    """The share of requests that may miss it, between 0 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """All promises together."""

    text: str
    clauses: tuple[SloClause, ...]

    def met(self, record: RequestRecord) -> bool | None:
        """Whether a request meets every bound that is about single requests; None when it says nothing."""
        raise NotImplementedError(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClauseVerdict:
    """What the requests say about one clause."""

    clause: SloClause
    decision: Decision
    n: int
    """Requests that it applies to."""
    misses: int
    independent: int
    """How many independent requests they are worth."""
    miss_share: float
    low: float
    """One-sided bounds of the true share of misses."""
    high: float
    more_requests: int | None
    """How many more would decide if the share stays as it is; 0 when decided, None when no reasonable number would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SloVerdict:
    """What the requests say about the whole objective."""

    decision: Decision
    clauses: tuple[ClauseVerdict, ...]
    attainment: float | None
    """Share of the requests that met every bound about single requests."""
    more_requests: int | None


def parse_slo(text: str) -> Slo:
    """Read an objective such as `ttft p95 < 2s, errors < 1%`.

    Raises:
        ConfigError: It cannot be read; the message says which part and what would be possible.
    """
    raise NotImplementedError(text)


def judge(records: Sequence[RequestRecord], slo: Slo, *, alpha: float = 0.05, dropped: int = 0) -> SloVerdict:
    """Judge the requests of one load against an objective.

    Args:
        records: The measured requests of one rate, in any order.
        slo: What was promised.
        alpha: How often a server exactly at its limit may pass.
        dropped: Requests that were due and not sent because too many were in flight; they miss everything.
    """
    raise NotImplementedError(records, slo, alpha, dropped)
