"""Who labels a call, and what he makes of it: wrong labels come where people make mistakes, not just anywhere.

Each annotator is careful or careless in his own degree and has classes that he falls back on; classes that are hard to
tell apart are confused, another matter that came up is taken for the main one, and some calls end up in `other`.
"""

from dataclasses import dataclass

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.scenario import Scenario
from qwenops.calls.generator.world import NONE, OTHER, World

ANNOTATORS = 12
_TO_SIMILAR, _TO_COMPETING, _TO_OTHER, _TO_HABIT = 5.0, 2.5, 1.5, 1.0
"""How often each kind of mistake is made, against the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What one annotator chose."""

    leaf: str
    annotator: str


def annotate(index: int, scenario: Scenario, world: World, noise: float, seed: int) -> Annotation:
    """Return what an annotator says the call of a number is about; `noise` is the share of wrong labels over all."""
    dice = Dice(seed, index, "annotation")
    number = dice.between(1, ANNOTATORS)
    own = Dice(seed, "annotator", number)
    care, habit = 0.5 + own.share(), own.one_of(world.complaints)
    doubt = world.lexicon.leaves[scenario.leaf].doubt if scenario.complaint else 1.0
    leaf = scenario.leaf
    if dice.happens(min(0.9, noise * care * doubt)):
        leaf = _mistaken(scenario, world, habit, dice)
    return Annotation(leaf=leaf, annotator=f"annotator-{number:02d}")


def _mistaken(scenario: Scenario, world: World, habit: str, dice: Dice) -> str:
    """Return a class that is not the true one."""
    similar = world.lexicon.leaves[scenario.about].mistaken if scenario.about else {}
    weights: dict[str, float] = {}
    total = sum(similar.values())
    for code, weight in similar.items():
        weights[code] = _TO_SIMILAR * weight / total
    if scenario.competing is not None:
        weights[scenario.competing.leaf] = weights.get(scenario.competing.leaf, 0.0) + _TO_COMPETING
    if not scenario.complaint and scenario.about:
        weights[scenario.about] = weights.get(scenario.about, 0.0) + _TO_SIMILAR
    for code, weight in ((NONE, _TO_OTHER), (OTHER, _TO_OTHER), (habit, _TO_HABIT)):
        weights[code] = weights.get(code, 0.0) + weight
    weights.pop(scenario.leaf, None)
    return dice.by_weight(weights)
