"""From calls to predictions: redacted, rendered, scored, calibrated, decided; and, where asked, what carried it.

    artefact folder ──open_form──> Form ─┐
    engine ──> LabelScorer ──────────────┴─> Classifier: prepare (any thread) ──> judge (the event loop)

What an artefact says about itself is checked when it is opened: a taxonomy with other classes than the calibration, a
prompt of another form than this program makes, and a vocabulary without the codes are refused, for each would give
numbers that look like probabilities and are none.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, Protocol

from qwenops.calls.classes import ClassSeverity, Taxonomy
from qwenops.calls.redact import VERSION as REDACTION
from qwenops.calls.redact import redact
from qwenops.calls.render import render
from qwenops.calls.schema import Call, Role
from qwenops.calls.taxonomy import TAXONOMY, load
from qwenops.classify.calibrate import Calibration, VectorScaling, calibration_of, logits_of, scale
from qwenops.classify.codes import assign
from qwenops.classify.conformal import Conformal, label_sets
from qwenops.classify.decide import Thresholds, decide, thresholds_of
from qwenops.classify.golden import fingerprint
from qwenops.classify.hierarchy import Hierarchy, hierarchy_of
from qwenops.classify.plain import from_plain
from qwenops.classify.prediction import Prediction
from qwenops.classify.prompt import prompt_hash, prompt_ids
from qwenops.engines.seam import LabelScorer
from qwenops.errors import InvalidDataError, ModelLoadError
from qwenops.generation import Tokens
from qwenops.models.artefact import MANIFEST
from qwenops.models.tokenizer import Tokenizer
from qwenops.text import Text, say

PROMPT, CALIBRATION, THRESHOLDS, CONFORMAL = (
    "prompt.json",
    "calibration.json",
    "thresholds.json",
    "conformal.json",
)
"""Files of an artefact that are read here; the last may be missing."""
MOST_PARTS = 24
"""A call is left out in so many parts at most when it is asked what carried the prediction."""
MOST_CARRIED = 5


class Scorer(LabelScorer, Protocol):
    """A LabelScorer that holds something."""

    async def aclose(self) -> None:
        """Give back what it holds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """In which form a model is asked, and what its answers mean."""

    taxonomy: Taxonomy
    budget_tokens: int
    """The longest prompt."""
    legend: str
    """The classes as the prompt tells them; empty for a model that knows them by heart."""
    calibration: Calibration
    thresholds: Thresholds
    conformal: Conformal | None = None
    redaction: str = ""
    """Version of the rules by which the calls that it was trained on were redacted; empty where nobody said."""
    fingerprint: str = ""
    """Of the prompts that tokenizer and template made of known calls; empty where nobody took it."""

    @property
    def leaves(self) -> tuple[str, ...]:
        """The classes, in the order of the model's probabilities."""
        return self.taxonomy.leaves

    @property
    def hierarchy(self) -> Hierarchy:
        """The classes and what stands above them."""
        return hierarchy_of(self.taxonomy)

    @property
    def warning(self) -> Text | None:
        """What should be known although it can be used."""
        if self.redaction in {"", REDACTION}:
            return None
        return say(
            "The model was trained on calls redacted by {trained}, and this version of qwenops redacts by {ours}: "
            "train it again.",
            trained=self.redaction,
            ours=REDACTION,
        )

    @property
    def critical(self) -> frozenset[str]:
        """Classes of which none may be overlooked."""
        severity = self.taxonomy.severity_of
        return frozenset(code for code in self.taxonomy.classes if severity(code) is ClassSeverity.CRITICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A call that cannot be classified."""

    place: int
    """Among the calls that were given, from 0."""
    call: Call
    reason: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Calls as a model reads them."""

    calls: tuple[Call, ...]
    """Redacted, without those that were refused."""
    prompts: tuple[Tokens, ...]
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Turns that carried a prediction."""

    turns: tuple[int, ...]
    """Their places in the call, from 0."""
    drop: float
    """How much less probable the class is without them."""


class Classifier:
    """A model of the registry, ready to classify."""

    def __init__(
        self,
        ref: str,
        form: Form,
        tokenizer: Tokenizer,
        scorer: Scorer,
        *,
        secret: bytes,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(tz=UTC),
    ) -> None:
        """Take over a scorer; it is closed with this.

        Args:
            ref: What predictions call the model.
            form: How it is asked.
            tokenizer: Of the model.
            scorer: What computes.
            secret: For comparing personal data within a call; any random bytes.
            clock: Seconds that never go back.
            now: The time that predictions carry.

        Raises:
            UnsupportedModelError: The vocabulary does not have the codes of the classes.
        """
        self.ref = ref
        self.form = form
        self._tokenizer = tokenizer
        self._scorer = scorer
        self._label_ids = tuple(assign(form.leaves, tokenizer).values())
        self._hierarchy = form.hierarchy
        self._secret = secret
        self._clock = clock
        self._now = now

    def prepare(self, calls: Sequence[Call]) -> Prepared:
        """Redact calls and turn them into prompts; takes milliseconds for each, so do it in a thread."""
        ready: list[Call] = []
        prompts: list[Tokens] = []
        refused: list[Refused] = []
        for place, given in enumerate(calls):
            call = redact(given, secret=self._secret).call
            try:
                prompts.append(self._prompt(call))
            except InvalidDataError as error:
                reason = error.message if isinstance(error.message, Text) else say("{reason}", reason=error.message)
                refused.append(Refused(place=place, call=call, reason=reason))
            else:
                ready.append(call)
        return Prepared(calls=tuple(ready), prompts=tuple(prompts), refused=tuple(refused))

    async def judge(self, prepared: Prepared) -> list[Prediction]:
        """Return what the model says, in the order of the calls.

        Raises:
            EngineError: The engine failed; nothing is known about any of the calls.
        """
        if not prepared.calls:
            return []
        began_s = self._clock()
        scores = await self._scorer.score(prepared.prompts, self._label_ids)
        elapsed_s = self._clock() - began_s
        total = sum(len(prompt.ids) for prompt in prepared.prompts)
        at = self._now()
        told = await asyncio.to_thread(self._predictions, prepared, scores)
        return [
            replace(each, latency_s=elapsed_s * len(prompt.ids) / total, at=at)
            for each, prompt in zip(told, prepared.prompts, strict=True)
        ]

    async def carried_by(self, call: Call, code: str) -> tuple[Carried, ...]:
        """Say which turns of a redacted call carried a class: without them it is less probable.

        Turns are left out one by one, of a long call several at a time. The greatest drop comes first.
        """
        parts = [part for part in _parts(call) if render(_without(call, part))]
        if not parts:
            return ()
        calls = [call, *(_without(call, part) for part in parts)]
        prompts = await asyncio.to_thread(lambda: [self._prompt(each) for each in calls])
        scores = await self._scorer.score(prompts, self._label_ids)
        leaves = [self.form.leaves.index(leaf) for leaf in self.form.taxonomy.leaves_under(code)]
        probabilities = scale(logits_of(scores), self.form.calibration.scaling)[:, leaves].sum(axis=1)
        drops = [float(probabilities[0] - each) for each in probabilities[1:]]
        ranked = sorted(zip(drops, parts, strict=True), key=lambda pair: -pair[0])
        return tuple(Carried(turns=part, drop=drop) for drop, part in ranked[:MOST_CARRIED] if drop > 0)

    async def aclose(self) -> None:
        """Close the scorer."""
        await self._scorer.aclose()

    def _prompt(self, call: Call) -> Tokens:
        form = self.form
        ids = prompt_ids(call, self._tokenizer, budget_tokens=form.budget_tokens, legend=form.legend)
        return Tokens(ids=ids)

    def _predictions(self, prepared: Prepared, scores: Sequence[Sequence[float]]) -> list[Prediction]:
        form = self.form
        probabilities = scale(logits_of(scores), form.calibration.scaling)
        decisions = decide(probabilities, self._hierarchy, form.thresholds)
        sets = label_sets(probabilities, form.conformal) if form.conformal is not None else None
        found = []
        for row, (call, decision) in enumerate(zip(prepared.calls, decisions, strict=True)):
            chosen = () if sets is None else tuple(compress(form.leaves, sets[row]))
            found.append(
                Prediction(
                    conversation_id=call.conversation_id,
                    model=self.ref,
                    primary=decision.label,
                    path=form.taxonomy.path_of(decision.label),
                    p=decision.p,
                    probs=_by_leaf(form.leaves, probabilities[row]),
                    decision=decision.kind,
                    candidates=chosen,
                    threshold=decision.threshold,
                    redaction=REDACTION,
                    tokens=len(prepared.prompts[row].ids),
                )
            )
        return found


def open_form(folder: Path) -> Form:
    """Read how a model is asked and what its answers mean.

    Raises:
        ModelLoadError: A file is missing or damaged, or they do not belong together.
        InvalidDataError: The taxonomy is none.
    """
    taxonomy = load(folder / TAXONOMY)
    prompt = _read(folder, PROMPT)
    try:
        budget_tokens, legend, known = int(prompt["budget_tokens"]), str(prompt.get("legend", "")), str(prompt["hash"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unfit(folder, say("{file} is incomplete", file=PROMPT)) from error
    if known != prompt_hash(budget_tokens=budget_tokens, legend=legend):
        raise _unfit(folder, say("it was trained on prompts of another form than this version of qwenops makes"))
    manifest = _read(folder, MANIFEST)
    form = Form(
        taxonomy=taxonomy,
        budget_tokens=budget_tokens,
        legend=legend,
        calibration=_parsed(folder, CALIBRATION, calibration_of),
        thresholds=_parsed(folder, THRESHOLDS, thresholds_of),
        conformal=_parsed(folder, CONFORMAL, partial(from_plain, Conformal)) if (folder / CONFORMAL).exists() else None,
        redaction=_said(manifest, "redaction", "version"),
        fingerprint=str(prompt.get("fingerprint", "")),
    )
    _check_classes(folder, form, _said(manifest, "taxonomy", "ref"))
    return form


def check_tokenizer(folder: Path, form: Form, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that makes other prompts of known calls than the model was trained on.

    Raises:
        ModelLoadError: It does.
    """
    made = fingerprint(tokenizer, budget_tokens=form.budget_tokens, legend=form.legend)
    if form.fingerprint not in {"", made}:
        raise _unfit(folder, say("its tokenizer makes other prompts than it was trained on"))


def _said(manifest: Any, key: str, inner: str) -> str:
    """Return what a manifest says about something, as a text or as a part of an object; empty where it does not."""
    found = manifest.get(key) if isinstance(manifest, dict) else None
    if isinstance(found, dict):
        found = found.get(inner)
    return found if isinstance(found, str) else ""


def _check_classes(folder: Path, form: Form, taught: str) -> None:
    """Refuse parts that are about other classes than the taxonomy has."""
    if taught and taught != form.taxonomy.ref:
        raise _unfit(
            folder, say("it was trained for {taught}, and its taxonomy is {ref}", taught=taught, ref=form.taxonomy.ref)
        )
    sizes = {}
    if isinstance(form.calibration.scaling, VectorScaling):
        sizes[CALIBRATION] = len(form.calibration.scaling.scales)
    if form.conformal is not None:
        sizes[CONFORMAL] = len(form.conformal.limits)
    for name, size in sizes.items():
        if size != len(form.leaves):
            raise _unfit(
                folder,
                say(
                    "{file} is about {size} classes, and {ref} has {leaves}",
                    file=name,
                    size=size,
                    ref=form.taxonomy.ref,
                    leaves=len(form.leaves),
                ),
            )


def _by_leaf(leaves: Sequence[str], probabilities: Any) -> dict[str, float]:
    """Return probabilities by leaf, with as many digits as mean anything."""
    return {leaf: min(round(float(p), 6), 1.0) for leaf, p in zip(leaves, probabilities, strict=True)}


def _parts(call: Call) -> list[tuple[int, ...]]:
    """Return the turns that say something, in at most so many parts as are left out."""
    turns = [place for place, turn in enumerate(call.turns) if turn.role is not Role.IVR and turn.text.strip()]
    size = -(-len(turns) // MOST_PARTS) if turns else 1
    return [tuple(turns[first : first + size]) for first in range(0, len(turns), size)]


def _without(call: Call, part: Sequence[int]) -> Call:
    left_out = set(part)
    return replace(call, turns=tuple(turn for place, turn in enumerate(call.turns) if place not in left_out))


def _parsed(folder: Path, name: str, parse: Callable[[Any], Any]) -> Any:
    try:
        return parse(_read(folder, name))
    except ValueError as error:
        raise _unfit(folder, say("{file} is not what this version reads", file=name)) from error


def _read(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_bytes())
    except (OSError, ValueError) as error:
        raise _unfit(folder, say("{file} cannot be read", file=name)) from error


def _unfit(folder: Path, what: Text) -> ModelLoadError:
    return ModelLoadError(
        say("The classifier in {folder} cannot be used: {what}.", folder=str(folder), what=what),
        hint=say("Export it again with `qwenops finetune export`."),
    )
