"""`bench load`: send at a rate, or keep callers busy, for a while.

An open loop answers what callers get who do not wait for one another; a closed loop what a fixed number of callers
gets. Without either it is the usual test: five callers for a minute.
"""

from collections.abc import Sequence
from typing import Any

from qwenops.bench.backlog import GROWTH, backlog_of
from qwenops.bench.conclusion import EXIT_MISSED, Conclusion, Outcome
from qwenops.bench.objective import Slo, SloVerdict, judge, parse_slo, verdict_data
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Phase
from qwenops.bench.run import Run
from qwenops.bench.schedule import arrivals
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.stats import Summary, summarise, summary_data
from qwenops.bench.tables import (
    detail_table,
    failure_table,
    overview_table,
    ramp_sentences,
    retry_sentence,
    summary_sentence,
    user_names,
)
from qwenops.bench.words import outcome_word, part_word
from qwenops.errors import ConfigError
from qwenops.text import Text, say

USERS = 5
DURATION_S = 60.0
MOST_IN_FLIGHT = 1000
"""More than any server on a CPU works at; a client that held more would measure itself."""


async def load(run: Run, *, users: Sequence[int] = ()) -> Conclusion:
    """Load the target as the options say; several numbers of callers are tried one after the other.

    Raises:
        ConfigError: A rate and callers were asked for at the same time.
    """
    segments = segments_of(run, users)
    run.expected_s = sum(each.duration_s or 0.0 for each in segments) or None
    await warm_up(run, at_once=max((_users(each) for each in segments), default=1))
    slo = parse_slo(run.options.slo) if run.options.slo else None
    drivens = [await run.drive(each) for each in segments]
    return concluded(run, [each for each in drivens if each.records or each.dropped], slo)


def check_loop(options: BenchOptions, users: Sequence[int] = ()) -> None:
    """Make sure that there is one loop, open or closed.

    Raises:
        ConfigError: A rate and callers were asked for at the same time.
    """
    if options.rate is not None and (users or options.users is not None):
        raise ConfigError(
            say("Both a rate and a number of users were given."),
            hint=say("Give --rate for an open loop, or --users for a closed one."),
        )


def segments_of(run: Run, users: Sequence[int] = ()) -> list[Segment]:
    """Return what is to be sent: an open loop, or closed ones."""
    options, arrivals_ns = run.options, run.workload.arrivals_ns
    check_loop(options, users)
    if options.rate is None and not users and options.users is None and arrivals_ns is not None:
        return [_replayed(run, arrivals_ns)]
    duration_s = options.duration_s
    if duration_s is None and options.requests is None:
        duration_s = DURATION_S
    if options.rate is not None:
        return [open_segment(run, "load", options.rate, duration_s=duration_s, count=options.requests)]
    return [
        Segment(
            name=f"users={each}",
            load=ClosedLoop(users=each, requests=options.requests),
            duration_s=duration_s,
        )
        for each in users or (options.users or USERS,)
    ]


def open_segment(
    run: Run, name: str, rate_per_s: float, *, duration_s: float | None, count: int | None = None
) -> Segment:
    """Return an open loop at a rate, spaced as the options say."""
    options = run.options
    offsets = arrivals(
        options.arrivals,
        rate_per_s,
        duration_s=duration_s,
        count=count,
        seed=options.seed,
        burstiness=options.burstiness,
    )
    return Segment(
        name=name,
        load=OpenLoop(offsets_ns=offsets),
        duration_s=duration_s,
        max_in_flight=options.num_connections or MOST_IN_FLIGHT,
    )


async def warm_up(run: Run, *, at_once: int = 1, usual: int = 2) -> Driven | None:
    """Send what is recorded and not counted: as many as the options say, else `usual` of each caller at once."""
    number = run.options.warmup
    if number is None:
        number = usual * min(at_once, 4)
    if not number:
        return None
    loop = ClosedLoop(users=min(number, max(1, at_once)), requests=number)
    return await run.drive(Segment(name="warm-up", load=loop, phase=Phase.WARMUP))


def concluded(run: Run, drivens: Sequence[Driven], slo: Slo | None) -> Conclusion:
    """Return what the segments of a load came to."""
    summaries = [summarise(each, bounds=slo.met if slo else None) for each in drivens]
    sentences: list[Text] = [summary_sentence(each) for each in summaries]
    verdicts, missed = [], False
    for driven, summary in zip(drivens, summaries, strict=True):
        behind = _behind(driven, summary)
        retry = retry_sentence(driven)
        sentences += [each for each in (behind, retry) if each is not None]
        if slo is not None:
            verdict = judge(
                driven.records,
                slo,
                dropped=driven.dropped,
                unsent_ns=driven.unsent_ns,
                timeout_s=run.options.timeout_s,
            )
            verdicts.append({"segment": summary.segment, **verdict_data(verdict)})
            missed = missed or verdict.decision is Outcome.FAIL
            sentences.append(
                say(
                    "{segment}: the objective '{objective}' is judged {decision}.",
                    segment=part_word(summary.segment),
                    objective=slo.text,
                    decision=outcome_word(verdict.decision),
                )
            )
            if verdict.decision is Outcome.UNDECIDED:
                sentences.append(_undecided(verdict))
    sentences += ramp_sentences(summaries)
    tables = [overview_table(say("Load"), summaries)]
    tables += [detail_table(say("Latencies: {part}", part=part_word(each.segment)), each) for each in summaries]
    failures = failure_table(say("Failures"), summaries)
    data: dict[str, Any] = {"segments": [summary_data(each) for each in summaries], "verdicts": verdicts}
    if drivens:
        data["qps_test"] = user_names(summaries[0], drivens[0])
    return Conclusion(
        outcome=Outcome.DONE,
        sentences=tuple(sentences),
        exit_code=EXIT_MISSED if missed else 0,
        tables=(*tables, *((failures,) if failures else ())),
        data=data,
    )


def _undecided(verdict: SloVerdict) -> Text:
    """Say that no decision is no failure, and what would make one."""
    if verdict.more_requests:
        return say(
            "So many requests do not decide it; about {more} more would. Until then the exit code is 0.",
            more=verdict.more_requests,
        )
    return say("So many requests do not decide it: it is too close. The exit code is 0.")


def _replayed(run: Run, arrivals_ns: Sequence[int]) -> Segment:
    """Return a trace's own times, as far as the options want them."""
    end_ns = None if run.options.duration_s is None else run.options.duration_s * 1e9
    offsets = [each for each in arrivals_ns[: run.options.requests] if end_ns is None or each < end_ns]
    return Segment(
        name="trace",
        load=OpenLoop(offsets_ns=tuple(offsets)),
        duration_s=run.options.duration_s,
        max_in_flight=run.options.num_connections or MOST_IN_FLIGHT,
    )


def _users(segment: Segment) -> int:
    return segment.load.users if isinstance(segment.load, ClosedLoop) else 1


def _behind(driven: Driven, summary: Summary) -> Text | None:
    """Say when a server did not keep up with an open loop."""
    backlog = backlog_of(driven)
    if backlog is None or not backlog.grows:
        return None
    if backlog.unsent_share > GROWTH:
        return say(
            "{segment}: the server did not keep up: {share:.0%} of the requests were not sent, because too many were "
            "in flight.",
            segment=part_word(summary.segment),
            share=backlog.unsent_share,
        )
    return say(
        "{segment}: the server did not keep up: in the second half {last:.0f} requests were in flight on average, in "
        "the first {first:.0f}. Latencies at this rate grow as long as it lasts.",
        segment=part_word(summary.segment),
        last=backlog.last,
        first=backlog.first,
    )
