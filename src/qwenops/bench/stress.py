"""`bench stress`: more and more callers, up to saturation and past it, then whether the server recovers.

    alone       a few requests, one at a time: how long they take when nobody else is there
    ladder      1, 2, 4, 8, ... callers, until two steps in a row bring nothing more or the server breaks
    steady      an open loop at 80 % of the best step: does it keep up when callers do not wait?
    overload    an open loop at 150 % with a bounded backlog, then one request at a time until the time to first token
                is again what it was alone

What the server did meanwhile is told: shed, cut, restarted, ended, killed for lack of memory. With limits the server is
started here, once for each, and the knees stand side by side.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from qwenops.bench.backlog import backlog_of
from qwenops.bench.climb import OVERLOAD_SHARE, RECOVERY_REQUESTS, Climb, Recovery, Steady, conclude
from qwenops.bench.conclusion import Conclusion, Finding
from qwenops.bench.definitions import ttft_s
from qwenops.bench.knee import fit_knee, level_of
from qwenops.bench.record import NS_PER_S, Failure, Phase, RequestRecord
from qwenops.bench.run import Run
from qwenops.bench.schedule import arrivals
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.spawned import SpawnedServer, spawned_server, unless_stopped
from qwenops.bench.startup import Launch
from qwenops.bench.stats import summarise
from qwenops.bench.tables import retry_sentence
from qwenops.bench.under import LimitedGroup, Limits, limited
from qwenops.bench.words import part_word
from qwenops.command import shown
from qwenops.errors import CommandError, ConfigError, DeadlineError
from qwenops.statistics.special import t_quantile
from qwenops.text import Text, say

MOST_USERS = 512
STEADY_SHARE = 0.8
_ALONE_REQUESTS = 6
_ROUNDS = 12
"""How many answers of one caller a step lasts, within the bounds below."""
_SHORTEST_STEP_S, _LONGEST_STEP_S = 5.0, 300.0
_STAYS = 10
"""How many answers of each of its callers a step lasts at least: where they queue these take longer than alone."""
_GAIN = 1.05
_BROKEN_SHARE = 0.5
_KEEPS_UP = 0.9
"""Of the requests, where the step was too short to see a backlog grow."""
_CONFIDENCE = 0.99


async def stress(
    run: Run, *, users: Sequence[int] = (), launch: Launch | None = None, under: Sequence[Limits] = ()
) -> Conclusion:
    """Climb the ladder against the target, or against a server that is started under each of the limits.

    Args:
        run: The measurement; its target has the empty name where nothing is launched.
        users: Steps of the ladder; doubling from 1 without.
        launch: How to start the server.
        under: Limits to start it under; without any it is started as it is.

    Raises:
        ConfigError: There are limits and nothing to start.
        MissingPartError: Limits cannot be set here.
    """
    if under and launch is None:
        raise ConfigError(
            say("A server that runs already cannot be limited."),
            hint=say("Give the command that starts it as the target, with {port} for its port."),
        )
    if any(each < 1 for each in users):
        raise ConfigError(say("The ladder has a step without callers."), hint=say("Give numbers from 1."))
    steps = tuple(sorted(set(users)))
    climbs: list[Climb] = []
    if launch is None:
        climbs.append(await _climb(run, Climb(name=""), steps, "", lambda: None))
    else:
        for limits in under or (None,):
            if run.interrupted:
                break
            climbs.append(await _climb_limited(run, launch, limits, steps))
    conclusion = conclude(climbs, interrupted=run.interrupted)
    if launch is None:
        return conclusion
    return replace(conclusion, data={**conclusion.data, "command": shown(launch.argv)})


async def _climb_limited(run: Run, launch: Launch, limits: Limits | None, steps: Sequence[int]) -> Climb:
    """Start the server under limits, climb, and count what the kernel did to it."""
    climb = Climb(name=limits.text if limits else say("as it is"))
    if limits is None:
        await _climb_started(run, replace(launch, under=None), climb, steps, None)
        return climb
    with limited(limits) as group:
        await _climb_started(run, replace(launch, under=group), climb, steps, group)
        climb.counted = group.usage()
    if climb.counted.oom_kills:
        text = say("{name}: the kernel killed the server for lack of memory.", name=climb.name)
        climb.findings.append(Finding(text=text, severity="error"))
    return climb


async def _climb_started(
    run: Run, launch: Launch, climb: Climb, steps: Sequence[int], group: LimitedGroup | None
) -> None:
    """Start the server and climb; one that does not start is told with its last words."""
    try:
        async with AsyncExitStack() as stack:
            starting = spawned_server(
                launch.argv,
                url=launch.url,
                ready=launch.ready,
                timeout_s=launch.timeout_s,
                under=launch.under,
                env=launch.env,
                clock=run.clock,
            )
            server = await unless_stopped(run.stop, stack.enter_async_context(starting))
            if server is None:
                climb.failure = say("{name}: stopped before the server was ready.", name=climb.name)
                return
            target = replace(await launch.open_target(server.url), process_ids=lambda: (server.pid,))
            run.targets = {**run.targets, climb.name: target}
            try:
                await _climb(run, climb, steps, climb.name, lambda: _ended(server, group))
            finally:
                await target.engine.aclose()
    except (CommandError, DeadlineError) as error:
        climb.failure = say("{name}: the server did not start: {why}", name=climb.name, why=error.message)


def _ended(server: SpawnedServer, group: LimitedGroup | None) -> Text | None:
    """Say how a server that was started here has ended; None while it runs."""
    if server.alive():
        return None
    if group is not None and group.usage().oom_kills:
        return say("the server was killed for lack of memory")
    return say("the server ended; its last words: {words}", words=server.tail()[-300:])


@dataclass(slots=True, kw_only=True)
class _Watched:
    """A run's segments against one server, and what is noticed about it in between."""

    run: Run
    climb: Climb
    target: str
    ended: Callable[[], Text | None]
    process_ids: tuple[int, ...]
    gone: bool = False

    async def drive(self, segment: Segment) -> Driven:
        """Send a segment and note what happened to the server."""
        driven = await self.run.drive(segment, self.target, overload=True)
        self._note(driven)
        return driven

    @property
    def over(self) -> bool:
        """Whether there is nothing more to send."""
        return self.gone or self.run.interrupted

    def _note(self, driven: Driven) -> None:
        at = {"from_ns": driven.began_ns, "to_ns": driven.ended_ns}
        part = part_word(driven.segment.name)
        where = say("{target}: {part}", target=self.target, part=part) if self.target else part
        if (why := self.ended()) is not None:
            self.gone = True
            text = say("At {where}: {why}.", where=where, why=why)
            self.climb.findings.append(Finding(text=text, severity="error", **at))
        now = self.run.targets[self.target].process_ids()
        if self.process_ids and now and not set(now) & set(self.process_ids):
            text = say("At {where}: the server was restarted.", where=where)
            self.climb.findings.append(Finding(text=text, severity="error", **at))
        self.process_ids = now or self.process_ids
        for failures, sentence in _NOTICES:
            count = sum(each.failure in failures for each in driven.records)
            if count:
                text = sentence(where, count, len(driven.records))
                self.climb.findings.append(Finding(text=text, severity="warning", **at))
        if (waits := retry_sentence(driven)) is not None:
            self.climb.findings.append(Finding(text=waits, severity="warning", **at))


def _shed(where: str, count: int, total: int) -> Text:
    return say("At {where}: {count} of {total} requests were shed (429 or 503).", where=where, count=count, total=total)


def _cut(where: str, count: int, total: int) -> Text:
    return say("At {where}: {count} of {total} requests lost their connection.", where=where, count=count, total=total)


def _late(where: str, count: int, total: int) -> Text:
    return say("At {where}: {count} of {total} requests took too long.", where=where, count=count, total=total)


def _failed(where: str, count: int, total: int) -> Text:
    return say("At {where}: {count} of {total} requests failed.", where=where, count=count, total=total)


_NOTICES: tuple[tuple[frozenset[Failure], Callable[[str, int, int], Text]], ...] = (
    (frozenset({Failure.SHED}), _shed),
    (frozenset({Failure.CONNECT, Failure.CUT}), _cut),
    (frozenset({Failure.TIMEOUT}), _late),
    (frozenset({Failure.FAILED, Failure.MALFORMED, Failure.EMPTY, Failure.REJECTED}), _failed),
)


async def _climb(run: Run, climb: Climb, steps: Sequence[int], target: str, ended: Callable[[], Text | None]) -> Climb:
    """Do all parts against one server."""
    watched = _Watched(run=run, climb=climb, target=target, ended=ended, process_ids=run.targets[target].process_ids())
    warmup = run.options.warmup if run.options.warmup is not None else 1
    if warmup:
        await watched.drive(Segment(name="warm-up", load=ClosedLoop(users=1, requests=warmup), phase=Phase.WARMUP))
    alone = await watched.drive(Segment(name="alone", load=ClosedLoop(users=1, requests=_ALONE_REQUESTS)))
    climb.alone_s = level_of(alone, 1).residence_s
    if watched.over or climb.alone_s is None:
        return climb
    first = await _ladder(watched, steps, climb.alone_s)
    climb.unloaded_s = usual_bound([*alone.records, *first])
    climb.knee = fit_knee(climb.levels, seed=run.options.seed)
    best = climb.best
    if watched.over or best is None or not best.per_s:
        return climb
    backlog = max(4, 2 * best.users)
    step_s = _step_s(run, climb.alone_s, best.residence_s or climb.alone_s)
    await _steady(watched, STEADY_SHARE * best.per_s, 2 * step_s, 2 * backlog)
    if not watched.over:
        await _overload(watched, OVERLOAD_SHARE * best.per_s, step_s, backlog)
    return climb


def _step_s(run: Run, alone_s: float, stay_s: float) -> float:
    """Return how long a step lasts in which an answer takes so long: as the options say, else long enough for both."""
    usual_s = max(_ROUNDS * alone_s, _STAYS * stay_s, _SHORTEST_STEP_S)
    return run.options.duration_s or min(usual_s, _LONGEST_STEP_S)


async def _ladder(watched: _Watched, steps: Sequence[int], alone_s: float) -> Sequence[RequestRecord]:
    """Take the steps; return the records of one caller."""
    best_per_s, idle_steps = 0.0, 0
    slowest_s = alone_s
    one: Sequence[RequestRecord] = ()
    for users in steps or (1 << number for number in range(MOST_USERS.bit_length())):
        # At the worst nothing more gets done than before, and all wait for one another.
        expected_s = max(slowest_s, users / best_per_s) if best_per_s else slowest_s * users
        step_s = _step_s(watched.run, alone_s, expected_s)
        driven = await watched.drive(Segment(name=f"users={users}", load=ClosedLoop(users=users), duration_s=step_s))
        level = level_of(driven, users)
        slowest_s = max(slowest_s, level.residence_s or 0.0)
        if level.sent:
            watched.climb.levels.append(level)
        one = driven.records if users == 1 else one
        idle_steps = 0 if level.per_s > _GAIN * best_per_s else idle_steps + 1
        best_per_s = max(best_per_s, level.per_s)
        broken = level.failed > _BROKEN_SHARE * level.sent
        if watched.over or broken or (not steps and idle_steps >= 2):  # noqa: PLR2004 -- one may be chance
            break
    return one


def usual_bound(records: Sequence[RequestRecord]) -> float | None:
    """Return what the time to first token of another request would not exceed alone (99 %); None without any."""
    times = [value for each in records if each.failure is None and (value := ttft_s(each)) is not None]
    if not times:
        return None
    mean = sum(times) / len(times)
    if len(times) < 3:  # noqa: PLR2004 -- no spread that means anything
        return 1.5 * max(times)
    deviation = math.sqrt(sum((each - mean) ** 2 for each in times) / (len(times) - 1))
    reach = t_quantile(_CONFIDENCE, len(times) - 1) * deviation * math.sqrt(1.0 + 1.0 / len(times))
    return max(mean + reach, 1.05 * mean, *times)


def _open(name: str, rate_per_s: float, seconds: float, most: int, seed: int) -> Segment:
    offsets = arrivals("poisson", rate_per_s, duration_s=seconds, seed=seed)
    return Segment(name=name, load=OpenLoop(offsets_ns=offsets), duration_s=seconds, max_in_flight=most)


async def _steady(watched: _Watched, rate_per_s: float, seconds: float, most: int) -> None:
    driven = await watched.drive(_open("steady", rate_per_s, seconds, most, watched.run.options.seed))
    if not driven.records:
        return
    summary = summarise(driven)
    ttft = summary.distributions.get("ttft")
    backlog, completed_per_s = backlog_of(driven), summary.rates.get("completed_rate") or 0.0
    watched.climb.steady = Steady(
        rate_per_s=(len(driven.records) + driven.dropped) * NS_PER_S / max(1, driven.window_ns),
        completed_per_s=completed_per_s,
        dropped=driven.dropped,
        ttft_s=ttft.p50.value if ttft else None,
        keeps_up=completed_per_s >= _KEEPS_UP * rate_per_s if backlog is None else not backlog.grows,
    )


async def _overload(watched: _Watched, rate_per_s: float, seconds: float, most: int) -> None:
    driven = await watched.drive(_open("overload", rate_per_s, seconds, most, watched.run.options.seed + 1))
    end_ns = driven.began_ns + driven.window_ns
    if watched.over:
        return
    after = await watched.drive(
        Segment(name="recovery", load=ClosedLoop(users=1, requests=RECOVERY_REQUESTS), phase=Phase.RECOVERY)
    )
    bound_s = watched.climb.unloaded_s
    first = next(
        (each for each in after.records if (value := ttft_s(each)) is not None and bound_s and value <= bound_s), None
    )
    drained_s = max(0, driven.ended_ns - end_ns) / NS_PER_S
    watched.climb.recovery = Recovery(
        drained_s=drained_s,
        recovered_s=None if first is None or first.sent_ns is None else max(0, first.sent_ns - end_ns) / NS_PER_S,
        dropped=driven.dropped,
    )
