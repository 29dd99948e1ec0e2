"""Whether a server keeps what was promised: objectives as text, and a verdict that says how sure it is.

    ttft p95 < 2s, e2e p99 < 20s, errors < 1%
    ttft < 2s, tpot < 100ms, goodput > 95%

Each clause says of every request whether it missed, and which share of them may. `ttft p95 < 2s` allows 5 % to miss; a
bound without a percentile belongs to `goodput`, which asks how many requests meet all bounds at once. So a verdict is
about a share, and the exact binomial bound of Clopper and Pearson holds for every distribution of latencies. A failed
request has no latency and misses every clause about one; one that was interrupted says nothing.

Requests that wait for one another are not independent, so they are counted in blocks (`dependence.py`). A server
exactly at its limit passes in at most `alpha` of all runs. All clauses must pass, so each may take the whole of
`alpha`; one suffices to fail, so there they share it. Pure: no clock, no network.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qwenops.bench.conclusion import Outcome
from qwenops.bench.definitions import METRICS, e2e_response_s
from qwenops.bench.dependence import Series, block_length, correlation_time, midranks
from qwenops.bench.record import Failure, RequestRecord
from qwenops.errors import ConfigError
from qwenops.options import SECONDS_BY_UNIT, parse_seconds
from qwenops.statistics.samples import binomial_lower, binomial_upper
from qwenops.text import Text, say

ALPHA = 0.05
SPENDING = (0.2, 0.3, 0.5)
"""How much of alpha each look at growing data may spend; more looks than these are not allowed."""

_MOST_REQUESTS = 10_000_000
"""A verdict that needs more is not worth waiting for."""
_LAST_NS = 2**63 - 1
_BY_LOAD = frozenset({Failure.TIMEOUT, Failure.CONNECT})
_CLAUSE = re.compile(r"([a-z][a-z0-9_.]*)\s*(?:p\s*(\d+(?:\.\d+)?))?\s*(<=|>=|<|>|=)\s*(.+)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_EXAMPLE = "ttft p95 < 2s, e2e p99 < 20s, errors < 1%, goodput > 95%"

Misses = npt.NDArray[np.bool_]
Kind = Literal["percentile", "errors", "goodput"]


Decision = Literal[Outcome.PASS, Outcome.FAIL, Outcome.UNDECIDED]
"""What requests can prove about an objective."""
_DECISIONS: Mapping[str, Decision] = {
    "pass": Outcome.PASS,
    "fail": Outcome.FAIL,
    "undecided": Outcome.UNDECIDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What one request must meet: a metric of `definitions.METRICS` below so many seconds."""

    metric: str
    limit_s: float
    inclusive: bool = False

    def missed(self, record: RequestRecord) -> bool | None:
        """Whether a good answer is too slow; None when the metric does not apply to it."""
        of_request = METRICS[self.metric].of_request
        value = of_request(record) if of_request else None
        if value is None:
            return None
        return value > self.limit_s if self.inclusive else value >= self.limit_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SloClause:
    """One promise: at most `allowed` of the requests may miss it."""

    text: str
    """As it was written."""
    kind: Kind
    allowed: float
    """The share of requests that may miss it, between 0 and 1."""
    bound: Bound | None = None
    """Of a percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """All promises together."""

    text: str
    clauses: tuple[SloClause, ...]
    bounds: tuple[Bound, ...]
    """Everything that is about single requests, those of percentiles included."""

    def met(self, record: RequestRecord) -> bool | None:
        """Whether a request meets every bound; a failure does not, and an interrupted one says nothing."""
        if record.failure is Failure.INTERRUPTED:
            return None
        return record.failure is None and not any(bound.missed(record) for bound in self.bounds)

    def missed(self, clause: SloClause, record: RequestRecord) -> bool | None:
        """Whether a request misses one clause; None when it says nothing about it."""
        if record.failure is Failure.INTERRUPTED:
            return None
        if record.failure is not None or clause.kind == "errors":
            return record.failure is not None
        if clause.bound is not None:
            return clause.bound.missed(record)
        return self.met(record) is False


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
    time: float
    """Their correlation time, in requests."""
    low: float
    """One-sided bounds of the true share of misses."""
    high: float
    more_requests: int | None
    """How many more would decide if the share stays as it is; 0 when decided, None when no reasonable number would."""

    @property
    def miss_share(self) -> float:
        """The share of requests that missed."""
        return self.misses / self.n if self.n else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SloVerdict:
    """What the requests say about the whole objective."""

    decision: Decision
    clauses: tuple[ClauseVerdict, ...]
    attainment: float | None
    """Share of the requests that met every bound about single requests; unsent ones are misses."""
    more_requests: int | None


def objective_of(text: str) -> Slo:
    """Read an objective that must be there.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    if not text.strip():
        raise ConfigError(
            say("There is no objective to judge by."), hint=say("Give one, for example --slo 'ttft p95 < 2s'.")
        )
    return parse_slo(text)


def parse_slo(text: str) -> Slo:
    """Read an objective such as `ttft p95 < 2s, errors < 1%`.

    Raises:
        ConfigError: It cannot be read; the message says which part and what would be possible.
    """
    clauses: list[SloClause] = []
    bounds: list[Bound] = []
    for part in (each.strip() for each in re.split(r"[,\n;]", text)):
        if not part:
            continue
        clause, bound = _parsed(part)
        if any(
            (clause.kind, clause.bound, clause.allowed) == (each.kind, each.bound, each.allowed) for each in clauses
        ):
            raise _wrong(part, say("it is there twice"))
        if bound is None or clause.kind == "percentile":
            clauses.append(clause)
        if bound is not None and bound not in bounds:
            bounds.append(bound)
    if not clauses and not bounds:
        raise ConfigError(say("The objective is empty."), hint=say("Write for example {example!r}.", example=_EXAMPLE))
    has_goodput = any(each.kind == "goodput" for each in clauses)
    if not has_goodput and len(bounds) > sum(each.kind == "percentile" for each in clauses):
        raise ConfigError(
            say("{text!r} has a bound for single requests and does not say how many must meet it.", text=text),
            hint=say("Give it a percentile (ttft p95 < 2s), or add goodput > 95%."),
        )
    if has_goodput and not bounds:
        raise ConfigError(
            say("{text!r} asks for goodput and has no bound that a request could meet.", text=text),
            hint=say("Add one, for example ttft < 2s."),
        )
    return Slo(text=text.strip(), clauses=tuple(clauses), bounds=tuple(bounds))


def _parsed(part: str) -> tuple[SloClause, Bound | None]:
    """Read one clause, and the bound about single requests that is in it."""
    found = _CLAUSE.fullmatch(part.lower().replace("≤", "<=").replace("≥", ">="))
    if found is None:
        raise _wrong(part, say("it is no comparison"))
    name, percentile, relation, value = found.groups()
    name = name.replace(".", "_")
    if name in {"errors", "goodput", "attainment"}:
        return _share_clause(part, name, percentile, relation, value), None
    metric = METRICS.get(name)
    if metric is None or metric.of_request is None:
        raise _wrong(part, say("there is no metric {name} of single requests", name=name))
    if relation not in {"<", "<="}:
        raise _wrong(part, say("a latency can only be asked to be lower than something"))
    bound = Bound(metric=name, limit_s=_seconds(part, value), inclusive=relation == "<=")
    share = float(percentile) / 100 if percentile is not None else 1.0
    if percentile is not None and not 0 < share < 1:
        raise _wrong(part, say("p{percentile} is no percentile between 0 and 100", percentile=percentile))
    kind: Kind = "percentile" if percentile is not None else "goodput"
    return SloClause(text=part, kind=kind, allowed=round(1 - share, 12), bound=bound), bound


def _share_clause(part: str, name: str, percentile: str | None, relation: str, value: str) -> SloClause:
    found = _PERCENT.fullmatch(value)
    kind: Kind = "errors" if name == "errors" else "goodput"
    wanted = "<" if kind == "errors" else ">"
    if percentile is not None:
        raise _wrong(part, say("{name} is a share and has no percentile", name=name))
    if not relation.startswith(wanted):
        raise _wrong(part, say("{name} is compared with {relation}", name=name, relation=wanted))
    if found is None:
        raise _wrong(part, say("{value!r} is no share in percent", value=value))
    share = float(found[1]) / 100
    allowed = share if kind == "errors" else 1 - share
    if not 0 < allowed < 1:
        raise _wrong(part, say("no number of requests can prove that; a share between 0 % and 100 % can be proved"))
    return SloClause(text=part, kind=kind, allowed=round(allowed, 12))


def _seconds(part: str, value: str) -> float:
    if re.fullmatch(r"[\d.]+", value):
        raise _wrong(part, say("{value} has no unit", value=value))
    try:
        limit_s = parse_seconds(value)
    except ConfigError as error:
        raise _wrong(part, say("{value!r} is no duration", value=value)) from error
    if limit_s <= 0:
        raise _wrong(part, say("nothing is faster than {value}", value=value))
    return limit_s


def _wrong(part: str, reason: Text) -> ConfigError:
    names = ", ".join(name for name, metric in METRICS.items() if metric.of_request)
    return ConfigError(
        say("{part!r} cannot be read as part of an objective: {reason}.", part=part, reason=reason),
        hint=say(
            "Write for example {example!r}. Metrics: {names}, errors, goodput; units: {units}.",
            example=_EXAMPLE,
            names=names,
            units=", ".join(SECONDS_BY_UNIT),
        ),
    )


def alpha_spent(look: int, alpha: float = ALPHA) -> float:
    """Return how much of `alpha` the look number `look` (from 0) may spend; all of them together spend `alpha`."""
    return alpha * SPENDING[look]


def judge(
    records: Sequence[RequestRecord],
    slo: Slo,
    *,
    alpha: float = ALPHA,
    dropped: int = 0,
    unsent_ns: Sequence[int] = (),
    timeout_s: float | None = None,
) -> SloVerdict:
    """Judge the requests of one load against an objective.

    Args:
        records: The measured requests of one rate, in any order.
        slo: What was promised.
        alpha: How often a server exactly at its limit may pass.
        dropped: Requests that were due and not sent because too many were in flight; they miss everything.
        unsent_ns: When those of them were due of which that is known: misses that come together are alike, and at the
            end of the series they would all be.
        timeout_s: When requests are given up. Where latencies come near it, failures depend on one another as they do.
    """
    ordered = sorted(
        (each for each in records if each.failure is not Failure.INTERRUPTED),
        key=lambda record: (record.scheduled_ns, record.index),
    )
    unsent = np.array([*sorted(unsent_ns)[:dropped], *[_LAST_NS] * (dropped - len(unsent_ns))], dtype=np.int64)
    verdicts = tuple(_judge_clause(ordered, slo, clause, alpha, unsent, timeout_s) for clause in slo.clauses)
    decisions = {each.decision for each in verdicts}
    open_ones = [each.more_requests for each in verdicts if each.decision is Outcome.UNDECIDED]
    decision: Decision = (
        Outcome.FAIL
        if Outcome.FAIL in decisions
        else Outcome.UNDECIDED
        if Outcome.UNDECIDED in decisions
        else Outcome.PASS
    )
    if decision is not Outcome.UNDECIDED:
        more: int | None = 0
    else:
        known = [each for each in open_ones if each is not None]
        more = max(known) if len(known) == len(open_ones) else None
    total = len(ordered) + dropped
    met = sum(slo.met(record) is True for record in ordered)
    return SloVerdict(
        decision=decision,
        clauses=verdicts,
        attainment=met / total if total else None,
        more_requests=more,
    )


def verdict_data(verdict: SloVerdict) -> dict[str, Any]:
    """Return a verdict for `summary.json`."""
    return {
        "decision": verdict.decision.value,
        "attainment": verdict.attainment,
        "more_requests": verdict.more_requests,
        "clauses": [
            {
                "clause": each.clause.text,
                "decision": each.decision.value,
                "allowed": each.clause.allowed,
                "n": each.n,
                "misses": each.misses,
                "independent": each.independent,
                "time": each.time,
                "low": each.low,
                "high": each.high,
                "more_requests": each.more_requests,
            }
            for each in verdict.clauses
        ],
    }


def verdict_of(data: Mapping[str, Any], slo: Slo) -> SloVerdict:
    """Read what `verdict_data` made of a verdict about an objective."""
    promises = {each.text: each for each in slo.clauses}
    return SloVerdict(
        decision=_DECISIONS[data["decision"]],
        attainment=data["attainment"],
        more_requests=data["more_requests"],
        clauses=tuple(
            ClauseVerdict(
                clause=promises[each["clause"]],
                decision=_DECISIONS[each["decision"]],
                n=each["n"],
                misses=each["misses"],
                independent=each["independent"],
                time=each.get("time", 1.0),
                low=each["low"],
                high=each["high"],
                more_requests=each["more_requests"],
            )
            for each in data["clauses"]
            if each["clause"] in promises
        ),
    )


def _judge_clause(
    records: Sequence[RequestRecord],
    slo: Slo,
    clause: SloClause,
    alpha: float,
    unsent_ns: npt.NDArray[np.int64],
    timeout_s: float | None,
) -> ClauseVerdict:
    judged = [(record, missed) for record in records if (missed := slo.missed(clause, record)) is not None]
    places = np.searchsorted(np.array([record.scheduled_ns for record, _ in judged], dtype=np.int64), unsent_ns)
    misses = np.insert(np.array([missed for _, missed in judged], dtype=np.bool_), places, values=True)
    latencies = np.insert(np.array([_latency(clause, record) for record, _ in judged]), places, math.inf)
    time = _time(clause, misses, latencies, records, timeout_s)
    n, count = int(misses.size), int(misses.sum())
    shared = alpha / len(slo.clauses)
    decision = decide(count, n, time, clause.allowed, alpha, shared)
    length = block_length(time, n, margin=True)
    worth, worth_missed = _blocks(count, n, length)
    return ClauseVerdict(
        clause=clause,
        decision=decision,
        n=n,
        misses=count,
        independent=worth,
        time=time,
        low=_low(count, n, time, shared),
        high=binomial_upper(min(worth_missed, worth), worth, alpha) if worth else 1.0,
        more_requests=0
        if decision is not Outcome.UNDECIDED
        else more_to_decide(count, n, time, clause.allowed, alpha, shared),
    )


def _latency(clause: SloClause, record: RequestRecord) -> float:
    """Return what tells how long the queue was: the clause's own metric, else the whole latency."""
    if record.failure is not None:
        return math.inf
    of_request = METRICS[clause.bound.metric].of_request if clause.bound else e2e_response_s
    value = of_request(record) if of_request else None
    return math.inf if value is None else value


def _time(
    clause: SloClause, misses: Misses, latencies: Series, records: Sequence[RequestRecord], timeout_s: float | None
) -> float:
    """Return the correlation time that counts for a clause.

    A latency is missed while the queue is long, so its misses last as long as the queue remembers. A request is shed
    while the queue is at its end, where it never stays long: the square root of that. A time-out is a latency again.
    """
    if clause.kind != "errors":
        return dependence_time(misses, latencies)
    finite = latencies[np.isfinite(latencies)]
    near = timeout_s is not None and finite.size and float(finite.max()) > timeout_s / 2
    if near or any(record.failure in _BY_LOAD for record in records):
        return dependence_time(misses, latencies)
    return max(correlation_time(misses.astype(np.float64)), math.sqrt(correlation_time(midranks(latencies))))


def dependence_time(misses: Misses, latencies: Series) -> float:
    """Return the longer correlation time of misses and latencies: without misses the latencies know it alone."""
    return max(correlation_time(misses.astype(np.float64)), correlation_time(midranks(latencies)))


def decide(misses: int, n: int, time: float, allowed: float, alpha: float, alpha_fail: float) -> Decision:
    """Decide about one share of misses: requests counted in blocks, rounded against the decision."""
    if not n:
        return Outcome.UNDECIDED
    worth, worth_missed = _blocks(misses, n, block_length(time, n, margin=True))
    if worth and binomial_upper(min(worth_missed, worth), worth, alpha) <= allowed:
        return Outcome.PASS
    if _low(misses, n, time, alpha_fail) > allowed:
        return Outcome.FAIL
    return Outcome.UNDECIDED


def more_to_decide(misses: int, n: int, time: float, allowed: float, alpha: float, alpha_fail: float) -> int | None:
    """Return how many more requests would decide if as many of them miss as so far; None for more than ten million."""
    share = misses / n if n else 0.0

    def decided(total: int) -> bool:
        return decide(round(share * total), total, time, allowed, alpha, alpha_fail) is not Outcome.UNDECIDED

    low, high = n, max(1, n)
    while not decided(high):
        low, high = high, 2 * high
        if high > _MOST_REQUESTS:
            return None
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return max(1, high - n)


def _blocks(misses: int, n: int, length: float) -> tuple[int, int]:
    """Return how many blocks there are, and how many of them the misses fill; rounded against the server."""
    return math.floor(n / length + 1e-9), math.ceil(misses / length - 1e-9)


def _low(misses: int, n: int, time: float, alpha: float) -> float:
    """Return the lower bound of the share of misses; rounded in favour of the server."""
    length = block_length(time, n, margin=False)
    worth, missed = math.ceil(n / length - 1e-9), math.floor(misses / length + 1e-9)
    return binomial_lower(missed, worth, alpha) if worth else 0.0
