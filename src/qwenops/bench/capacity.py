"""What a search for the highest rate has found, and how it is told. Pure.

Only a rate that was tried until a decision is said to keep the objective, and only such a rate is advised. Where the
limit seems to lie is an estimate, and none at all where no load was beyond it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenops.bench.conclusion import EXIT_INCONCLUSIVE, EXIT_MISSED, Conclusion, Outcome, Table
from qwenops.bench.highest_rate import HighestRate
from qwenops.bench.objective import Slo, SloVerdict, verdict_data
from qwenops.bench.record import Failure, RequestRecord
from qwenops.bench.tables import clause_table
from qwenops.bench.words import outcome_word
from qwenops.options import format_seconds, show_number
from qwenops.text import Text, say

HEADROOM = 0.3
_MINUTE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of one rate."""

    rate_per_s: float
    came_per_s: float
    """What came of the schedule by chance; the misses follow it more than the rate that was meant."""
    records: tuple[RequestRecord, ...]
    """Those that are judged."""
    dropped: int = 0
    verdict: SloVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the search found."""

    alone: SloVerdict
    """About one caller at a time."""
    most_per_s: float
    """What callers that wait get done; no rate above it can last."""
    loads: tuple[Load, ...]
    found: HighestRate | None
    """None when not even one request at a time keeps the promise, or the search was interrupted at once."""
    limiting: str = ""
    """The clause that is missed first."""
    proving_per_s: float | None = None
    """The rate that was to be proved."""
    proof: Load | None = None
    """What came of it; None when no time was left."""
    needed_s: float | None = None
    """How long a search takes that decides about such a rate."""
    interrupted: bool = False

    @property
    def decision(self) -> Outcome:
        """What the proof says."""
        return self.proof.verdict.decision if self.proof else Outcome.UNDECIDED

    @property
    def advised_per_s(self) -> float | None:
        """The rate to plan for: none that was not proved."""
        return self.proving_per_s if self.decision is Outcome.PASS else None

    @property
    def most_tried_per_s(self) -> float:
        """The highest rate of the search."""
        return max((load.rate_per_s for load in self.loads), default=0.0)


EXITS: Mapping[Outcome, int] = {
    Outcome.PASS: 0,
    Outcome.FAIL: EXIT_MISSED,
    Outcome.UNDECIDED: EXIT_INCONCLUSIVE,
}


def verdict_sentence(verdict: SloVerdict, rate_per_s: float) -> Text:
    """Say what the requests at a rate prove, or how many more would decide."""
    n = max((each.n for each in verdict.clauses), default=0)
    rate = show_number(rate_per_s, 4)
    match verdict.decision:
        case Outcome.PASS:
            return say(
                "At {rate} requests/s the objective is kept: {n:,} requests prove it.",
                rate=rate,
                n=n,
            )
        case Outcome.FAIL:
            return say(
                "At {rate} requests/s the objective is missed: {n:,} requests prove it.",
                rate=rate,
                n=n,
            )
        case Outcome.UNDECIDED:
            if verdict.more_requests is None:
                return say(
                    "At {rate} requests/s {n:,} requests do not decide: the server is too close to its limit.",
                    rate=rate,
                    n=n,
                )
            return say(
                "At {rate} requests/s {n:,} requests do not decide: about {more:,} more would ({time}).",
                rate=rate,
                n=n,
                more=verdict.more_requests,
                time=format_seconds(round(verdict.more_requests / rate_per_s)),
            )


def failed_clauses(verdict: SloVerdict) -> tuple[Text, ...]:
    """Say of each clause that is not kept how far it is off."""
    return tuple(
        say(
            "{clause}: {share:.1%} of the requests missed it, and {allowed:.1%} may.",
            clause=each.clause.text,
            share=each.miss_share,
            allowed=each.clause.allowed,
        )
        for each in verdict.clauses
        if each.decision is Outcome.FAIL
    )


def capacity_conclusion(found: Capacity, objective: Slo) -> Conclusion:
    """Put what was found into words."""
    data: dict[str, Any] = {
        "slo": objective.text,
        "most_per_s": found.most_per_s,
        "interrupted": found.interrupted,
        "loads": [
            {"rate_per_s": load.rate_per_s, "dropped": load.dropped, "verdict": verdict_data(load.verdict)}
            for load in found.loads
        ],
    }
    if found.found is None:
        missed = found.alone.decision is Outcome.FAIL
        sentence = (
            say("Not even one request at a time keeps the objective, so no rate does.")
            if missed
            else say("The search ended before a rate was found.")
        )
        return Conclusion(
            outcome=Outcome.FAIL if missed else Outcome.UNDECIDED,
            exit_code=EXIT_MISSED if missed else EXIT_INCONCLUSIVE,
            sentences=(sentence, *failed_clauses(found.alone)),
            tables=(clause_table(found.alone),),
            data=data,
        )
    data |= {
        "most_tried_per_s": found.most_tried_per_s,
        "proving_per_s": found.proving_per_s,
        "advised_per_s": found.advised_per_s,
        "limiting": found.limiting,
        "proof": verdict_data(found.proof.verdict) if found.proof else None,
        "needed_s": found.needed_s,
    }
    if found.found.inside:
        data |= {
            "capacity_per_s": found.found.rate_per_s,
            "capacity_low_per_s": found.found.interval.low,
            "capacity_high_per_s": found.found.interval.high,
        }
    return Conclusion(
        outcome=found.decision,
        exit_code=EXITS[found.decision],
        sentences=_capacity_sentences(found, found.found),
        tables=(loads_table(found.loads, found.proof), *((clause_table(found.proof.verdict),) if found.proof else ())),
        data=data,
    )


def _capacity_sentences(found: Capacity, rate: HighestRate) -> tuple[Text, ...]:
    """Say first what is proved about a rate, then where the limit seems to lie."""
    sentences = []
    if found.proof is not None:
        sentences.append(verdict_sentence(found.proof.verdict, found.proof.rate_per_s))
    else:
        sentences.append(say("No rate is decided: no time was left to prove one."))
    if found.advised_per_s is not None:
        sentences.append(_advice(found.advised_per_s, inside=rate.inside))
    elif found.decision is Outcome.FAIL and found.proof is not None:
        sentences += failed_clauses(found.proof.verdict)
    sentences.append(_limit_sentence(found, rate))
    if found.decision is Outcome.UNDECIDED and not found.interrupted:
        sentences += _what_decides(found)
    if found.interrupted:
        sentences.append(say("The search was interrupted; these are the figures so far."))
    return tuple(sentences)


def _advice(rate_per_s: float, *, inside: bool) -> Text:
    if inside:
        return say(
            "Plan for {rate} requests/s: {headroom:.0%} less than where the limit seems to be, so that peaks and a "
            "slower day fit in.",
            rate=show_number(rate_per_s),
            headroom=HEADROOM,
        )
    return say(
        "Plan for {rate} requests/s: {headroom:.0%} less than the highest rate that was tried, so that peaks and a "
        "slower day fit in.",
        rate=show_number(rate_per_s),
        headroom=HEADROOM,
    )


def _limit_sentence(found: Capacity, rate: HighestRate) -> Text:
    """Say where the limit seems to be; where no load was beyond it, only what was tried."""
    if rate.inside:
        return say(
            "By an estimate from all rates that were tried, the limit is at about {rate} requests/s (95 %: {low} to "
            "{high}); beyond it, {clause} is missed first.",
            rate=show_number(rate.rate_per_s),
            low=show_number(rate.interval.low),
            high=show_number(rate.interval.high),
            clause=found.limiting,
        )
    if found.loads and all(_seems_kept(load.verdict) for load in found.loads):
        return say(
            "No limit was seen: up to {rate} requests/s were tried, and no more were missed than may.",
            rate=show_number(found.most_tried_per_s),
        )
    return say(
        "Where the limit is was not seen: the rates that were tried, up to {rate} requests/s, do not lie on both "
        "sides of it.",
        rate=show_number(found.most_tried_per_s),
    )


def _seems_kept(verdict: SloVerdict) -> bool:
    return all(each.miss_share <= each.clause.allowed for each in verdict.clauses if each.n)


def _what_decides(found: Capacity) -> list[Text]:
    """Say which commands would decide."""
    said = []
    if found.needed_s is not None:
        said.append(
            say(
                "To decide, search for longer: --duration {time}, or leave --duration out.",
                time=format_seconds(math.ceil(found.needed_s / _MINUTE_S) * _MINUTE_S),
            )
        )
    if found.proving_per_s is not None:
        said.append(
            say(
                "Or have this one rate judged until it is decided: --rate {rate} without --duration.",
                rate=show_number(found.proving_per_s, 4),
            )
        )
    return said


def loads_table(loads: Sequence[Load], proof: Load | None = None) -> Table:
    """Show the rates that were tried, and the one that was to be proved, in ascending order."""
    tried = [*loads, proof] if proof is not None else loads
    return Table(
        title=say("Rates that were tried"),
        headings=(
            say("requests/s"),
            say("requests"),
            say("not sent"),
            say("failed"),
            say("attainment"),
            say("verdict"),
        ),
        rows=tuple(
            (
                round(load.rate_per_s, 6),
                len(load.records),
                load.dropped,
                sum(each.failure not in {None, Failure.INTERRUPTED} for each in load.records),
                None if load.verdict.attainment is None else f"{load.verdict.attainment:.1%}",
                outcome_word(load.verdict.decision),
            )
            for load in sorted(tried, key=lambda each: each.rate_per_s)
        ),
    )
