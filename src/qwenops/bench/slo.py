"""`bench slo`: judges a server at a rate, or finds the highest Poisson rate at which it keeps its promise.

The search begins with callers that wait for their answers (what can it do at most?), brackets the rate with short
loads, narrows it with longer ones close to it, and spends the rest of its time on a proof 30 % below. Every decision
depends on recorded answers alone, never on the clock, so a run that is continued decides as it did. Rates may be as low
as they need to be: nothing here knows a smallest one. The backlog is bounded: what would exceed it is not sent and
counts as missed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from qwenops.bench.budget import LEAST_S, pace_of_one, plan_sentence, proof_s, search_s
from qwenops.bench.capacity import (
    EXITS,
    HEADROOM,
    Capacity,
    Load,
    capacity_conclusion,
    failed_clauses,
    verdict_sentence,
)
from qwenops.bench.conclusion import Conclusion, Outcome
from qwenops.bench.highest_rate import HighestRate, Observed, bracket, highest_rate
from qwenops.bench.objective import (
    ALPHA,
    SPENDING,
    Slo,
    SloVerdict,
    alpha_spent,
    judge,
    objective_of,
    verdict_data,
)
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import NS_PER_S, Phase, RequestRecord
from qwenops.bench.schedule import arrivals
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.tables import clause_table
from qwenops.bench.window import answers_of, answers_per_s
from qwenops.options import show_number
from qwenops.text import Text

SETTLING = 0.15
"""The part of each load that is sent and not judged: it begins with an empty queue."""

_ALONE_REQUESTS = 5
_LEAST_LEFT = 0.3
"""Of the budget, that the ladder may take at most."""
_OTHERWISE = 1.3
"""A plan that changes by less is not announced again."""
_LADDER = (1, 2, 4, 8, 16, 32)
_LADDER_SHARE = 0.03
"""Of the budget, for each number of callers."""
_STILL_GAINS = 1.1
_COARSE_SHARE, _NUM_COARSE = 0.05, 6
_FINE_UNTIL, _NUM_FINE = 0.75, 5
_FIRST_GUESS = 0.6
"""Of what callers that wait get done."""
_NARROW = 1.4
"""Bracket, highest by lowest, from which on the curve knows better than the bracket."""
_ASIDE = (1.0, 0.94, 1.06)
"""Where the fine loads lie around the estimate: from one place alone no steepness is seen."""
_LEAST_PER_LOOK = 60
_SPARE = 8


Announce = Callable[[Text], None]
"""Is told, before it takes its time, how long something takes."""


class Drives(Protocol):
    """Sends a segment: `Run`, or a model of a server."""

    async def drive(self, segment: Segment, target: str = "", *, overload: bool = False) -> Driven:
        """Send it and return what came of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What of one or several loads at a rate is judged."""

    records: tuple[RequestRecord, ...] = ()
    dropped: int = 0
    unsent_ns: tuple[int, ...] = ()
    """When those were due, as far as that is known."""

    def __add__(self, later: "Offered") -> "Offered":
        """Put two loads one after the other."""
        return Offered(
            records=self.records + later.records,
            dropped=self.dropped + later.dropped,
            unsent_ns=self.unsent_ns + later.unsent_ns,
        )


@dataclass(slots=True, kw_only=True)
class _Search:
    """A search under way."""

    drives: Drives
    slo: Slo
    options: BenchOptions
    budget_s: float
    spent_s: float = 0.0
    num_loads: int = 0
    most_in_flight: int = 64
    interrupted: bool = False
    loads: list[Load] = field(default_factory=list)

    def needed_s(self, pace_per_s: float) -> float:
        """Return how long a search takes whose proof is sent at this pace."""
        return search_s(self.slo, pace_per_s, proof_share=1.0 - _FINE_UNTIL, judged_share=1.0 - SETTLING)

    async def send(self, segment: Segment) -> Driven:
        """Send a segment and account for its time."""
        driven = await self.drives.drive(segment, overload=True)
        self.spent_s += (driven.ended_ns - driven.began_ns) / NS_PER_S
        self.interrupted |= driven.interrupted
        return driven

    async def offer(self, rate_per_s: float, seconds: float) -> Offered:
        """Offer a rate for some time; return what is to be judged."""
        self.num_loads += 1
        offsets = arrivals(
            self.options.arrivals,
            rate_per_s,
            duration_s=seconds,
            seed=self.options.seed + self.num_loads,
            burstiness=self.options.burstiness,
        )
        driven = await self.send(
            Segment(
                name=f"{self.num_loads}: {show_number(rate_per_s, 4)}/s",
                load=OpenLoop(offsets_ns=offsets),
                duration_s=seconds,
                max_in_flight=self.most_in_flight,
            )
        )
        settled_ns = driven.began_ns + round(SETTLING * seconds * NS_PER_S)
        unsent_ns = driven.unsent_ns
        settled = tuple(each for each in unsent_ns if each >= settled_ns)
        return Offered(
            records=tuple(each for each in driven.records if each.scheduled_ns >= settled_ns),
            # Where it is not known when they were due, they were due at any time.
            dropped=len(settled) if unsent_ns else round((1.0 - SETTLING) * driven.dropped),
            unsent_ns=settled,
        )

    def judged(self, offered: Offered, alpha: float = ALPHA) -> SloVerdict:
        """Judge requests against the objective."""
        return judge(
            offered.records,
            self.slo,
            alpha=alpha,
            dropped=offered.dropped,
            unsent_ns=offered.unsent_ns,
            timeout_s=self.options.timeout_s,
        )

    async def load(self, rate_per_s: float, seconds: float) -> Load:
        """Offer a rate and keep what came of it."""
        offered = await self.offer(rate_per_s, seconds)
        found = self.told(rate_per_s, seconds, offered, self.judged(offered))
        self.loads.append(found)
        return found

    def told(self, rate_per_s: float, seconds: float, offered: Offered, verdict: SloVerdict) -> Load:
        """Return what came of a rate that was offered for so long."""
        return Load(
            rate_per_s=rate_per_s,
            came_per_s=(len(offered.records) + offered.dropped) / (seconds * (1.0 - SETTLING)) or rate_per_s,
            records=offered.records,
            dropped=offered.dropped,
            verdict=verdict,
        )

    def observed(self, clause: int) -> list[Observed]:
        """Return what the loads said about one clause."""
        return [
            Observed(
                rate_per_s=load.came_per_s,
                misses=load.verdict.clauses[clause].misses,
                n=load.verdict.clauses[clause].n,
                time=load.verdict.clauses[clause].time,
            )
            for load in self.loads
            if load.verdict.clauses[clause].n
        ]

    def bracket(self) -> tuple[float | None, float | None]:
        """Return the highest rate at which every clause seems to be kept, and the lowest at which one does not."""
        pairs = [
            bracket(loads, clause.allowed)
            for index, clause in enumerate(self.slo.clauses)
            if (loads := self.observed(index))
        ]
        good = [low for low, _ in pairs]
        bad = [high for _, high in pairs if high is not None]
        lows = [low for low in good if low is not None]
        return (min(lows) if lows and len(lows) == len(good) else None, min(bad) if bad else None)

    def estimate(self) -> tuple[HighestRate, str] | None:
        """Return the lowest rate at which a clause stops being kept, and the clause."""
        found = [
            (highest_rate(loads, clause.allowed), clause.text)
            for index, clause in enumerate(self.slo.clauses)
            if (loads := self.observed(index))
        ]
        return min(found, key=lambda each: each[0].rate_per_s) if found else None


async def find_capacity(
    drives: Drives,
    slo: Slo,
    options: BenchOptions,
    budget_s: float | None = None,
    announce: Announce = lambda _text: None,
) -> Capacity:
    """Search for the highest rate at which the objective is kept, within a budget of time (and the last answers).

    Args:
        drives: Sends segments.
        slo: The objective.
        options: How requests arrive and when they are given up.
        budget_s: How long the search may take; without it as long as a decision needs at this server.
        announce: Is told how long that is.
    """
    search = _Search(drives=drives, slo=slo, options=options, budget_s=budget_s or LEAST_S)
    if budget_s is None:
        await _plan(search, announce)
    alone, most_per_s = await _what_callers_get(search, None if budget_s is None else announce)
    if alone.decision is Outcome.FAIL or search.interrupted or not most_per_s:
        return Capacity(alone=alone, most_per_s=most_per_s, loads=(), found=None, interrupted=search.interrupted)
    if budget_s is None:
        likely_s = search.needed_s((1.0 - HEADROOM) * _FIRST_GUESS * most_per_s)
        likely_s = max(likely_s, search.spent_s / _LEAST_LEFT)
        if not 1 / _OTHERWISE < likely_s / search.budget_s < _OTHERWISE:
            announce(plan_sentence(search.slo, likely_s, None))
        search.budget_s = likely_s
    await _approach(search, most_per_s)
    await _narrow(search, most_per_s)
    best = search.estimate()
    if best is None:
        return Capacity(
            alone=alone,
            most_per_s=most_per_s,
            loads=tuple(search.loads),
            found=None,
            interrupted=search.interrupted,
        )
    found, limiting = best
    # Beyond what was tried the curve is a guess.
    seems_per_s = (
        found.rate_per_s if found.inside else min(found.rate_per_s, max(each.rate_per_s for each in search.loads))
    )
    proving_per_s = (1.0 - HEADROOM) * seems_per_s
    left_s = max(0.0, search.budget_s - search.spent_s)
    proof = None if search.interrupted else await _looks(search, proving_per_s, left_s)
    return Capacity(
        alone=alone,
        most_per_s=most_per_s,
        loads=tuple(search.loads),
        found=found,
        limiting=limiting,
        proving_per_s=proving_per_s,
        proof=proof,
        needed_s=search.needed_s(proving_per_s),
        interrupted=search.interrupted,
    )


async def _plan(search: _Search, announce: Announce) -> None:
    """Ask a few times alone, and set and announce a budget that suffices for a decision."""
    driven = await search.send(Segment(name="alone", load=ClosedLoop(users=1, requests=_ALONE_REQUESTS)))
    if (alone_s := _answer_s(driven)) is not None:
        search.budget_s = search.needed_s(pace_of_one(alone_s))
        announce(plan_sentence(search.slo, search.budget_s, None))


def _answer_s(driven: Driven) -> float | None:
    """Return the mean time of an answer; None without one."""
    stays_ns = [(each.ended_ns or 0) - (each.sent_ns or 0) for each in answers_of(driven.records)]
    return sum(stays_ns) / len(stays_ns) / NS_PER_S if stays_ns else None


async def _what_callers_get(search: _Search, announce: Announce | None) -> tuple[SloVerdict, float]:
    """Return the verdict on one caller, and what more and more callers get done at most per second."""
    seconds = _LADDER_SHARE * search.budget_s
    alone: SloVerdict | None = None
    most_per_s, users_at_most = 0.0, 1
    for users in _LADDER:
        driven = await search.send(
            Segment(
                name=f"users={users}",
                load=ClosedLoop(users=users),
                duration_s=seconds,
            )
        )
        alone = alone or search.judged(Offered(records=tuple(driven.records)))
        if announce is not None and users == 1 and (alone_s := _answer_s(driven)) is not None:
            announce(plan_sentence(search.slo, search.needed_s(pace_of_one(alone_s)), search.budget_s))
        done_per_s = answers_per_s(driven)
        gained = done_per_s > _STILL_GAINS * most_per_s
        if done_per_s > most_per_s:
            most_per_s, users_at_most = done_per_s, users
        if search.interrupted or alone.decision is Outcome.FAIL or not gained:
            break
    longest_s = max((bound.limit_s for bound in search.slo.bounds), default=0.0)
    search.most_in_flight = math.ceil(2 * most_per_s * longest_s) + 2 * users_at_most + _SPARE
    assert alone is not None  # noqa: S101 -- the ladder has a first step
    return alone, most_per_s


async def _approach(search: _Search, most_per_s: float) -> None:
    """Bracket the rate with short loads."""
    rate_per_s = _FIRST_GUESS * most_per_s
    for _ in range(_NUM_COARSE):
        # A low rate gets more time, or nothing would come of it.
        await search.load(rate_per_s, _COARSE_SHARE * search.budget_s)
        if search.interrupted:
            return
        low, high = search.bracket()
        if low is None:
            rate_per_s = (high or rate_per_s) / 3
        elif high is None:
            if low >= 1.2 * most_per_s:
                return
            rate_per_s = min(1.4 * low, 1.25 * most_per_s)
        elif high < _NARROW * low:
            return
        else:
            rate_per_s = math.sqrt(low * high)


async def _narrow(search: _Search, most_per_s: float) -> None:
    """Spend most of the time close to the rate."""
    for left in range(_NUM_FINE, 0, -1):
        best = search.estimate()
        seconds = (_FINE_UNTIL * search.budget_s - search.spent_s) / left
        if best is None or search.interrupted or seconds <= 0:
            return
        aside = _ASIDE[left % len(_ASIDE)]
        await search.load(min(best[0].rate_per_s, 1.3 * most_per_s) * aside, seconds)


async def _looks(search: _Search, rate_per_s: float, seconds: float) -> Load | None:
    """Judge a rate: at most three looks at growing data, and together they spend alpha."""
    if rate_per_s * seconds < 1:
        return None
    parts = (0.25, 0.25, 0.5) if 0.25 * rate_per_s * seconds >= _LEAST_PER_LOOK else (1.0,)
    offered = Offered()
    found: Load | None = None
    for look, part in enumerate(parts):
        offered += await search.offer(rate_per_s, part * seconds)
        alpha = alpha_spent(look) if len(parts) == len(SPENDING) else ALPHA
        found = search.told(rate_per_s, seconds, offered, search.judged(offered, alpha))
        if search.interrupted or found.verdict.decision is not Outcome.UNDECIDED:
            break
    return found


async def slo(
    run: "MeasuredRun", *, budget_s: float | None = None, announce: Announce = lambda _text: None
) -> Conclusion:
    """Judge `options.rate`, or search for the highest rate that keeps `options.slo`.

    Without a budget it takes as long as a decision needs; how long that is, is announced as soon as it is known.

    Raises:
        ConfigError: There is no objective, or it cannot be read.
    """
    options = run.options
    objective = objective_of(options.slo)
    warmup = 1 if options.warmup is None else options.warmup
    if warmup:
        await run.drive(
            Segment(name="warm-up", load=ClosedLoop(users=1, requests=warmup), phase=Phase.WARMUP), overload=True
        )
    if options.rate:
        return await _at_rate(run, objective, options.rate, budget_s, announce)
    run.expected_s = budget_s
    return capacity_conclusion(await find_capacity(run, objective, options, budget_s, announce), objective)


class MeasuredRun(Drives, Protocol):
    """What the command needs of `Run`."""

    options: BenchOptions
    expected_s: float | None


async def _at_rate(
    run: MeasuredRun, objective: Slo, rate_per_s: float, budget_s: float | None, announce: Announce
) -> Conclusion:
    """Judge one rate for the time that the options say, or that a decision needs."""
    options = run.options
    given_s = options.duration_s or (options.requests / rate_per_s if options.requests else budget_s)
    needed_s = proof_s(objective, rate_per_s, judged_share=1.0 - SETTLING)
    seconds = needed_s if given_s is None else given_s
    announce(plan_sentence(objective, needed_s, given_s))
    run.expected_s = seconds
    search = _Search(drives=run, slo=objective, options=options, budget_s=seconds)
    longest_s = max((bound.limit_s for bound in objective.bounds), default=0.0)
    search.most_in_flight = math.ceil(2 * rate_per_s * longest_s) + 64
    load = await _looks(search, rate_per_s, seconds)
    verdict = load.verdict if load else search.judged(Offered())
    return Conclusion(
        outcome=verdict.decision,
        exit_code=EXITS[verdict.decision],
        sentences=(verdict_sentence(verdict, rate_per_s), *failed_clauses(verdict)),
        tables=(clause_table(verdict),),
        data={"slo": objective.text, "rate_per_s": rate_per_s, "verdict": verdict_data(verdict)},
    )
