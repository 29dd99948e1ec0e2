import numpy as np
import pytest

from qwenops.calls.taxonomy import load
from qwenops.classify.hierarchy import Hierarchy, hierarchy_of
from tests.classify.simulated import answers

TREE = Hierarchy(leaves=("a", "b", "c", "d"), parent_of={"a": "top", "c": "top", "b": "low"}, review=frozenset({"d"}))


def test_a_parent_is_as_probable_as_its_leaves_together() -> None:
    assert TREE.parents == ("top", "low", "d")
    assert TREE.places.tolist() == [0, 1, 0, 2]
    summed = TREE.summed(np.array([[0.3, 0.4, 0.2, 0.1]]))
    assert summed[0].tolist() == pytest.approx([0.5, 0.4, 0.1])


def test_answers_about_leaves_become_answers_about_parents() -> None:
    lifted = TREE.lifted(answers([0, 2, 3], [[0.3, 0.4, 0.2, 0.1], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]))
    assert lifted.classes == ("top", "low", "d")
    assert lifted.truth.tolist() == [0, 0, 2]
    assert lifted.said.tolist() == [0, 0, 0]


def test_paths_go_from_the_parent_down() -> None:
    assert TREE.path_of("a") == ("top", "a")
    assert TREE.path_of("top") == ("top",)
    assert TREE.path_of("d") == ("d",)


def test_a_taxonomy_gives_leaves_parents_and_what_a_person_looks_at() -> None:
    taxonomy = load("telecom-cn")
    found = hierarchy_of(taxonomy)
    assert found.leaves == taxonomy.leaves
    assert len(found.parents) < len(found.leaves)
    assert found.review == {leaf for leaf in taxonomy.leaves if taxonomy.is_review(leaf)}
    assert found.review, "there is a class of what fits nowhere"
    some = hierarchy_of(taxonomy, taxonomy.leaves[:3])
    assert some.leaves == taxonomy.leaves[:3]
