"""Summaries as tables and sentences, the same for every command."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwenops.bench.conclusion import Cell, Table
from qwenops.bench.definitions import METRICS
from qwenops.bench.drive import LONGEST_PAUSE_S, MOST_REFUSALS
from qwenops.bench.objective import SloVerdict
from qwenops.bench.record import NS_PER_S
from qwenops.bench.segment import ClosedLoop, Driven
from qwenops.bench.stats import Distribution, Estimate, Summary, measure
from qwenops.bench.window import NOTABLE_RAMP
from qwenops.bench.words import listed, outcome_word, part_word
from qwenops.options import format_seconds, show_number
from qwenops.text import Text, say

_DETAILED = {
    "ttft": "",
    "ttfa": "ttft",
    "ttft_response": "ttft",
    "tpot": "",
    "icl": "",
    "stall": "",
    "e2e": "",
    "e2e_response": "e2e",
}
"""What is shown, and which other one makes it superfluous where both are the same."""
_SAME = 0.01
_THREE_DIGITS = 100


def show_s(seconds: float | None) -> str | None:
    """Write a duration for reading, with three digits that count: `0.25 ms`, `81.2 ms`, `1.32 s`."""
    if seconds is None:
        return None
    amount, unit = (seconds * 1000, "ms") if abs(seconds) < 1 else (seconds, "s")
    digits = 2 if abs(amount) < 10 else 1 if abs(amount) < _THREE_DIGITS else 0  # noqa: PLR2004 -- digits before the point
    return f"{amount:.{digits}f} {unit}"


def show_measure(text: str, value: float | None) -> str | None:
    """Write the value of a figure such as `ttft p95` or `errors` for reading, with its unit."""
    if value is None:
        return None
    name = text.partition(" ")[0]
    match METRICS[name].unit if name in METRICS else "share":
        case "s":
            return show_s(value)
        case "share":
            return f"{value:.2%}"
        case unit:
            return f"{show_number(value)} {unit}"


def show_estimate(estimate: Estimate | None) -> str | None:
    """Write a percentile with its interval, or why there is none."""
    if estimate is None:
        return None
    if estimate.value is None:
        return estimate.note or None
    if estimate.low is not None and estimate.high is not None:
        return f"{show_s(estimate.value)} ({show_s(estimate.low)} - {show_s(estimate.high)})"
    if estimate.high is not None:
        return f"{show_s(estimate.value)} (< {show_s(estimate.high)})"
    return show_s(estimate.value)


def overview_table(title: str, summaries: Iterable[Summary]) -> Table:
    """Return one line for each segment: how much came through, and how fast."""
    return Table(
        title=title,
        headings=(
            say("part"),
            say("sent"),
            say("failed"),
            say("answers/s"),
            say("tokens/s"),
            say("TTFT median"),
            say("TTFT p95"),
            say("TPOT median"),
            say("E2E median"),
            say("E2E p95"),
        ),
        rows=tuple(
            (
                part_word(each.segment),
                each.counts.sent,
                each.counts.failed + each.counts.dropped,
                rate(each, "completed_rate"),
                rate(each, "output_tokens_per_s"),
                show_s(measure(each, "ttft p50")),
                _known(each, "ttft", 95),
                show_s(measure(each, "tpot p50")),
                show_s(measure(each, "e2e p50")),
                _known(each, "e2e", 95),
            )
            for each in summaries
        ),
    )


def detail_table(title: str, summary: Summary) -> Table:
    """Return one line for each latency of a segment, with what is known of its distribution."""
    rows: list[tuple[Cell, ...]] = []
    for name, usual in _DETAILED.items():
        found = summary.distributions.get(name)
        if found is not None and not _says_the_same(found, summary.distributions.get(usual)):
            percentiles = (show_estimate(found.percentiles[each]) for each in (50, 90, 95, 99))
            rows.append((METRICS[name].title, found.n, show_s(found.mean), *percentiles, show_s(found.max)))
    return Table(
        title=title,
        headings=(say("latency"), "n", say("mean"), say("median"), "p90", "p95", "p99", say("longest")),
        rows=tuple(rows),
    )


def clause_table(verdict: SloVerdict) -> Table:
    """Show what is known about each clause."""
    return Table(
        title=say("Objective"),
        headings=(
            say("clause"),
            say("verdict"),
            say("may miss"),
            say("missed"),
            say("requests"),
            say("worth"),
            say("true share between"),
            say("more to decide"),
        ),
        rows=tuple(
            (
                each.clause.text,
                outcome_word(each.decision),
                f"{each.clause.allowed:.2%}",
                f"{each.miss_share:.2%}",
                each.n,
                each.independent,
                f"{each.low:.2%} - {each.high:.2%}",
                each.more_requests,
            )
            for each in verdict.clauses
        ),
    )


def failure_table(title: str, summaries: Sequence[Summary]) -> Table | None:
    """Return what went wrong, by its class; None when nothing did."""
    rows = [
        (part_word(each.segment), failure, number)
        for each in summaries
        for failure, number in each.counts.failures.items()
    ]
    rows += [
        (part_word(each.segment), part_word("dropped"), each.counts.dropped)
        for each in summaries
        if each.counts.dropped
    ]
    if not rows:
        return None
    return Table(title=title, headings=(say("part"), say("failure"), say("requests")), rows=tuple(rows))


def rate(summary: Summary, name: str) -> Cell:
    """Return a rate as a cell; where chunks stand for tokens it says so."""
    value = summary.rates.get(name)
    if name == "output_tokens_per_s" and summary.counts_chunks and value is not None:
        return say("{number:,.1f} chunks", number=value)
    return value


def summary_sentence(summary: Summary) -> Text:
    """Say in one sentence what a segment showed."""
    counts = summary.counts
    if not counts.ok:
        return say(
            "{segment}: none of {sent} requests had a good answer.",
            segment=part_word(summary.segment),
            sent=counts.sent,
        )
    tokens = summary.rates.get("output_tokens_per_s") or 0.0
    written = say("{number} tokens a second", number=show_number(tokens))
    if summary.counts_chunks:
        written = say("{number} chunks a second (the server did not count its tokens)", number=show_number(tokens))
    return say(
        "{segment}: {ok} of {sent} requests had a good answer, {rate} a second; the first token came after {ttft} "
        "and the whole answer after {e2e} ({which}), {written} in all.",
        segment=part_word(summary.segment),
        ok=counts.ok,
        sent=counts.sent,
        rate=show_number(summary.rates.get("completed_rate") or 0.0),
        ttft=show_s(_middle(summary, "ttft")) or "-",
        e2e=show_s(_middle(summary, "e2e")) or "-",
        which=say("medians") if _has_medians(summary) else say("means: too few for medians"),
        written=written,
    )


def ramp_sentences(summaries: Iterable[Summary]) -> tuple[Text, ...]:
    """Say what of each segment its rates leave out, and where that makes them less sure than they look."""
    ramped = [each for each in summaries if each.steady.ramp_ns > 0]
    if not ramped:
        return ()
    left_out = listed(
        [
            say("{part} {seconds}", part=part_word(each.segment), seconds=show_s(each.steady.ramp_ns / NS_PER_S) or "")
            for each in ramped
        ]
    )
    sentences = [
        say("Rates are taken after the ramp, in which the server fills. It lasted: {left_out}.", left_out=left_out)
    ]
    for each in ramped:
        steady, seconds = each.steady, each.steady.length_ns / NS_PER_S
        if not steady.is_over:
            text = say(
                "{segment}: when half of the window was over the ramp was not: the rates of the other {seconds:.1f} s "
                "may be off. Measure longer.",
                segment=part_word(each.segment),
                seconds=seconds,
            )
            sentences.append(text)
        elif steady.ramp_ns > NOTABLE_RAMP * each.window_s * NS_PER_S:
            text = say(
                "{segment}: the ramp took {share:.0%} of the window, so rates come from {seconds:.1f} s. "
                "Measure longer.",
                segment=part_word(each.segment),
                share=steady.ramp_ns / NS_PER_S / each.window_s,
                seconds=seconds,
            )
            sentences.append(text)
    return tuple(sentences)


def retry_sentence(driven: Driven) -> Text | None:
    """Say when callers were told to stay away for longer than they do; None when they were not."""
    told_s = max((each.retry_after_s or 0.0 for each in driven.records), default=0.0)
    load = driven.segment.load
    if told_s <= LONGEST_PAUSE_S or not isinstance(load, ClosedLoop):
        return None
    ended_early = load.requests is not None and len(driven.records) < load.requests and not driven.interrupted
    if driven.segment.duration_s is None and ended_early:
        return say(
            "{segment}: the server told callers to stay away for up to {told}. They came back after {longest} each "
            "time, and gave up after {most} times.",
            segment=part_word(driven.segment.name),
            told=format_seconds(told_s),
            longest=format_seconds(LONGEST_PAUSE_S),
            most=MOST_REFUSALS,
        )
    return say(
        "{segment}: the server told callers to stay away for up to {told}; they came back after {longest}.",
        segment=part_word(driven.segment.name),
        told=format_seconds(told_s),
        longest=format_seconds(LONGEST_PAUSE_S),
    )


def user_names(summary: Summary, driven: Driven) -> dict[str, Any]:
    """Return the figures under the names of the first design of this tool, in milliseconds."""
    counts, latency = summary.counts, summary.distributions.get("e2e")
    load = driven.segment.load
    data: dict[str, Any] = {
        "total_requests": counts.sent,
        "successful_requests": counts.ok,
        "error_rate": counts.failed / counts.sent if counts.sent else None,
        "qps": summary.rates.get("completed_rate"),
        "test_duration": summary.window_s,
        "concurrent_users": load.users if isinstance(load, ClosedLoop) else None,
    }
    return data | {f"{name}_latency_ms": value for name, value in _milliseconds(latency).items()}


def _says_the_same(found: Distribution, other: Distribution | None) -> bool:
    """Whether two distributions differ by less than anybody would look at."""
    if other is None or found.n != other.n:
        return False
    pairs = ((found.mean, other.mean), (found.max, other.max))
    return all(one is not None and two is not None and abs(one - two) <= _SAME * two for one, two in pairs)


def _milliseconds(latency: Distribution | None) -> Mapping[str, float | None]:
    if latency is None:
        return {}
    seconds = {
        "avg": latency.mean,
        "min": latency.min,
        "max": latency.max,
        **{f"p{each}": latency.percentiles[each].value for each in (50, 95, 99)},
    }
    return {name: None if value is None else value * 1000 for name, value in seconds.items()}


def _has_medians(summary: Summary) -> bool:
    found = [each for name in ("ttft", "e2e") if (each := summary.distributions.get(name)) is not None]
    return all(each.p50.value is not None for each in found)


def _middle(summary: Summary, name: str) -> float | None:
    """Return the median, or the mean where the table gives no median because there are too few answers."""
    found = summary.distributions.get(name)
    if found is None:
        return None
    return found.p50.value if _has_medians(summary) else found.mean


def _known(summary: Summary, name: str, percentile: int) -> str | None:
    """Return a percentile, or why it is not known, without its interval."""
    found = summary.distributions.get(name)
    if found is None:
        return None
    estimate = found.percentiles[percentile]
    return estimate.note if estimate.value is None else show_s(estimate.value)
