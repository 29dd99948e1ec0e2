"""Training, validation and test data that know nothing of one another.

Calls that belong together stay together: those of one customer, and those that are nearly the same text. Where times
are known, training lies before validation and validation before test, as it will in service; a group of calls goes
where most of them lie, and those of them that lie elsewhere are set aside, since they would leak either the group or
the future. Where times are not known, groups are dealt out so that every part has its share of each class, as far as
whole groups allow.

Nothing depends on the order of the calls: chance is a hash of the seed and of ids. `leaks` proves what is said here.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenops.atomic import write_text
from qwenops.calls.classes import Taxonomy
from qwenops.calls.dedupe import Forest, Indexes, Texts
from qwenops.calls.problems import Problem, Severity, refuse
from qwenops.calls.schema import Call, Label
from qwenops.errors import ConfigError, InvalidDataError
from qwenops.text import Text, say

SCHEMA = "qwenops.splits/1"
_ASIDE = -1
_SMALL = 0.5
"""A part that got less than this of what it should have is worth a word."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Numbers = npt.NDArray[np.float64]


class Key(StrEnum):
    """What ties calls together."""

    CUSTOMER = "customer"
    DUPLICATE = "duplicate"
    """Nearly the same text."""
    AGENT = "agent"
    """For a second test, on agents that training never heard; by itself, since customers speak with many agents."""


class Part(StrEnum):
    """What calls are for, in the order of time."""

    TRAIN = "train"
    VAL = "val"
    CALIBRATION = "calibration"
    TEST = "test"


PARTS = tuple(Part)
KEYS = (Key.CUSTOMER, Key.DUPLICATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How much of all calls each part shall get; together 1."""

    train: float = 0.7
    val: float = 0.15
    calibration: float = 0.0
    test: float = 0.15

    def in_order(self) -> Numbers:
        """Return them in the order of `PARTS`."""
        return np.array([self.train, self.val, self.calibration, self.test])


SHARES = Shares()


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Which conversation is for what."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    calibration: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    """Those whose group is in another part of the time."""
    unlabelled: tuple[str, ...] = ()
    seed: int = 0
    by_time: bool = False
    keys: tuple[Key, ...] = KEYS
    shares: Shares = SHARES
    problems: tuple[Problem, ...] = field(default=(), compare=False)
    """Warnings only: parts that came out small, classes that a part lacks."""

    def parts(self) -> dict[Part, tuple[str, ...]]:
        """Return the parts, those that are empty included, in the order of time."""
        return {
            Part.TRAIN: self.train,
            Part.VAL: self.val,
            Part.CALIBRATION: self.calibration,
            Part.TEST: self.test,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """What counts of the labelled calls, one row each, in the order of the file."""

    ids: list[str]
    customers: list[str]
    agents: list[str]
    codes: list[str]
    """The classes that occur."""
    classes: Indexes
    """Of each call, as a place in `codes`."""
    times: Numbers
    """Seconds since 1970; not a number where nobody knows."""
    texts: Texts
    unlabelled: list[str]


def split(
    calls: Iterable[Call],
    labels: Iterable[Label],
    *,
    keys: Sequence[Key] = KEYS,
    by_time: bool | None = None,
    shares: Shares = SHARES,
    seed: int = 0,
    taxonomy: Taxonomy | None = None,
) -> Splits:
    """Divide labelled calls; the calls are gone through once and not kept.

    Args:
        calls: Those without a label are named in the result and otherwise left out.
        labels: Where a conversation has several, `decided` says which counts.
        keys: What ties calls together.
        by_time: Whether parts follow one another in time; None does so where all calls have times that allow it.
        shares: How much each part shall get.
        seed: Of what is left to chance.
        taxonomy: Where it is given, labels of its older versions count as its migrations say.

    Raises:
        ConfigError: The shares are none.
        InvalidDataError: Ids stand there twice, nothing is labelled, times are wanted and missing, or so many calls
            belong together that a part stays empty.
    """
    wanted = _checked(shares)
    table = _gathered(calls, decided(labels, taxonomy))
    groups = _groups(table, keys)
    in_time, told = _in_time(table, groups, wanted, by_time=by_time)
    part_of = _at_random(table, groups, wanted, seed) if in_time is None else in_time
    _refuse_empty(table, groups, part_of, wanted)
    return Splits(
        train=_ids(table, part_of, Part.TRAIN),
        val=_ids(table, part_of, Part.VAL),
        calibration=_ids(table, part_of, Part.CALIBRATION),
        test=_ids(table, part_of, Part.TEST),
        aside=tuple(table.ids[place] for place in np.flatnonzero(part_of == _ASIDE)),
        unlabelled=tuple(table.unlabelled),
        seed=seed,
        by_time=in_time is not None,
        keys=tuple(keys),
        shares=shares,
        problems=(*told, *_shortcomings(table, part_of, wanted)),
    )


def decided(labels: Iterable[Label], taxonomy: Taxonomy | None = None) -> dict[str, str]:
    """Return the class of each conversation: the one whose labels weigh most together, of equal ones the first by code.

    Args:
        labels: All labels.
        taxonomy: Where it is given, labels of its older versions count as its migrations say.

    Raises:
        InvalidDataError: Without a taxonomy, the labels are of several taxonomies, or of several versions of one; with
            one, some cannot follow to its version, and all of these are named.
    """
    weights: dict[str, dict[str, float]] = {}
    taxonomies: set[str] = set()
    lost: list[Problem] = []
    for each in labels:
        label = each if taxonomy is None else taxonomy.migrate(each)
        if isinstance(label, Problem):
            lost.append(label)
            continue
        taxonomies.add(label.taxonomy)
        of_call = weights.setdefault(label.conversation_id, {})
        of_call[label.primary] = of_call.get(label.primary, 0.0) + label.weight
    refuse(lost, say("Not all labels can be used."))
    if len(taxonomies) > 1:
        raise InvalidDataError(
            say("The labels are of several taxonomies: {names}.", names=", ".join(sorted(taxonomies))),
            hint=say(
                "Name the version that shall count with --taxonomy: labels of older ones follow its migrations, "
                "and those that cannot are listed."
            ),
        )
    return {call: min(each, key=lambda code: (-each[code], code)) for call, each in weights.items()}


def write_splits(path: Path, splits: Splits) -> None:
    """Write splits as JSON, whole or not at all."""
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "seed": splits.seed,
        "by_time": splits.by_time,
        "keys": [key.value for key in splits.keys],
        "shares": dict(zip((part.value for part in PARTS), splits.shares.in_order().tolist(), strict=True)),
        **{part.value: list(ids) for part, ids in splits.parts().items()},
        "aside": list(splits.aside),
        "unlabelled": list(splits.unlabelled),
    }
    write_text(path, json.dumps(told, ensure_ascii=False, indent=1) + "\n")


def read_splits(path: Path) -> Splits:
    """Read what `write_splits` wrote.

    Raises:
        InvalidDataError: The file cannot be read, or is something else.
    """
    try:
        return _splits_of(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidDataError(
            say("{path} holds no splits: {reason}.", path=str(path), reason=str(error) or type(error).__name__),
            hint=say("`qwenops calls split` writes such a file."),
        ) from error


def seconds(at: datetime) -> float:
    """Return a time as seconds since 1970; one without a zone is taken for UTC."""
    known = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return (known - _EPOCH) / timedelta(seconds=1)


def _splits_of(told: Any) -> Splits:
    if told["schema"] != SCHEMA:
        raise ValueError(told["schema"])
    return Splits(
        train=_texts(told["train"]),
        val=_texts(told["val"]),
        test=_texts(told["test"]),
        calibration=_texts(told["calibration"]),
        aside=_texts(told["aside"]),
        unlabelled=_texts(told["unlabelled"]),
        seed=int(told["seed"]),
        by_time=bool(told["by_time"]),
        keys=tuple(Key(key) for key in told["keys"]),
        shares=Shares(**{part.value: float(told["shares"][part.value]) for part in PARTS}),
    )


def _texts(told: Any) -> tuple[str, ...]:
    if not isinstance(told, list) or not all(isinstance(each, str) for each in told):
        raise TypeError(told)
    return tuple(told)


def _checked(shares: Shares) -> Numbers:
    wanted = shares.in_order()
    if not np.isfinite(wanted).all() or (wanted < 0).any() or not math.isclose(wanted.sum(), 1.0, abs_tol=1e-6):
        shown = ", ".join(f"{part.value} {share:g}" for part, share in zip(PARTS, wanted.tolist(), strict=True))
        raise ConfigError(
            say("The shares {shares} do not add up to 1.", shares=shown),
            hint=say("Name shares from 0 to 1, for example train 0.7, val 0.15 and test 0.15."),
        )
    if not shares.train or not shares.test:
        raise ConfigError(
            say("Neither training nor test can be left out."),
            hint=say("Give each of them a share above 0."),
        )
    return wanted


def _gathered(calls: Iterable[Call], class_of: Mapping[str, str]) -> _Table:
    codes = sorted(set(class_of.values()))
    places = {code: place for place, code in enumerate(codes)}
    ids: list[str] = []
    customers: list[str] = []
    agents: list[str] = []
    unlabelled: list[str] = []
    classes: list[int] = []
    times: list[float] = []
    texts = Texts()
    seen: set[str] = set()
    twice: list[Problem] = []
    for call in calls:
        if call.conversation_id in seen:
            told = say("The conversation {call} stands there twice.", call=call.conversation_id)
            twice.append(Problem(what=told, field="conversation_id", conversation_id=call.conversation_id))
            continue
        seen.add(call.conversation_id)
        code = class_of.get(call.conversation_id)
        if code is None:
            unlabelled.append(call.conversation_id)
            continue
        ids.append(call.conversation_id)
        customers.append(call.customer_id)
        agents.append(call.agent_id)
        classes.append(places[code])
        times.append(math.nan if call.started_at is None else seconds(call.started_at))
        texts.add(call)
    refuse(twice, say("The calls cannot be divided."))
    if not ids:
        raise InvalidDataError(
            say("None of {count} calls has a label.", count=len(seen)),
            hint=say("The conversation_id of a label must be that of its call."),
        )
    return _Table(
        ids=ids,
        customers=customers,
        agents=agents,
        codes=codes,
        classes=np.array(classes, dtype=np.int64),
        times=np.array(times),
        texts=texts,
        unlabelled=unlabelled,
    )


def _groups(table: _Table, keys: Sequence[Key]) -> Indexes:
    """Return for each call the number of its group, from 0."""
    forest = Forest(len(table.ids))
    for key in keys:
        for members in _tied(table, key):
            forest.join(np.array(members, dtype=np.int64))
    numbers: Indexes = np.unique(forest.all_roots(), return_inverse=True)[1]
    return numbers


def _tied(table: _Table, key: Key) -> Iterator[list[int]]:
    if key is Key.DUPLICATE:
        yield from table.texts.clusters()
        return
    found: dict[str, list[int]] = {}
    for place, name in enumerate(table.customers if key is Key.CUSTOMER else table.agents):
        if name:  # nobody knows who it was
            found.setdefault(name, []).append(place)
    yield from (places for places in found.values() if len(places) > 1)


def _in_time(
    table: _Table, groups: Indexes, wanted: Numbers, *, by_time: bool | None
) -> tuple[Indexes | None, list[Problem]]:
    """Return the part of each call in the order of time, or None and why it is not done."""
    if by_time is False:
        return None, []
    unknown = np.flatnonzero(np.isnan(table.times))
    if by_time is None and unknown.size == table.times.size:
        return None, []
    if unknown.size:
        reason = say(
            "{count} of {total} calls have no time, for example {call}",
            count=int(unknown.size),
            total=len(table.ids),
            call=table.ids[unknown[0]],
        )
    else:
        part_of = _most_in(groups, _windows(table.times, wanted))
        if all((part_of == part).any() for part in np.flatnonzero(wanted)):
            return part_of, []
        reason = say("times leave a part without calls")
    if by_time:
        raise InvalidDataError(
            say("The calls cannot be divided by time: {reason}.", reason=reason),
            hint=say("Give all calls their started_at, or let the parts be mixed in time."),
        )
    return None, [_warned(say("The parts are mixed in time: {reason}.", reason=reason), "started_at")]


def _windows(times: Numbers, wanted: Numbers) -> Indexes:
    """Return the part in whose time each call lies; calls of one moment lie in one part."""
    ordered = np.sort(times)
    first = np.round(np.cumsum(wanted)[:-1] * times.size).astype(np.int64)
    begins = np.append(ordered, np.inf)[np.minimum(first, times.size)]
    # Where parts without a share begin together with the next one, `right` passes all of them.
    return np.searchsorted(begins, times, side="right").astype(np.int64)


def _most_in(groups: Indexes, window: Indexes) -> Indexes:
    """Return the part of each call: its group's, where it lies in it; of parts with as many calls the later one."""
    counts = np.zeros((int(groups.max()) + 1, len(PARTS)), dtype=np.int64)
    np.add.at(counts, (groups, window), 1)
    chosen = len(PARTS) - 1 - counts[:, ::-1].argmax(axis=1)
    return np.where(chosen[groups] == window, window, _ASIDE)


def _at_random(table: _Table, groups: Indexes, wanted: Numbers, seed: int) -> Indexes:
    """Return the part of each call: large groups first, each where it is missed most, then the calls that are alone."""
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups))
    members = [order[begin:end] for begin, end in zip(np.append(0, ends[:-1]), ends, strict=True)]
    chance = [_chance(seed, min(table.ids[place] for place in each)) for each in members]
    target = wanted[:, None] * np.bincount(table.classes, minlength=len(table.codes))[None, :]
    have = np.zeros_like(target)
    part_of = np.full(len(table.ids), _ASIDE, dtype=np.int64)
    large = [number for number, each in enumerate(members) if each.size > 1]
    for number in sorted(large, key=lambda each: (-members[each].size, chance[each])):
        classes, counts = np.unique(table.classes[members[number]], return_counts=True)
        missed, aim = target[:, classes] - have[:, classes], target[:, classes]
        cost = (counts * (counts - 2 * missed) / (aim + 1)).sum(axis=1)
        part = int(np.where(wanted > 0, cost, np.inf).argmin())
        part_of[members[number]] = part
        have[part, classes] += counts
    single = sorted((number for number, each in enumerate(members) if each.size == 1), key=chance.__getitem__)
    alone = np.array([members[number][0] for number in single], dtype=np.int64)
    _deal(alone, table.classes, target, have, part_of)
    return part_of


def _deal(alone: Indexes, classes: Indexes, target: Numbers, have: Numbers, part_of: Indexes) -> None:
    """Deal out the calls that belong to no other, class by class; what rounding owes a part is carried on."""
    owed = np.zeros(len(target))
    shares = target.sum(axis=1) / target.sum()
    totals = target.sum(axis=0)
    for code in np.lexsort((np.arange(totals.size), totals)):
        members = alone[classes[alone] == code]
        due = _scaled(np.maximum(target[:, code] - have[:, code], 0.0), shares, members.size)
        ideal = _scaled(np.where(shares > 0, np.maximum(due + owed, 0.0), 0.0), shares, members.size)
        given = _rounded(ideal, members.size)
        if members.size and not have[0, code] and not given[0]:  # what is never taught cannot be known
            given[given.argmax()] -= 1
            given[0] += 1
        owed += due - given
        part_of[members] = np.repeat(np.arange(len(target)), given)


def _scaled(wanted: Numbers, shares: Numbers, total: int) -> Numbers:
    """Return amounts in proportion that add up to `total`: as wanted, or where nothing is, as the shares are."""
    return (wanted if wanted.sum() > 0 else shares) * (total / (wanted.sum() or 1.0))


def _rounded(ideal: Numbers, total: int) -> Indexes:
    """Return whole numbers near `ideal` that add up to `total`: the largest remainders are rounded up."""
    given = np.floor(ideal + 1e-9).astype(np.int64)
    rest = total - int(given.sum())
    given[np.argsort(given - ideal, kind="stable")[:rest]] += 1
    return given


def _chance(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _refuse_empty(table: _Table, groups: Indexes, part_of: Indexes, wanted: Numbers) -> None:
    empty = [part.value for place, part in enumerate(PARTS) if wanted[place] > 0 and not (part_of == place).any()]
    if not empty:
        return
    sizes = np.bincount(groups)
    one = int(np.flatnonzero(groups == sizes.argmax())[0])
    raise InvalidDataError(
        say(
            "No call is left for {parts}: {count} calls make {groups} groups, the largest of {largest}, "
            "among them {call} of the customer {customer!r}.",
            parts=", ".join(empty),
            count=len(table.ids),
            groups=int(sizes.size),
            largest=int(sizes.max()),
            call=table.ids[one],
            customer=table.customers[one],
        ),
        hint=say(
            "Calls of one customer and nearly equal texts stay together. Where customer_id does not name one person, "
            "leave it empty; label calls of more customers."
        ),
    )


def _shortcomings(table: _Table, part_of: Indexes, wanted: Numbers) -> Iterator[Problem]:
    total = len(table.ids)
    aside = int((part_of == _ASIDE).sum())
    if aside:
        told = say(
            "{count} of {total} calls are set aside: others of their group lie mostly in another part of the time.",
            count=aside,
            total=total,
        )
        yield _warned(told, "aside")
    for place in np.flatnonzero(wanted):
        part, size = PARTS[place].value, int((part_of == place).sum())
        if size < _SMALL * wanted[place] * total:
            told = say(
                "{part} got {count} of {total} calls, and should have {share:.0%}.",
                part=part,
                count=size,
                total=total,
                share=float(wanted[place]),
            )
            yield _warned(told, part)
        lacking = np.setdiff1d(table.classes, table.classes[part_of == place])
        if lacking.size:
            codes = ", ".join(table.codes[code] for code in lacking)
            yield _warned(say("{part} has no call of {codes}.", part=part, codes=codes), part)


def _warned(what: Text, where: str) -> Problem:
    return Problem(what=what, field=where, severity=Severity.WARNING)


def _ids(table: _Table, part_of: Indexes, part: Part) -> tuple[str, ...]:
    return tuple(table.ids[place] for place in np.flatnonzero(part_of == PARTS.index(part)))
