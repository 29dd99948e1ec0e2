"""How hard synthetic calls are for models that understand nothing: what the generator's defaults are tuned to.

    python tools/difficulty.py --calls 6000
    python tools/difficulty.py --calls 6000 --set competing_share=0.6 --set details=0.7
    python tools/difficulty.py --calls 8000 --curve 300,1000,3000,6000

The linear model sees character n-grams, learns from labels as annotators gave them, and is judged by the true classes.
Calls of one customer, copies among them, are never on both sides.
"""

import argparse
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qwenops.calls.generator.generate import generate
from qwenops.calls.generator.options import Difficulty, GeneratorOptions
from qwenops.calls.generator.truth import Synthetic
from qwenops.calls.schema import Role

_PARTS = 4
"""One part in so many is what models are judged by."""
_METADATA = ("characters", "turns", "customer's share", "longest turn", "minutes", "confidence", "month", "PII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Macro-F1 of models that understand nothing."""

    calls: int
    in_distribution: float
    """A linear model on character n-grams, on authors that it knows."""
    unseen_author: float
    """The same on an author that it does not know, on average over the authors."""
    by_author: dict[str, float]
    hard_negatives: float
    """Share of inquiries with the words of a complaint that the model takes for inquiries."""
    metadata: float
    """Balanced accuracy of a forest that sees lengths, times and counts of personal data; `chance` is the least."""
    chance: float
    keyword_share: float
    """Share of complaints that the customer tells with a usual word of their class."""


def scores(made: Sequence[Synthetic], seed: int = 0) -> Scores:
    """Judge calls.

    Args:
        made: Calls of several authors.
        seed: Of the models.
    """
    texts = [text_of(each) for each in made]
    labels, truth = [each.label.primary for each in made], [each.truth.leaf for each in made]
    authors = np.array([each.truth.author for each in made])
    held_out = np.array([_part(each.call.customer_id) == 0 for each in made])
    told = _linear(texts, labels, ~held_out, held_out, seed)
    judged = [truth[place] for place in np.flatnonzero(held_out).tolist()]
    negatives = np.array([made[place].truth.hard_negative == "asks" for place in np.flatnonzero(held_out).tolist()])
    by_author = {}
    for author in sorted(set(authors.tolist())):
        unseen = held_out & (authors == author)
        guessed = _linear(texts, labels, ~held_out & (authors != author), unseen, seed)
        by_author[author] = _macro_f1([truth[place] for place in np.flatnonzero(unseen).tolist()], guessed)
    complaints = [each.truth.keyword for each in made if each.truth.telling in {"said", "felt"}]
    return Scores(
        calls=len(made),
        in_distribution=_macro_f1(judged, told),
        unseen_author=float(np.mean(list(by_author.values()))),
        by_author=by_author,
        hard_negatives=float(np.mean((np.array(judged) == np.array(told))[negatives])) if negatives.any() else 0.0,
        metadata=_metadata_accuracy(made, truth, held_out, seed),
        chance=1 / len(set(truth)),
        keyword_share=float(np.mean(complaints)),
    )


def curve(made: Sequence[Synthetic], sizes: Sequence[int], seed: int = 0) -> dict[int, float]:
    """Return the macro-F1 of the linear model that learns from so many calls, always judged by the same others."""
    texts, labels = [text_of(each) for each in made], [each.label.primary for each in made]
    held_out = np.array([_part(each.call.customer_id) == 0 for each in made])
    judged = [made[place].truth.leaf for place in np.flatnonzero(held_out).tolist()]
    found = {}
    for size in sizes:
        learnt = ~held_out & (np.cumsum(~held_out) <= size)
        found[int(learnt.sum())] = _macro_f1(judged, _linear(texts, labels, learnt, held_out, seed))
    return found


def text_of(made: Synthetic) -> str:
    """Return a call as models read it: who speaks and what is said."""
    return "\n".join(f"{turn.role.value[0]}:{turn.text}" for turn in made.call.turns)


def _part(customer: str) -> int:
    return int(hashlib.sha256(customer.encode()).hexdigest(), 16) % _PARTS


def _linear(
    texts: Sequence[str],
    labels: Sequence[str],
    train: npt.NDArray[np.bool_],
    test: npt.NDArray[np.bool_],
    seed: int,
) -> list[str]:
    """Return what a linear model on character n-grams says about the calls of one side."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True, max_features=200_000)
    learnt = vectors.fit_transform([texts[place] for place in np.flatnonzero(train).tolist()])
    model = LinearSVC(C=1.0, class_weight="balanced", random_state=seed)
    model.fit(learnt, [labels[place] for place in np.flatnonzero(train).tolist()])
    return [
        str(each)
        for each in model.predict(vectors.transform([texts[place] for place in np.flatnonzero(test).tolist()]))
    ]


def _macro_f1(truth: Sequence[str], told: Sequence[str]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(truth, told, average="macro", labels=sorted(set(truth)), zero_division=0.0))


def metadata_of(made: Sequence[Synthetic]) -> npt.NDArray[np.float64]:
    """Return what is known about calls without reading them, one row each, in the order of `_METADATA`."""
    rows = []
    for each in made:
        lengths = [len(turn.text) for turn in each.call.turns] or [0]
        customer = sum(len(turn.text) for turn in each.call.turns if turn.role is Role.CUSTOMER)
        kinds = Counter(span.kind for span in each.truth.pii)
        confidence = each.call.asr.mean_conf if each.call.asr else None
        rows.append(
            [
                sum(lengths),
                len(lengths),
                customer / max(1, sum(lengths)),
                max(lengths),
                (each.call.duration_s or 0.0) / 60,
                confidence or 0.0,
                each.truth.month,
                *(
                    kinds[kind]
                    for kind in ("PHONE", "NAME", "ID_CARD", "BANK_CARD", "ADDRESS", "EMAIL", "ACCOUNT", "ORDER")
                ),
            ]
        )
    return np.array(rows, dtype=np.float64)


def _metadata_accuracy(
    made: Sequence[Synthetic], truth: Sequence[str], held_out: npt.NDArray[np.bool_], seed: int
) -> float:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import balanced_accuracy_score

    rows, classes = metadata_of(made), np.array(truth)
    model = RandomForestClassifier(
        n_estimators=200, min_samples_leaf=5, class_weight="balanced", random_state=seed, n_jobs=1
    )
    model.fit(rows[~held_out], classes[~held_out])
    return float(balanced_accuracy_score(classes[held_out], model.predict(rows[held_out])))


def changed(options: GeneratorOptions, changes: Sequence[str]) -> GeneratorOptions:
    """Return options with some knobs set: `competing_share=0.6`."""
    knobs = options.difficulty
    types = {each.name: type(getattr(knobs, each.name)) for each in dataclasses.fields(Difficulty)}
    for change in changes:
        name, _, value = change.partition("=")
        knobs = replace(knobs, **{name: types[name](value)})
    return replace(options, difficulty=knobs)


def main() -> None:
    """Print the scores of some options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE")
    parser.add_argument("--curve", default="", metavar="SIZES", help="how well one learns from so many calls: 300,1000")
    asked = parser.parse_args()
    options = changed(GeneratorOptions(calls=asked.calls, seed=asked.seed), asked.set)
    made = list(generate(options))
    if asked.curve:
        for size, score in curve(made, [int(each) for each in asked.curve.split(",")]).items():
            print(f"{size:6} calls    {score:.3f}")
        return
    found = scores(made)
    for name, value in dataclasses.asdict(found).items():
        print(f"{name:16} {value}")


if __name__ == "__main__":
    main()
