"""What outcomes, verdicts, series and the parts of a run are called where people read them, in their language. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence

from qwenops.bench.conclusion import Outcome
from qwenops.bench.definitions import METRICS
from qwenops.text import Text, say

_OUTCOMES: Mapping[Outcome, Text] = {
    Outcome.DONE: say("DONE"),
    Outcome.PASS: say("PASS"),
    Outcome.FAIL: say("FAIL"),
    Outcome.UNDECIDED: say("UNDECIDED"),
    Outcome.IMPROVED: say("IMPROVED"),
    Outcome.REGRESSED: say("REGRESSED"),
    Outcome.EQUIVALENT: say("EQUIVALENT"),
    Outcome.INCONCLUSIVE: say("INCONCLUSIVE"),
    Outcome.STABLE: say("STABLE"),
    Outcome.LEAK: say("LEAK"),
    Outcome.DRIFT: say("DRIFT"),
    Outcome.INVALID: say("INVALID"),
}
_VERDICTS: Mapping[str, Text] = {
    "VALID": say("VALID"),
    "SUSPECT": say("SUSPECT"),
    "INVALID": say("INVALID"),
    "UNKNOWN": say("UNKNOWN"),
}
SERIES: Mapping[str, Text] = {
    "server_own_bytes": say("Memory that the server allocated itself"),
    "server_rss_bytes": say("Memory of the server (RSS)"),
    "server_pss_bytes": say("Memory of the server (PSS)"),
    "server_descriptors": say("Number of the server's open descriptors"),
    "cgroup_memory_bytes": say("Memory of its control group"),
    "engine_memory_bytes": say("Memory of the engine"),
    "ttft": METRICS["ttft"].title,
    "e2e": METRICS["e2e"].title,
}
_PARTS: Mapping[str, Text] = {
    "alone": say("alone"),
    "steady": say("steady"),
    "overload": say("overload"),
    "recovery": say("recovery"),
    "first": say("first"),
    "warm-up": say("warm-up"),
    "one caller": say("one caller"),
    "warm": say("warm"),
    "bust": say("bust"),
    "warm, thinking": say("warm, thinking"),
    "bust, thinking": say("bust, thinking"),
    "soak": say("soak"),
    "load": say("load"),
    "dropped": say("dropped"),
}
_NUMBERED: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Text]], ...] = (
    (re.compile(r"block (\d+) ([AB])"), lambda found: say("block {number} {side}", number=found[1], side=found[2])),
    (re.compile(r"before ([AB])"), lambda found: say("before {side}", side=found[1])),
    (re.compile(r"users=(\d+)"), lambda found: say("users={number}", number=found[1])),
)


def outcome_word(outcome: Outcome) -> Text:
    """Return an outcome as it stands in tables and sentences."""
    return _OUTCOMES[outcome]


def verdict_word(verdict: str) -> str:
    """Return what the client says of itself."""
    return _VERDICTS.get(verdict, verdict)


def series_word(name: str) -> str:
    """Return what a series is called; one that nobody named keeps its own name."""
    return SERIES.get(name, name)


def part_word(name: str) -> str:
    """Return what a part of a run is called; one that a user named keeps its own name."""
    if name in _PARTS:
        return _PARTS[name]
    for pattern, word in _NUMBERED:
        if (found := pattern.fullmatch(name)) is not None:
            return word(found)
    return name


def listed(words: Sequence[str]) -> str:
    """Return words one after the other; each of them stays one that can be said in another language."""
    found = words[0] if words else ""
    for each in words[1:]:
        found = say("{words}, {word}", words=found, word=each)
    return found


def measure_word(text: str) -> str:
    """Return what a figure such as `ttft mean` is called: times by their abbreviations, rates by their titles."""
    name, _, statistic = text.partition(" ")
    if not statistic:
        return METRICS[name].title if name in METRICS else text
    return say("{metric} {statistic}", metric=name.upper(), statistic=_STATISTICS.get(statistic, statistic))


_STATISTICS: Mapping[str, Text] = {"mean": say("mean"), "p50": say("median")}
