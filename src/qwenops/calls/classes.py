"""A versioned tree of classes, and how labels of older versions become labels of this one.

A label names a leaf; what a class is (a complaint or not, how severe, whether a person must look at it) holds for
everything below it until a class below says otherwise. Axes are independent of the tree: urgency, threat, mood.

Versions only go up. A migration says which classes got other codes (labels follow silently) and which were split
(no rule can say where a call went, so a person has to). `telecom-cn@2` is a name and a version. Pure;
`taxonomy.load` reads files.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from qwenops.calls.problems import Problem
from qwenops.calls.schema import Label
from qwenops.errors import InvalidDataError
from qwenops.text import Language, Text, say

_MOST_SHOWN = 5
_REF = re.compile(r"(?P<name>[^@\s]+)@(?P<version>[1-9][0-9]{0,8})")


class ClassSeverity(StrEnum):
    """How much is lost when a call of a class is overlooked."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The same in Chinese and in English; a file that has one of them says it in both."""

    zh: str = ""
    en: str = ""

    def said(self, language: Language) -> str:
        """Return it in one language."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """One class of the tree."""

    code: str
    """With the codes of all above it: `billing.plan_fee`."""
    name: Words
    description: Words = field(default_factory=Words)
    examples: Mapping[Language, tuple[str, ...]] = field(default_factory=dict)
    """What customers say, by language."""
    severity: ClassSeverity = ClassSeverity.NORMAL
    complaint: bool = True
    review: bool = False
    """Whether a person looks at every call of it: the class of what fits nowhere."""
    parent: str = ""
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisValue:
    """One of the values of an axis."""

    code: str
    name: Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Something that is said of every call besides its class."""

    code: str
    name: Words
    values: tuple[AxisValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """How labels of one version become labels of a later one; a code that is not named stays."""

    since: int
    until: int
    renamed: Mapping[str, str] = field(default_factory=dict)
    split: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: Words = field(default_factory=Words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taxonomy:
    """A version of a tree of classes."""

    name: str
    version: int
    title: Words
    source: str = ""
    """Which norm or list it follows."""
    classes: Mapping[str, Class]
    """By code, each before its children."""
    leaves: tuple[str, ...]
    """The codes that a label may name, in the order of the file."""
    axes: Mapping[str, Axis] = field(default_factory=dict)
    migrations: Mapping[int, Migration] = field(default_factory=dict)
    """By the version that they lead away from."""
    path: Path
    sha256: str
    """Of the file."""
    warnings: tuple[Problem, ...] = ()

    @property
    def ref(self) -> str:
        """Name and version, as labels have them."""
        return f"{self.name}@{self.version}"

    def class_of(self, code: str) -> Class:
        """Return the class with a code.

        Raises:
            InvalidDataError: There is none.
        """
        found = self.classes.get(code)
        if found is None:
            raise InvalidDataError(
                self._unknown(code), hint=say("Use one of {codes}.", codes=", ".join(self._alike(code)))
            )
        return found

    def parent_of(self, code: str) -> str | None:
        """Return the code of the class above; None at the top.

        Raises:
            InvalidDataError: There is no such class.
        """
        return self.class_of(code).parent or None

    def path_of(self, code: str) -> tuple[str, ...]:
        """Return the codes from the top down to a class, itself included.

        Raises:
            InvalidDataError: There is no such class.
        """
        path = [code]
        while (above := self.parent_of(path[-1])) is not None:
            path.append(above)
        return tuple(reversed(path))

    def leaves_under(self, code: str) -> tuple[str, ...]:
        """Return the leaves below a class; of a leaf itself.

        Raises:
            InvalidDataError: There is no such class.
        """
        found = self.class_of(code)
        if not found.children:
            return (code,)
        return tuple(leaf for child in found.children for leaf in self.leaves_under(child))

    def name_of(self, code: str, language: Language) -> str:
        """Return what a class is called.

        Raises:
            InvalidDataError: There is no such class.
        """
        return self.class_of(code).name.said(language)

    def leaves_called(self, text: str) -> tuple[str, ...]:
        """Return the leaves that have this code or are called so in either language; several may have one name."""
        wanted = _plain(text)
        return tuple(
            code
            for code in self.leaves
            if wanted in {_plain(code), _plain(self.classes[code].name.zh), _plain(self.classes[code].name.en)}
        )

    def severity_of(self, code: str) -> ClassSeverity:
        """Return how severe a class is.

        Raises:
            InvalidDataError: There is no such class.
        """
        return self.class_of(code).severity

    def is_complaint(self, code: str) -> bool:
        """Say whether calls of a class are complaints.

        Raises:
            InvalidDataError: There is no such class.
        """
        return self.class_of(code).complaint

    def is_review(self, code: str) -> bool:
        """Say whether a person looks at every call of a class.

        Raises:
            InvalidDataError: There is no such class.
        """
        return self.class_of(code).review

    def migrate(self, label: Label) -> Label | Problem:
        """Return a label in the words of this version, or why there is none.

        Codes that were renamed follow, through several versions if need be. A class that was split, one that is gone,
        another taxonomy or a later version are problems for a person. A label of this version is only checked.
        """
        steps = self._steps_from(label.taxonomy)
        if isinstance(steps, Text):
            return _wrong(label, "taxonomy", steps)
        places = ["primary", *(f"secondary[{number}]" for number in range(len(label.secondary)))]
        codes: dict[str, None] = {}  # classes may have become one
        for place, code in zip(places, (label.primary, *label.secondary), strict=True):
            now, choices = followed(code, steps)
            if choices or now not in self.leaves:
                return _wrong(label, place, self._split_or_gone(now, choices))
            codes[now] = None
        strange = self._strange_axis(label.axes)
        if strange is not None:
            return _wrong(label, *strange)
        primary, *secondary = codes
        predicted, _choices = followed(label.predicted, steps)
        return replace(label, taxonomy=self.ref, primary=primary, secondary=tuple(secondary), predicted=predicted)

    def _steps_from(self, ref: str) -> tuple[Migration, ...] | Text:
        known = parse_ref(ref)
        if known is None or known[0] != self.name:
            return say(
                "The label is about {other!r}, not about {ref}; name the taxonomy that the labels were made with.",
                other=ref,
                ref=self.ref,
            )
        if known[1] > self.version:
            return say(
                "The label is of {other}, which is later than {ref}; name the file of {other} as the taxonomy.",
                other=ref,
                ref=self.ref,
            )
        steps = way(self.migrations, known[1], self.version)
        if steps is None:
            return say(
                "No migration leads from {other} to {ref}; write one under `migrations` of the taxonomy's file, "
                "or label these calls anew.",
                other=ref,
                ref=self.ref,
            )
        return steps

    def _split_or_gone(self, code: str, choices: Sequence[str]) -> Text:
        if not choices and code not in self.classes:
            return say(
                "{ref} has no class {code!r}; the nearest are {codes}.",
                ref=self.ref,
                code=code,
                codes=", ".join(self._alike(code)[:_MOST_SHOWN]),
            )
        if not choices:
            return self._unknown(code)
        return say(
            "The class {code} was split; a person must choose among {choices}.",
            code=code,
            choices=", ".join(choices),
        )

    def _strange_axis(self, axes: Mapping[str, str]) -> tuple[str, Text] | None:
        for code, value in axes.items():
            axis = self.axes.get(code)
            if axis is None:
                return f"axes.{code}", say("{ref} has no axis {axis!r}.", ref=self.ref, axis=code)
            possible = [each.code for each in axis.values]
            if value not in possible:
                told = say("{value!r} is none of {possible}.", value=value, possible=", ".join(possible))
                return f"axes.{code}", told
        return None

    def _unknown(self, code: str) -> Text:
        if code in self.classes:
            leaves = ", ".join(self.leaves_under(code))
            return say("{code} of {ref} has classes below it: {leaves}.", code=code, ref=self.ref, leaves=leaves)
        return say("{ref} has no class {code!r}.", ref=self.ref, code=code)

    def _alike(self, code: str) -> Sequence[str]:
        from difflib import get_close_matches

        return get_close_matches(code, self.classes, n=5) or tuple(self.classes)[:20]


def parse_ref(ref: str) -> tuple[str, int] | None:
    """Return name and version of `telecom-cn@2`; None if it is no such thing."""
    found = _REF.fullmatch(ref)
    return (found["name"], int(found["version"])) if found else None


def way(migrations: Mapping[int, Migration], since: int, until: int) -> tuple[Migration, ...] | None:
    """Return the migrations from one version to another; None if they do not meet."""
    steps: list[Migration] = []
    while since < until:
        step = migrations.get(since)
        if step is None or not since < step.until <= until:
            return None
        steps.append(step)
        since = step.until
    return tuple(steps)


def followed(code: str, steps: Sequence[Migration]) -> tuple[str, tuple[str, ...]]:
    """Return what became of a code: the code now, and, if it was split on the way, what to choose from now."""
    for number, step in enumerate(steps):
        if code in step.split:
            choices: dict[str, None] = {}
            for each in step.split[code]:
                now, further = followed(each, steps[number + 1 :])
                choices.update(dict.fromkeys(further or (now,)))
            return code, tuple(choices)
        code = step.renamed.get(code, code)
    return code, ()


def _wrong(label: Label, where: str, what: Text) -> Problem:
    return Problem(what=what, field=where, conversation_id=label.conversation_id)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
