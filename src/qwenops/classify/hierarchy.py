"""Leaves and what stands above them: enough of a taxonomy to add probabilities up and to fall back on a parent.

A parent is as probable as its leaves together, so a leaf and its parent can never contradict one another.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qwenops.calls.classes import Taxonomy
from qwenops.classify.answers import Answers
from qwenops.statistics.clusters import Codes
from qwenops.statistics.samples import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """Classes and their parents."""

    leaves: tuple[str, ...]
    """In the order of a model's probabilities."""
    parent_of: Mapping[str, str] = field(default_factory=dict)
    """By leaf; one that is not in it stands at the top, and is its own parent."""
    review: frozenset[str] = frozenset()
    """Leaves whose calls a person looks at, however sure a model is: those of what fits nowhere."""

    @property
    def parents(self) -> tuple[str, ...]:
        """What stands above the leaves, each once, in the order of the leaves."""
        return tuple(dict.fromkeys(self.above(leaf) for leaf in self.leaves))

    @property
    def places(self) -> Codes:
        """The parent of each leaf, as a place in `parents`."""
        place = {name: each for each, name in enumerate(self.parents)}
        return np.array([place[self.above(leaf)] for leaf in self.leaves], dtype=np.int64)

    def above(self, leaf: str) -> str:
        """Return the parent of a leaf; itself at the top."""
        return self.parent_of.get(leaf) or leaf

    def path_of(self, code: str) -> tuple[str, ...]:
        """Return what a call that is filed under a leaf or a parent belongs to, the parent first."""
        parent = self.above(code)
        return (code,) if parent == code else (parent, code)

    def summed(self, probabilities: Array) -> Array:
        """Return the probabilities of the parents; shape (calls, leaves) becomes (calls, parents)."""
        member = np.zeros((len(self.leaves), len(self.parents)))
        member[np.arange(len(self.leaves)), self.places] = 1.0
        return probabilities @ member

    def lifted(self, answers: Answers) -> Answers:
        """Return the same answers about parents."""
        return Answers(
            classes=self.parents,
            truth=self.places[answers.truth],
            probabilities=self.summed(answers.probabilities),
            groups=answers.groups,
        )


def hierarchy_of(taxonomy: Taxonomy, leaves: Sequence[str] | None = None) -> Hierarchy:
    """Return the hierarchy of a taxonomy.

    Args:
        taxonomy: Where the parents stand, and which leaves a person looks at.
        leaves: Those that a model tells apart, in its order; all of the taxonomy's where it is None.
    """
    chosen: Collection[str] = taxonomy.leaves if leaves is None else leaves
    return Hierarchy(
        leaves=tuple(chosen),
        parent_of={leaf: above for leaf in chosen if (above := taxonomy.parent_of(leaf)) is not None},
        review=frozenset(leaf for leaf in chosen if taxonomy.is_review(leaf)),
    )
