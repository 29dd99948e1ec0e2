"""What a long run's latencies do not show: requests that fail, and a server that was started again. Pure.

A server that answers a tenth of its requests, quickly, has good latencies; one that is started again every hour never
shows the memory it loses in a day. Neither is stable, and what was watched across a restart is no one server's.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenops.bench.conclusion import Finding, Outcome
from qwenops.bench.record import NS_PER_S
from qwenops.statistics import binomial_cdf, binomial_lower
from qwenops.text import Text, say

MOST_FAILURES = 0.01
"""The share of requests that may fail, where no objective says another."""
ALPHA = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """What the failures of a run say."""

    outcome: Outcome
    """Stable, fail (too many), drift (more and more) or inconclusive (more than allowed, perhaps by chance)."""
    failed: int
    asked: int
    sentence: Text | None = None


def judge_failures(windows: Sequence[tuple[int, int]], *, allowed: float = MOST_FAILURES) -> Failing:
    """Judge how many requests failed, in windows of equal time: how many were asked, and how many of them failed."""
    asked, failed = sum(each for each, _ in windows), sum(each for _, each in windows)
    if not failed:
        return Failing(outcome=Outcome.STABLE, failed=0, asked=asked)
    share = failed / asked
    told = {"failed": failed, "asked": asked, "share": share, "allowed": allowed}
    if binomial_lower(failed, asked, ALPHA) > allowed:
        sentence = say(
            "FAIL: {failed} of {asked} requests failed ({share:.1%}), where {allowed:.1%} are allowed.", **told
        )
        return Failing(outcome=Outcome.FAIL, failed=failed, asked=asked, sentence=sentence)
    half = len(windows) // 2
    (first_asked, first_failed), (asked_later, failed_later) = (
        (sum(each for each, _ in part), sum(each for _, each in part)) for part in (windows[:half], windows[half:])
    )
    # Without a trend, each failure falls into the second half as often as requests do.
    p = 1 - binomial_cdf(failed_later - 1, failed, asked_later / asked)
    if p < ALPHA:
        sentence = say(
            "DRIFT: more and more requests fail: {before:.2%} in the first half of the time, {after:.2%} in the "
            "second.",
            before=first_failed / first_asked if first_asked else 0.0,
            after=failed_later / asked_later,
        )
        return Failing(outcome=Outcome.DRIFT, failed=failed, asked=asked, sentence=sentence)
    if share > allowed:
        sentence = say(
            "INCONCLUSIVE: {failed} of {asked} requests failed ({share:.1%}), where {allowed:.1%} are allowed; so few "
            "may be chance.",
            **told,
        )
        return Failing(outcome=Outcome.INCONCLUSIVE, failed=failed, asked=asked, sentence=sentence)
    return Failing(outcome=Outcome.STABLE, failed=failed, asked=asked)


def restarts_ns(host: Iterable[Mapping[str, Any]], engine: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return when the server was seen to have been started again.

    The process with most of the memory is gone and another is there, or the engine's own count of restarts grew.

    Args:
        host: Samples of the host, in the order in which they were taken.
        engine: What the engine said about itself, likewise.
    """
    found: set[int] = set()
    largest: int | None = None
    for sample in host:
        now = sample.get("server_largest_process")
        if now is None:
            continue
        if largest is not None and largest not in sample["server_process_ids"]:
            found.add(int(sample["at_ns"]))
        largest = int(now)
    before: dict[str, int] = {}
    for sample in engine:
        count, name = sample.get("restarts"), str(sample.get("target", ""))
        if isinstance(count, int):
            if count > before.get(name, count):
                found.add(int(sample["at_ns"]))
            before[name] = count
        elif (sample.get("restarts_per_s") or 0) > 0:
            found.add(int(sample["at_ns"]))
    return _apart(sorted(found))


_TOGETHER_NS = round(15 * NS_PER_S)
"""Two collectors see one restart within this time of each other."""


def _apart(moments_ns: Sequence[int]) -> list[int]:
    found: list[int] = []
    for each in moments_ns:
        if not found or each - found[-1] > _TOGETHER_NS:
            found.append(each)
    return found


def longest_life(restarts: Sequence[int], ended_ns: int) -> tuple[int, int]:
    """Return from when to when the same server ran longest: what it lost can be seen there alone."""
    edges = [0, *restarts, max(ended_ns, *restarts, 0)]
    return max(itertools.pairwise(edges), key=lambda life: life[1] - life[0])


def restart_sentence(restarts: Sequence[int]) -> Text:
    """Say that the server did not live through the run."""
    return say(
        "FAIL: the server was started again, {number} times, first at {at:.0f} s; memory and descriptors are judged "
        "over the longest time in between.",
        number=len(restarts),
        at=restarts[0] / NS_PER_S,
    )


def restart_findings(restarts: Iterable[int]) -> tuple[Finding, ...]:
    """Return each time the server came back."""
    text = say("The server was started again: it had died, stood still, or was told to.")
    return tuple(Finding(text=text, severity="error", from_ns=each, to_ns=each) for each in restarts)
