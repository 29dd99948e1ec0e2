"""How long it takes to decide about an objective: from how many requests a proof needs, and how fast they can be sent.

    ttft p95 < 2s       several hundred requests
    errors < 1%         about a thousand

A server that does one request in twenty seconds needs hours for that, and nobody should learn it after ten minutes.
Pure: no clock, no network.
"""

from qwenops.bench.objective import ALPHA, SPENDING, Slo, SloClause, alpha_spent, more_to_decide
from qwenops.options import format_seconds
from qwenops.text import Text, say

LEAST_S = 600.0
"""Less is not worth a search: a server is not the same from one minute to the next."""
_GOOD_SHARE = 0.2
"""Of what may miss: a server that keeps a promise comfortably misses no more."""
_CORRELATION_TIME, _ERRORS_TIME = 4.0, 2.0
"""In requests, of latencies and of errors, 30 % below what a server can take."""
_PACE_FOR_ONE = 0.5
"""At which the proof can be sent, times what one caller gets done: others share the server, and 30 % are left free."""
_ROUND_S = 600.0


def requests_to_decide(slo: Slo) -> int:
    """Return how many requests prove an objective that is kept comfortably, with all looks taken."""
    return max(_to_decide(clause, len(slo.clauses)) for clause in slo.clauses)


def search_s(slo: Slo, pace_per_s: float, *, proof_share: float, judged_share: float) -> float:
    """Return how long a search takes whose proof has this share of the time, and requests at this pace.

    Args:
        slo: The objective.
        pace_per_s: At which the requests of the proof are sent.
        proof_share: Which part of the time the proof has.
        judged_share: Which part of the requests is judged.
    """
    return max(LEAST_S, proof_s(slo, pace_per_s, judged_share=judged_share) / proof_share)


def proof_s(slo: Slo, pace_per_s: float, *, judged_share: float) -> float:
    """Return how long it takes to send what a decision about one rate needs."""
    return requests_to_decide(slo) / judged_share / pace_per_s


def pace_of_one(alone_s: float) -> float:
    """Return the pace of a proof that is likely at a server whose answer takes so long alone."""
    return _PACE_FOR_ONE / alone_s


def plan_sentence(slo: Slo, needed_s: float, given_s: float | None) -> Text:
    """Say how long a decision takes, and whether the time that was given is enough for one."""
    if given_s is not None and given_s < needed_s:
        return say(
            "A decision takes about {requests:,} requests and here about {needed}. After {given} it will likely still "
            "be open.",
            requests=requests_to_decide(slo),
            needed=_about(needed_s),
            given=_about(given_s),
        )
    return say(
        "A decision takes about {requests:,} requests; this takes about {time}.",
        requests=requests_to_decide(slo),
        time=_about(needed_s if given_s is None else given_s),
    )


def _to_decide(clause: SloClause, clauses: int) -> int:
    alpha = alpha_spent(len(SPENDING) - 1)
    misses, n = (0, 0) if clause.kind == "errors" else (1, round(1.0 / (_GOOD_SHARE * clause.allowed)))
    time = _ERRORS_TIME if clause.kind == "errors" else _CORRELATION_TIME
    more = more_to_decide(misses, n, time, clause.allowed, alpha, ALPHA / clauses)
    return n + (more or 0)


def _about(seconds: float) -> str:
    return format_seconds(round(seconds / 60) * 60 if seconds >= _ROUND_S else round(seconds))
