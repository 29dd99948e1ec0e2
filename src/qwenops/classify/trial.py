"""A trial: a trained model and the baselines before the same test calls, and what that says. Pure.

    what each said of the test calls ──> how good each is ──> is the model worth more than the best baseline?
                                    └──> thresholds ──> who files what, and how often that is right

What the model's probabilities mean was fitted to other calls. The baselines stand in order of what they were worth out
of fold, so that which of them the model has to beat was known before the test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from qwenops.calls.classes import Taxonomy
from qwenops.calls.schema import Call
from qwenops.classify.answers import Answers, answers_of
from qwenops.classify.calibrate import logits_of, scale
from qwenops.classify.conformal import label_sets
from qwenops.classify.decide import Filed, decide, measure
from qwenops.classify.evaluate import Evaluation, Verdict, compare, evaluate, notes_of, verdict_sentences
from qwenops.classify.evaluate.evaluation import Reliability
from qwenops.classify.evaluate.reliability import reliability
from qwenops.classify.hierarchy import Hierarchy
from qwenops.classify.linear import Kind
from qwenops.classify.meaning import Meaning
from qwenops.classify.plain import to_plain
from qwenops.classify.prediction import Prediction
from qwenops.statistics.samples import Array
from qwenops.text import Text

SCHEMA = "qwenops.trial/1"
MODEL = "model"
"""What the trained model is called beside the baselines."""
LENGTHS = (256, 512, 1024)
"""Tokens at which a longer kind of call begins."""
CONFIDENCES = (0.8, 0.9)
"""Of the speech recognition, at which a better kind of call begins."""
THIRDS = (1 / 3, 2 / 3)
_THOUSAND = 1000
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a call besides its class; empty or None where nobody said."""

    conversation_id: str
    customer: str
    lang: str
    channel: str
    month: str
    recognition: float | None
    """How sure the speech recognition was."""
    redaction: str
    """Version of what took personal data out."""
    more: Mapping[str, str | float]
    """Whatever else calls are told apart by."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialCalls:
    """The test calls, in one order."""

    facts: tuple[Facts, ...]
    truth: tuple[str, ...]
    tokens: tuple[int, ...]

    @property
    def customers(self) -> tuple[str, ...]:
        """Who called; empty where nobody said."""
        return tuple(each.customer for each in self.facts)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Said:
    """What each said of the test calls: probabilities, shape (calls, classes)."""

    model: Array
    """Not calibrated."""
    baselines: Mapping[Kind, Array]
    best: Kind
    """Of the baselines, the best one out of fold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What scoring the test calls took."""

    calls: int
    tokens: int
    seconds: float
    threads: int
    """0 on a GPU."""
    price_per_hour: float | None = None
    """Of the machine, in whatever money."""

    @property
    def seconds_per_1000_calls(self) -> float:
        """How long a thousand such calls take."""
        return _THOUSAND * self.seconds / max(1, self.calls)

    @property
    def price_per_1000_calls(self) -> float | None:
        """What a thousand such calls cost."""
        if self.price_per_hour is None:
            return None
        return self.seconds_per_1000_calls / _HOUR_S * self.price_per_hour


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """What came out."""

    answers: Answers
    """The model's, calibrated."""
    evaluation: Evaluation
    uncalibrated: Reliability
    filed: Filed
    baselines: Mapping[Kind, Evaluation]
    verdicts: Mapping[Kind, Verdict]
    """The model against each baseline."""
    best: Kind

    @property
    def verdict(self) -> Verdict:
        """The one that decides: against the best baseline, unless the model beats that one and another one not."""
        first = self.verdicts[self.best]
        unbeaten = [each for each in self.verdicts.values() if not each.use_ours]
        if not first.use_ours or not unbeaten:
            return first
        return max(unbeaten, key=lambda each: each.their_macro_f1)

    @property
    def use_model(self) -> bool:
        """Whether the model is better than every baseline; each alone has to be proven, so nothing is corrected."""
        return all(each.use_ours for each in self.verdicts.values())


def hold_trial(
    calls: TrialCalls,
    said: Said,
    meaning: Meaning,
    hierarchy: Hierarchy,
    *,
    seed: int,
    by: Sequence[str] = (),
) -> Trial:
    """Judge what model and baselines said.

    Args:
        calls: The test calls.
        said: By whom what.
        meaning: What the model's probabilities mean, fitted to other calls.
        hierarchy: The classes, in the order of the probabilities.
        seed: Of everything that is drawn.
        by: Names of further facts by which calls are divided.

    Raises:
        InvalidDataError: The numbers do not fit together.
    """
    classes, customers = hierarchy.leaves, calls.customers
    raw = answers_of(calls.truth, said.model, classes, groups=customers)
    told = scale(logits_of(raw.probabilities), meaning.calibration.scaling)
    ours = answers_of(calls.truth, told, classes, groups=customers)
    evaluation = evaluate(
        calls.truth,
        ours.probabilities,
        classes,
        groups=customers,
        slices=slices_of_calls(calls, by),
        parents=hierarchy.parent_of or None,
        seed=seed,
    )
    baselines: dict[Kind, Evaluation] = {}
    verdicts: dict[Kind, Verdict] = {}
    for kind, probabilities in said.baselines.items():
        theirs = answers_of(calls.truth, probabilities, classes, groups=customers)
        baselines[kind] = evaluate(calls.truth, theirs.probabilities, classes, groups=customers, seed=seed)
        verdicts[kind] = compare(ours, theirs, name=MODEL, their_name=kind.value, seed=seed)
    return Trial(
        answers=ours,
        evaluation=evaluation,
        uncalibrated=reliability(raw, seed=seed),
        filed=measure(ours, hierarchy, meaning.thresholds),
        baselines=baselines,
        verdicts=verdicts,
        best=said.best,
    )


def facts_of(call: Call, by: Sequence[str] = (), more: Mapping[str, str | float] | None = None) -> Facts:
    """Return what is known of a call.

    Args:
        call: It.
        by: Names of further facts that are wanted; they are looked up in `more`, then in the call's own meta.
        more: Facts of the call that come from elsewhere.
    """
    heard = [turn.conf for turn in call.turns if turn.conf is not None]
    recognition = call.asr.mean_conf if call.asr is not None else None
    if recognition is None and heard:
        recognition = sum(heard) / len(heard)
    known = {**call.meta, **(more or {})}
    return Facts(
        conversation_id=call.conversation_id,
        customer=call.customer_id,
        lang=call.lang,
        channel=call.channel,
        month=f"{call.started_at:%Y-%m}" if call.started_at is not None else "",
        recognition=recognition,
        redaction=call.redaction.version if call.redaction is not None else "",
        more={name: _plain(known[name]) for name in by if name in known},
    )


def slices_of_calls(calls: TrialCalls, by: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return for each name the value of every call; names by which all calls are alike are left out."""
    facts = calls.facts
    found = {
        "language": [each.lang for each in facts],
        "channel": [each.channel for each in facts],
        "month": [each.month for each in facts],
        "length": [band(tokens, LENGTHS, "04.0f") for tokens in calls.tokens],
        "recognition": [
            "" if each.recognition is None else band(each.recognition, CONFIDENCES, ".2f") for each in facts
        ],
        **{name: _values([each.more.get(name) for each in facts]) for name in by},
    }
    return {name: values for name, values in found.items() if len({value for value in values if value}) > 1}


def band(value: float, limits: Sequence[float], shown: str) -> str:
    """Return in which band a number lies, in words that sort as the numbers do.

    Args:
        value: The number.
        limits: Where bands begin, ascending; the first one begins anywhere below.
        shown: How limits are written.
    """
    place = int(np.searchsorted(np.asarray(limits, dtype=np.float64), value, side="right"))
    low = f"{limits[place - 1]:{shown}}" if place else f"{0.0:{shown}}"
    return f"{low}-{limits[place]:{shown}}" if place < len(limits) else f"{low}+"


def predictions_of(
    trial: Trial, calls: TrialCalls, meaning: Meaning, taxonomy: Taxonomy, hierarchy: Hierarchy, *, model: str
) -> list[Prediction]:
    """Return what the model says of each test call, and what would be done with it.

    Args:
        trial: What came out.
        calls: The test calls.
        meaning: What the model's probabilities mean.
        taxonomy: Its classes.
        hierarchy: The same, as numbers have them.
        model: What predictions call it.
    """
    probabilities = trial.answers.probabilities
    sets = label_sets(probabilities, meaning.conformal)
    found = []
    for row, decision in enumerate(decide(probabilities, hierarchy, meaning.thresholds)):
        by_leaf = zip(hierarchy.leaves, probabilities[row].tolist(), strict=True)
        found.append(
            Prediction(
                conversation_id=calls.facts[row].conversation_id,
                model=model,
                primary=decision.label,
                path=taxonomy.path_of(decision.label),
                p=decision.p,
                probs={leaf: min(round(p, 6), 1.0) for leaf, p in by_leaf},
                decision=decision.kind,
                candidates=tuple(compress(hierarchy.leaves, sets[row])),
                threshold=decision.threshold,
                redaction=calls.facts[row].redaction,
                tokens=calls.tokens[row],
            )
        )
    return found


def sentences(trial: Trial) -> tuple[Text, ...]:
    """Return what came out in words: what to do first, then what to know about the figures."""
    return (*verdict_sentences(trial.verdict), *notes_of(trial.evaluation))


def trial_data(trial: Trial, cost: Cost) -> dict[str, Any]:
    """Return what came out as plain data; `test` and `filed` are where an exported classifier has them, too."""
    return {
        "schema": SCHEMA,
        "use_model": trial.use_model,
        "best_baseline": trial.best.value,
        "decided_by": trial.verdict.theirs,
        "sentences": [str(each) for each in sentences(trial)],
        "test": to_plain(trial.evaluation),
        "uncalibrated": to_plain(trial.uncalibrated),
        "filed": to_plain(trial.filed),
        "baselines": {kind.value: to_plain(each) for kind, each in trial.baselines.items()},
        "verdicts": {kind.value: to_plain(each) for kind, each in trial.verdicts.items()},
        "cost": {
            **to_plain(cost),
            "seconds_per_1000_calls": cost.seconds_per_1000_calls,
            "price_per_1000_calls": cost.price_per_1000_calls,
        },
    }


def _plain(value: Any) -> str | float:
    """Return a fact as a number where it is one, else as a text."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _values(facts: Sequence[str | float | None]) -> list[str]:
    """Return facts as values of slices; numbers of many kinds fall into thirds."""
    numbers = [each for each in facts if isinstance(each, float)]
    if len(numbers) != sum(each is not None for each in facts) or len(set(numbers)) <= len(THIRDS) + 1:
        return ["" if each is None else f"{each:g}" if isinstance(each, float) else each for each in facts]
    limits = sorted({float(each) for each in np.quantile(numbers, THIRDS)})
    return ["" if each is None else band(float(each), limits, ".3f") for each in facts]
