"""What a model could learn from the wrong place: people and texts that are in two parts, and shortcuts to the label.

Errors make every number that is measured on the test part worthless: a conversation, a customer or a text that is in
two parts, parts that overlap in time though they should not. Warnings need a person's judgement: agents who say the
class aloud while they register it, agents whose calls are nearly all of one class, personal data that is only asked
for in calls of one class, so that its placeholder gives the class away.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from qwenops.calls.classes import Taxonomy
from qwenops.calls.dedupe import Texts
from qwenops.calls.problems import Problem, Severity
from qwenops.calls.schema import Call, Label, Role
from qwenops.calls.split import PARTS, Key, Part, Splits, decided, seconds
from qwenops.statistics import binomial_lower, holm, normal_cdf
from qwenops.text import Text, say

ALPHA = 0.01
FEWEST = 10
"""Calls that have a placeholder, or have none; fewer show nothing."""
STRONG = 0.3
"""Cramér's V from which on a placeholder gives the class away."""
FEWEST_OF_AGENT = 20
MOST_OF_AGENT = 0.5
"""Of an agent's calls at least so many are surely of one class, or it is no shortcut."""
TIMES_USUAL = 3.0
"""And so many times what that class has among the calls of others."""
FEWEST_READ_BACKS = 5
SHARE_OF_READ_BACKS = 0.005
"""Of all calls."""
RIGHT_READ_BACKS = 0.5
"""Of the calls in which an agent names a class while registering."""

_REGISTERING = re.compile(
    r"登记|记录|备案|工单|归类|归到|归为|归在|定性|立案|受理|上报|反馈为|"
    r"\bregister|\blog(?:ged|ging)?\b|\bfil(?:e|ed|ing)\b|\brecord|\bticket|\bcategor|\bclassif|\braise[ds]?\b|\bcase\b"
)
_PLACEHOLDER = re.compile(r"<([^\W\d_]+(?:_[^\W\d_]+)*)_?\d+>")
_CHINESE_RUN = re.compile("[\u3400-\u9fff0-9a-z]*[\u3400-\u9fff][\u3400-\u9fff0-9a-z]*")
_WORD = re.compile(r"[a-z]+")
_WINDOW = 4
"""Chinese characters of a class's name that name it, when an agent says them."""
_SHORTEST_NAME = 3
_SHORTEST_WORD = 4
"""Letters; of two such words that follow one another in its name."""

Table = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Seen:
    """What was noticed while the calls went by."""

    texts: Texts = field(default_factory=Texts)
    ids: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    kinds: list[frozenset[str]] = field(default_factory=list)
    """Of personal data that was taken out."""
    agents: list[str] = field(default_factory=list)
    people: dict[Key, dict[str, dict[Part, str]]] = field(default_factory=lambda: {Key.CUSTOMER: {}, Key.AGENT: {}})
    """Of customers and of agents, by id, the parts in which they are, each with one conversation."""
    times: dict[Part, tuple[float, float]] = field(default_factory=dict)
    """When the first and the last call of a part began."""
    read_back: list[bool | None] = field(default_factory=list)
    """Whether what an agent registered is the label; None where none named a class."""


def leaks(
    splits: Splits, calls: Iterable[Call], labels: Iterable[Label], *, taxonomy: Taxonomy | None = None
) -> list[Problem]:
    """Return every leak between the parts; errors should stop whoever wants to train.

    Args:
        splits: The parts to prove.
        calls: All calls, gone through once and not kept; those that are in no part do not count.
        labels: All labels.
        taxonomy: Knows what classes are called, and which classes labels of its older versions mean; without it nobody
            can tell whether agents name them.

    Raises:
        InvalidDataError: The labels are of several taxonomies, or cannot follow to the version of the taxonomy.
    """
    found: list[Problem] = []
    part_of: dict[str, Part] = {}
    for part, ids in splits.parts().items():
        for each in ids:
            if each in part_of:
                told = say("The conversation {call} stands there twice.", call=each)
                found.append(_problem(told, (part_of[each], part), "conversation_id", each))
            part_of[each] = part
    class_of = decided(labels, taxonomy)
    seen = _watched(calls, part_of, class_of, _names(taxonomy) if taxonomy else {})
    found += _missing(part_of, seen, class_of)
    found += _shared_people(splits, seen)
    found += _shared_texts(splits, seen)
    found += _overlaps(splits, seen)
    found += _read_backs(seen)
    found += _agents(seen)
    found += _placeholders(seen)
    return found


def _watched(
    calls: Iterable[Call], part_of: Mapping[str, Part], class_of: Mapping[str, str], names: Mapping[str, str]
) -> _Seen:
    seen = _Seen()
    known: set[str] = set()
    spoken = re.compile("|".join(sorted(map(re.escape, names), key=lambda each: (-len(each), each)))) if names else None
    for call in calls:
        part = part_of.get(call.conversation_id)
        if part is None or call.conversation_id in known:
            continue
        known.add(call.conversation_id)
        code = class_of.get(call.conversation_id, "")
        seen.texts.add(call)
        seen.ids.append(call.conversation_id)
        seen.parts.append(part)
        seen.codes.append(code)
        seen.kinds.append(_kinds(call))
        seen.agents.append(call.agent_id)
        registered = _registered(call, spoken, names) if spoken else frozenset()
        seen.read_back.append(code in registered if registered else None)
        for key, person in ((Key.CUSTOMER, call.customer_id), (Key.AGENT, call.agent_id)):
            if person:
                seen.people[key].setdefault(person, {}).setdefault(part, call.conversation_id)
        if call.started_at is not None:
            at = seconds(call.started_at)
            first, last = seen.times.get(part, (at, at))
            seen.times[part] = min(first, at), max(last, at)
    return seen


def _missing(part_of: Mapping[str, Part], seen: _Seen, class_of: Mapping[str, str]) -> Iterator[Problem]:
    known = set(seen.ids)
    for each, part in part_of.items():
        if each not in known:
            yield _problem(say("There is no call {call}.", call=each), (part,), "conversation_id", each)
        elif each not in class_of:
            yield _problem(say("The call {call} has no label.", call=each), (part,), "conversation_id", each)


def _shared_people(splits: Splits, seen: _Seen) -> Iterator[Problem]:
    for customer, parts in seen.people[Key.CUSTOMER].items():
        if len(parts) > 1:
            told = say(
                "The customer {customer} has calls in several parts, for example {calls}.",
                customer=customer,
                calls=", ".join(parts.values()),
            )
            first = next(iter(parts.values()))
            yield _problem(told, parts, "customer_id", first, _meant(splits, Key.CUSTOMER))
    if Key.AGENT not in splits.keys:
        return
    for agent, parts in seen.people[Key.AGENT].items():
        if len(parts) > 1:
            told = say("The agent {agent} has calls in several parts.", agent=agent)
            yield _problem(told, parts, "agent_id", next(iter(parts.values())))


def _shared_texts(splits: Splits, seen: _Seen) -> Iterator[Problem]:
    for cluster in seen.texts.clusters():
        parts: dict[Part, str] = {}
        for place in cluster:
            parts.setdefault(seen.parts[place], seen.ids[place])
        if len(parts) == 1:
            continue
        of_text: dict[int, set[Part]] = {}
        for place in cluster:
            of_text.setdefault(seen.texts.text_of[place], set()).add(seen.parts[place])
        shown = ", ".join(parts.values())
        if any(len(each) > 1 for each in of_text.values()):
            told = say("Equal texts are in several parts; alike are, for example, {calls}.", calls=shown)
        else:
            told = say("Nearly equal texts are in several parts, for example {calls}.", calls=shown)
        yield _problem(told, parts, "turns", seen.ids[cluster[0]], _meant(splits, Key.DUPLICATE))


def _meant(splits: Splits, key: Key) -> Severity:
    """Return how bad it is that what a key ties together is apart: a warning where the split was to ignore that key."""
    return Severity.ERROR if key in splits.keys else Severity.WARNING


def _overlaps(splits: Splits, seen: _Seen) -> Iterator[Problem]:
    if not splits.by_time:
        return
    timed = [(part, *seen.times[part]) for part in PARTS if part in seen.times]
    for (earlier, _first, end), (later, begin, _last) in pairwise(timed):
        if end > begin:
            told = say("The last call of the one is later than the first of the other.")
            yield _problem(told, (earlier, later), "started_at")


def _read_backs(seen: _Seen) -> Iterator[Problem]:
    named = [place for place, right in enumerate(seen.read_back) if right is not None]
    right = [place for place in named if seen.read_back[place]]
    total = len(seen.ids)
    if len(right) < max(FEWEST_READ_BACKS, SHARE_OF_READ_BACKS * total, RIGHT_READ_BACKS * len(named)):
        return
    told = say(
        "In {count} of {total} calls an agent says the class aloud while registering it, and where agents name one it "
        "is the label in {share:.0%}, for example in {call}. A model may learn to wait for that; evaluate it on what "
        "customers say, too.",
        count=len(right),
        total=total,
        share=len(right) / len(named),
        call=seen.ids[right[0]],
    )
    yield _problem(told, (), "turns", seen.ids[right[0]], Severity.WARNING)


def _agents(seen: _Seen) -> Iterator[Problem]:
    """Yield the agents whose calls are surely of one class that is rare among the calls of others."""
    labelled = [(agent, code) for agent, code in zip(seen.agents, seen.codes, strict=True) if code]
    everywhere = Counter(code for _agent, code in labelled)
    by_agent: dict[str, Counter[str]] = {}
    for agent, code in labelled:
        if agent:
            by_agent.setdefault(agent, Counter())[code] += 1
    busy = {agent: codes for agent, codes in by_agent.items() if codes.total() >= FEWEST_OF_AGENT}
    for agent, codes in busy.items():
        code, count = min(codes.items(), key=lambda each: (-each[1], each[0]))
        num, others = codes.total(), len(labelled) - codes.total()
        usual = (everywhere[code] - count) / others if others else 1.0
        surely = binomial_lower(count, num, ALPHA / len(busy))
        if surely <= max(MOST_OF_AGENT, TIMES_USUAL * usual):
            continue
        told = say(
            "Of the {num} calls of the agent {agent} {share:.0%} are {code}, of those of others {usual:.0%}. A model "
            "may learn how this agent talks; test it on agents whom it never heard, too.",
            num=num,
            agent=agent,
            share=count / num,
            code=code,
            usual=usual,
        )
        yield _problem(told, (), "agent_id", severity=Severity.WARNING)


def _placeholders(seen: _Seen) -> Iterator[Problem]:
    """Yield the kinds of personal data whose placeholders go with classes (chi-square, Holm over the kinds)."""
    codes = sorted({code for code in seen.codes if code})
    places = {code: place for place, code in enumerate(codes)}
    labelled = [(kinds, places[code]) for kinds, code in zip(seen.kinds, seen.codes, strict=True) if code]
    if len(codes) < 2:  # noqa: PLR2004 -- one class goes with everything
        return
    totals = np.bincount([place for _kinds, place in labelled], minlength=len(codes))
    tables: dict[str, Table] = {}
    for kind in sorted({kind for kinds, _place in labelled for kind in kinds}):
        present = np.bincount([place for kinds, place in labelled if kind in kinds], minlength=len(codes))
        if FEWEST <= present.sum() <= len(labelled) - FEWEST:
            tables[kind] = present
    tested = [_association(present, totals) for present in tables.values()]
    for (kind, present), (_p, strength), p in zip(
        tables.items(), tested, holm([p for p, _strength in tested]), strict=True
    ):
        if p >= ALPHA or strength < STRONG:
            continue
        expected = totals * (present.sum() / len(labelled))
        code = int(((present - expected) / np.sqrt(expected)).argmax())
        told = say(
            "{kind} was taken out of {share:.0%} of the calls of {code} and of {other:.0%} of all others, so its "
            "placeholder gives the class away (Cramér's V {strength:.2f}).",
            kind=kind,
            share=float(present[code] / totals[code]),
            code=codes[code],
            other=float((present.sum() - present[code]) / (len(labelled) - totals[code])),
            strength=strength,
        )
        yield _problem(told, (), "redaction.counts", severity=Severity.WARNING)


def _association(present: Table, totals: Table) -> tuple[float, float]:
    """Return the p-value of chi-square's test of independence, and Cramér's V without its bias (Bergsma).

    The tail of chi-square is Wilson and Hilferty's: its cube root is nearly normal.
    """
    total, degrees = int(totals.sum()), totals.size - 1
    share = present.sum() / total
    expected = totals * share
    away = (present - expected) ** 2
    chi2 = float((away / expected + away / (totals - expected)).sum())
    spread = 2 / (9 * degrees)
    p = normal_cdf(-((chi2 / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))
    return p, math.sqrt(max(0.0, chi2 / total - degrees / (total - 1)))


def _kinds(call: Call) -> frozenset[str]:
    """Return the kinds of personal data that were taken out: as redaction counted them, else as placeholders show."""
    if call.redaction is not None:
        return frozenset(kind for kind, count in call.redaction.counts.items() if count > 0)
    return frozenset(kind for turn in call.turns for kind in _PLACEHOLDER.findall(turn.text))


def _names(taxonomy: Taxonomy) -> dict[str, str]:
    """Return the pieces of classes' names that name one leaf only, with its code."""
    owners: dict[str, set[str]] = {}
    for code in taxonomy.leaves:
        name = taxonomy.class_of(code).name
        for piece in {*_chinese_pieces(name.zh.lower()), *_english_pieces(name.en.lower())}:
            owners.setdefault(piece, set()).add(code)
    return {piece: next(iter(codes)) for piece, codes in owners.items() if len(codes) == 1}


def _chinese_pieces(name: str) -> Iterator[str]:
    for run in _CHINESE_RUN.findall(name):
        if _SHORTEST_NAME <= len(run) <= _WINDOW:
            yield run
        for first in range(len(run) - _WINDOW + 1):
            yield run[first : first + _WINDOW]


def _english_pieces(name: str) -> Iterator[str]:
    words = _WORD.findall(name)
    for one, other in pairwise(words):
        if min(len(one), len(other)) >= _SHORTEST_WORD:
            yield f"{one} {other}"


def _registered(call: Call, spoken: re.Pattern[str], names: Mapping[str, str]) -> frozenset[str]:
    """Return the classes that an agent names in a turn that is about registering."""
    found: set[str] = set()
    for turn in call.turns:
        if turn.role is Role.AGENT:
            text = turn.text.lower()
            if _REGISTERING.search(text):
                found.update(names[piece] for piece in spoken.findall(text))
    return frozenset(found)


def _problem(
    what: Text,
    parts: Iterable[Part],
    where: str,
    conversation_id: str = "",
    severity: Severity = Severity.ERROR,
) -> Problem:
    return Problem(
        what=what,
        source=", ".join(sorted({part.value for part in parts}, key=_order)),
        field=where,
        severity=severity,
        conversation_id=conversation_id,
    )


def _order(part: str) -> int:
    return PARTS.index(Part(part))
