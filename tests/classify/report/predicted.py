"""Predictions that are drawn from known shares."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from qwenops.classify.prediction import DecisionKind, Prediction
from qwenops.classify.report.told import Told

MONDAY = datetime(2026, 3, 2, 9, tzinfo=UTC)
WEEK = timedelta(days=7)


def told(
    shares: Sequence[Mapping[str, float]],
    num: int = 300,
    *,
    seed: int = 1,
    models: Sequence[str] = (),
    review: Sequence[float] = (),
) -> list[Told]:
    """Return calls of one week for each of the shares, by category; names of models and shares of review by week."""
    rng = np.random.default_rng(seed)
    found: list[Told] = []
    for week, each in enumerate(shares):
        chosen = rng.choice(list(each), num, p=list(each.values()))
        reviewed = rng.random(num) < (review[week] if review else 0.1)
        found += [
            Told(
                conversation_id=f"{week}-{number}",
                category=str(chosen[number]),
                decision=DecisionKind.REVIEW if reviewed[number] else DecisionKind.AUTO,
                p=0.5 if reviewed[number] else 0.95,
                model=models[week] if models else "m@1",
                at=MONDAY + week * WEEK + timedelta(minutes=10 * (number % 600)),
            )
            for number in range(num)
        ]
    return found


def prediction(name: str, category: str, at: datetime, *, p: float = 0.9, model: str = "m@1") -> Prediction:
    """Return a prediction that was made at some time."""
    return Prediction(
        conversation_id=name, model=model, primary=category, p=p, decision=DecisionKind.AUTO, probs={category: p}, at=at
    )
