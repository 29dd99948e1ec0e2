"""`bench latency`: one caller, one request after the other; how long an answer takes when nobody else asks.

Four parts, two named after the cache policy `warm` (a prefix cache knows the shared beginning) and two after `bust` (it
finds nothing), each without and with thinking. The very first request is shown apart: it may load a model, or fill a
cache for the first time.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from qwenops.bench.conclusion import Conclusion, Outcome
from qwenops.bench.definitions import e2e_s, ttft_s
from qwenops.bench.load import warm_up
from qwenops.bench.objective import parse_slo
from qwenops.bench.record import Phase
from qwenops.bench.run import Run
from qwenops.bench.segment import ClosedLoop, Driven, Segment
from qwenops.bench.stats import Summary, measure, summarise, summary_data
from qwenops.bench.tables import (
    detail_table,
    failure_table,
    overview_table,
    show_s,
    summary_sentence,
    user_names,
)
from qwenops.bench.words import part_word
from qwenops.bench.workload import Workload
from qwenops.text import Text, say

REQUESTS = 100
THINKING_SHARE = 5
"""One in so many requests of the parts with thinking: their answers are many times as long."""
THINKING_TOKENS = 256
"""Room for thoughts; below, hardly any answer begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One part of the measurement."""

    name: str
    cache: str
    thinking: bool


CONDITIONS = (
    Condition(name="warm", cache="warm", thinking=False),
    Condition(name="bust", cache="bust", thinking=False),
    Condition(name="warm, thinking", cache="warm", thinking=True),
    Condition(name="bust, thinking", cache="bust", thinking=True),
)


_POLICIES = say(
    "Prefix cache: it could find the beginning that all prompts share in the parts called warm, and nothing in those "
    "called bust."
)


async def latency(run: Run) -> Conclusion:
    """Ask one request after the other, under each condition."""
    first = await first_request(run)
    _expect(run, first)
    await warm_up(run)
    drivens = []
    for condition in CONDITIONS:
        segment = Segment(
            name=condition.name,
            load=ClosedLoop(users=1, requests=requests_of(run, condition)),
            # With and without the shared beginning the same is asked; what thinks must not find these prompts again.
            first_item=max(map(partial(requests_of, run), CONDITIONS)) if condition.thinking else 0,
        )
        drivens.append(await run.drive(segment, workload=_workload(run, condition)))
    drivens = [each for each in drivens if each.records]
    bounds = parse_slo(run.options.slo).met if run.options.slo else None
    summaries = [summarise(each, bounds=bounds) for each in drivens]
    failures = failure_table(say("Failures"), summaries)
    data: dict[str, Any] = {"segments": [summary_data(each) for each in summaries], "first": first_data(first)}
    data["cache"] = {each.name: each.cache for each in CONDITIONS}
    if drivens:
        data["latency_test"] = {"iterations": len(drivens[0].records), **user_names(summaries[0], drivens[0])}
    return Conclusion(
        outcome=Outcome.DONE,
        sentences=(*first_sentences(first), *map(summary_sentence, summaries), *_compared(summaries), _POLICIES),
        tables=(
            overview_table(say("One caller"), summaries),
            *(detail_table(say("Latencies: {part}", part=part_word(each.segment)), each) for each in summaries),
            *((failures,) if failures else ()),
        ),
        data=data,
    )


def requests_of(run: Run, condition: Condition) -> int:
    """Return how many requests a part has."""
    number = run.options.requests or REQUESTS
    return max(1, number // THINKING_SHARE) if condition.thinking else number


async def first_request(run: Run, workload: Workload | None = None) -> Driven:
    """Send the run's very first request, which is never counted with the others."""
    segment = Segment(name="first", load=ClosedLoop(users=1, requests=1), phase=Phase.WARMUP)
    return await run.drive(segment, workload=workload)


def first_sentences(first: Driven) -> tuple[Text, ...]:
    """Say how long the very first request took."""
    record = next(iter(first.records), None)
    if record is None:
        return ()
    ttft, whole = show_s(ttft_s(record)), show_s(e2e_s(record))
    if ttft is None or whole is None:
        return (say("The very first request failed: {reason}.", reason=record.message or str(record.failure)),)
    return (say("The very first request: first token after {ttft}, whole answer after {e2e}.", ttft=ttft, e2e=whole),)


def first_data(first: Driven) -> dict[str, Any] | None:
    """Return the very first request's figures."""
    record = next(iter(first.records), None)
    return None if record is None else {"ttft_s": ttft_s(record), "e2e_s": e2e_s(record), "failure": record.failure}


def _workload(run: Run, condition: Condition) -> Workload:
    tokens = run.options.max_tokens
    if condition.thinking:
        tokens = max(tokens, THINKING_TOKENS)
    return run.workload_with(cache=condition.cache, thinking=condition.thinking, max_tokens=tokens)


def _expect(run: Run, first: Driven) -> None:
    """Guess from the first answer how long all of it will take."""
    record = next(iter(first.records), None)
    each_s = e2e_s(record) if record else None
    if each_s is None:
        return
    longer = max(1.0, THINKING_TOKENS / run.options.max_tokens)
    numbers = [(requests_of(run, each), longer if each.thinking else 1.0) for each in CONDITIONS]
    run.expected_s = each_s * (1 + sum(number * times for number, times in numbers))


def _compared(summaries: list[Summary]) -> list[Text]:
    """Say what the prefix cache and thinking change."""
    by_name = {each.segment: each for each in summaries}
    found = []
    warm, bust = (measure(by_name[name], "ttft p50") if name in by_name else None for name in ("warm", "bust"))
    if warm and bust:
        found.append(
            say(
                "Where a prefix cache finds nothing (bust), the first token takes {ratio:.2f} times as long as where "
                "it knows the shared beginning (warm).",
                ratio=bust / warm,
            )
        )
    thinking = by_name.get("warm, thinking")
    answer = measure(thinking, "ttfa p50") if thinking else None
    if thinking and answer is not None and thinking.distributions["ttfa"].n < thinking.counts.ok:
        found.append(
            say(
                "With thinking {number} of {all} answers began within the length allowed.",
                number=thinking.distributions["ttfa"].n,
                all=thinking.counts.ok,
            )
        )
    if thinking and answer is not None:
        found.append(say("With thinking the answer itself begins after {ttfa} (median).", ttfa=show_s(answer)))
    return found
