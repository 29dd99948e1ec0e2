"""`qwenops calls label --from-review`: what people said becomes a file of labels, with how far they agree.

    labels-0007.jsonl    one label for each call that people agree on, by id
    labels-0007.json     where it comes from (`qwenops.labels/1`): taxonomy, span of time, agreement, what is disputed

A file is never changed; what has come since gives the next version, and where nothing has, the last one stays. Answers
in the words of an older version of the taxonomy are brought to this one; where no rule says how, a person is asked.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from qwenops.atomic import write_text
from qwenops.calls.classes import Taxonomy
from qwenops.calls.problems import Problem
from qwenops.calls.schema import Label, LabelSource, dump
from qwenops.errors import InvalidDataError
from qwenops.models.locks import held
from qwenops.state.audit import Action, Event, Kind, record
from qwenops.state.database import Database
from qwenops.state.feedback import Feedback, Outcome, Settled, by_call, read_feedback, settle
from qwenops.statistics.agreement import Agreement, agreement, paired
from qwenops.text import say

SCHEMA = "qwenops.labels/1"
_STEM = "labels-"
_LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """How often people say what the model had said."""

    num: int
    same: int

    @property
    def share(self) -> float | None:
        """None where there was nobody."""
        return self.same / self.num if self.num else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """What people said, as labels."""

    labels: tuple[Label, ...]
    """By id of the call."""
    open: tuple[str, ...]
    """Calls that another person has to look at."""
    disputed: tuple[str, ...]
    """Calls on which three people do not agree."""
    problems: tuple[Problem, ...]
    """Answers that no rule brings to this version of the taxonomy."""
    agreement: Agreement | None
    """None where no call was labelled by two people."""
    by_people: Mapping[tuple[str, str], Agreement]
    """Of each two people."""
    shown: Following
    """Where the prediction was shown."""
    blind: Following
    """Where it was hidden; people who follow it are less often of its opinion here."""
    seconds: float
    """How long people took, all together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFile:
    """A version of the labels."""

    path: Path
    version: int
    sha256: str
    is_new: bool
    """False where nothing has come since the last version."""


def reviewed(answers: Sequence[Feedback], taxonomy: Taxonomy) -> Reviewed:
    """Return what people said as labels of a version of a taxonomy.

    Args:
        answers: What was said, the earliest first.
        taxonomy: The version that labels shall have.
    """
    known, problems = _migrated(answers, taxonomy)
    settled = {call: settle(said) for call, said in by_call(known).items()}
    pairs = paired({vote.reviewer: vote.label for vote in each.votes} for each in settled.values())
    by_people = {people: found for people, said in pairs.items() if (found := agreement({people: said})) is not None}
    return Reviewed(
        labels=tuple(_label(call, settled[call]) for call in _which(settled, Outcome.AGREED)),
        open=_which(settled, Outcome.OPEN),
        disputed=_which(settled, Outcome.DISPUTED),
        problems=tuple(problems),
        agreement=agreement(pairs),
        by_people=by_people,
        shown=_following(known, blind=False),
        blind=_following(known, blind=True),
        seconds=sum(each.seconds or 0.0 for each in known),
    )


def label_from_review(
    database: Database,
    folder: Path,
    taxonomy: Taxonomy,
    *,
    actor: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[LabelFile, Reviewed]:
    """Write the labels that people agree on as the next version, and into the log that this was done.

    Args:
        database: Where feedback is kept.
        folder: Where the versions are.
        taxonomy: The version that labels shall have.
        actor: Who does it.
        since: Only what was said from then on, in UTC.
        until: Only what was said before then, in UTC.

    Raises:
        InvalidDataError: There is no call on which people agree.
    """
    answers = read_feedback(database, since=since, until=until)
    found = reviewed(answers, taxonomy)
    if not found.labels:
        raise InvalidDataError(
            say(
                "There is no label yet: of {answers} answers, {open} calls wait for another person and {disputed} are "
                "disputed.",
                answers=len(answers),
                open=len(found.open),
                disputed=len(found.disputed),
            ),
            hint=say("People answer at /v1/review and /v1/feedback of `qwenops serve --classifier NAME`."),
            problems=found.problems,
        )
    text = "".join(f"{dump(label)}\n" for label in found.labels)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    with held(folder / ".lock", lambda: None, timeout_s=_LOCK_TIMEOUT_S):
        last = _last(folder)
        if last is not None and last.sha256 == sha256:
            return last, found
        version = 1 + max((_version_of(path) for path in folder.glob(f"{_STEM}*.json*")), default=0)
        path = folder / f"{_STEM}{version:04d}.jsonl"
        write_text(path, text, mode=0o600)
        manifest = _manifest(found, taxonomy, version, sha256) | {
            "made_at": database.now().isoformat(),
            "made_by": actor,
            "since": since.isoformat() if since else None,
            "until": until.isoformat() if until else None,
            "previous": {"version": last.version, "sha256": last.sha256} if last else None,
        }
        write_text(path.with_suffix(".json"), json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", mode=0o600)
    written = LabelFile(path=path, version=version, sha256=sha256, is_new=True)
    detail = {"labels": len(found.labels), "sha256": sha256}
    record(database, Event(action=Action.EXPORTED, kind=Kind.FILE, subject=path.name, actor=actor, detail=detail))
    return written, found


def agreement_data(found: Agreement | None) -> dict[str, Any] | None:
    """Return an agreement for JSON."""
    if found is None:
        return None
    interval = found.interval()
    return {
        "calls": found.num,
        "observed": found.observed,
        "expected": found.expected,
        "kappa": found.kappa,
        "kappa_low": interval.low if interval else None,
        "kappa_high": interval.high if interval else None,
    }


def _migrated(answers: Iterable[Feedback], taxonomy: Taxonomy) -> tuple[list[Feedback], list[Problem]]:
    known: list[Feedback] = []
    problems: list[Problem] = []
    for said in answers:
        found = taxonomy.migrate(_as_label(said))
        if isinstance(found, Problem):
            problems.append(found)
        else:
            known.append(
                replace(
                    said,
                    taxonomy=found.taxonomy,
                    label=found.primary,
                    secondary=found.secondary,
                    axes=found.axes,
                    predicted=found.predicted,
                )
            )
    return known, problems


def _as_label(said: Feedback) -> Label:
    return Label(
        conversation_id=said.conversation_id,
        taxonomy=said.taxonomy,
        primary=said.label,
        secondary=said.secondary,
        axes=said.axes,
        predicted=said.predicted,
    )


def _label(call: str, settled: Settled) -> Label:
    """Return the label that the votes make; how many of them are for it is its weight."""
    agreeing = [vote for vote in settled.votes if vote.label == settled.label]
    last = agreeing[-1]
    return Label(
        conversation_id=call,
        taxonomy=last.taxonomy,
        primary=last.label,
        secondary=last.secondary,
        axes=last.axes,
        source=LabelSource.HUMAN,
        annotator="+".join(sorted(vote.reviewer for vote in agreeing)),
        weight=round(len(agreeing) / len(settled.votes), 4),
        decided_at=last.at,
        predicted="" if last.blind else last.predicted,
        note=last.note,
    )


def _which(settled: Mapping[str, Settled], outcome: Outcome) -> tuple[str, ...]:
    return tuple(sorted(call for call, each in settled.items() if each.outcome is outcome))


def _following(answers: Sequence[Feedback], *, blind: bool) -> Following:
    asked = [each for each in answers if each.predicted and each.blind is blind]
    return Following(num=len(asked), same=sum(_is_same(each) for each in asked))


def _is_same(said: Feedback) -> bool:
    """Whether the label is what was predicted; a prediction may be the class above."""
    return said.label == said.predicted or said.label.startswith(f"{said.predicted}.")


def _manifest(found: Reviewed, taxonomy: Taxonomy, version: int, sha256: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": version,
        "sha256": sha256,
        "taxonomy": {"ref": taxonomy.ref, "sha256": taxonomy.sha256},
        "labels": len(found.labels),
        "agreement": agreement_data(found.agreement),
        "agreement_by_people": [
            {"people": list(people), **(agreement_data(each) or {})} for people, each in found.by_people.items()
        ],
        "followed": {"shown": found.shown.share, "blind": found.blind.share},
        "seconds": found.seconds,
        "open": list(found.open),
        "disputed": list(found.disputed),
        "left_out": len(found.problems),
    }


def _last(folder: Path) -> LabelFile | None:
    """Return the last version that is whole."""
    for path in sorted(folder.glob(f"{_STEM}*.json"), key=_version_of, reverse=True):
        try:
            told = json.loads(path.read_bytes())
            version, sha256 = int(told["version"]), str(told["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return LabelFile(path=path.with_suffix(".jsonl"), version=version, sha256=sha256, is_new=False)
    return None


def _version_of(path: Path) -> int:
    number = path.stem.removeprefix(_STEM)
    return int(number) if number.isdecimal() else 0
