"""Near-duplicates: estimates are as exact as they claim, no pair is lost, and nothing else changes what is found."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls.dedupe import (
    PERMUTATIONS,
    THRESHOLD,
    Forest,
    Texts,
    clusters,
    likeness,
    plain_text,
    signature,
)
from tests.calls.spoken import call, garbled, jaccard, sentence


def pair(seed: int, every: int) -> tuple[str, str]:
    text = sentence(seed, 600)
    return text, garbled(text, f"other {seed}", every)


class TestLikeness:
    @pytest.mark.parametrize("every", [5, 15, 40, 120])
    def test_the_estimate_is_unbiased_and_as_sharp_as_it_says(self, every: int) -> None:
        errors, spreads = [], []
        for seed in range(120):
            one, other = pair(seed, every)
            true = jaccard(one, other)
            errors.append(likeness(signature(one), signature(other)) - true)
            spreads.append(true * (1 - true) / PERMUTATIONS)
        expected = float(np.sqrt(np.mean(spreads)))
        assert abs(np.mean(errors)) < 4 * expected / np.sqrt(len(errors))
        assert 0.75 * expected < np.std(errors) < 1.25 * expected

    def test_equal_texts_are_wholly_alike_and_strangers_not_at_all(self) -> None:
        one, other = sentence(1), sentence(2)
        assert likeness(signature(one), signature(one)) == 1.0
        assert likeness(signature(one), signature(other)) < 0.05

    def test_a_long_text_is_hashed_in_pieces_to_the_same_end(self) -> None:
        text = sentence(3, 10_000)
        parts = [signature(text[first : first + 504]) for first in range(0, 10_000, 500)]
        assert (signature(text) == np.min(parts, axis=0)).all()

    def test_a_text_shorter_than_a_run_is_one(self) -> None:
        assert likeness(signature("喂"), signature("喂")) == 1.0
        assert likeness(signature("喂"), signature("嗯")) < 0.05

    def test_an_empty_text_has_no_signature(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            signature("")

    def test_signatures_are_the_same_in_every_process(self) -> None:
        assert signature("这个月多扣了十五块")[:3].tolist() == [1306792766, 185473669, 1063391502]


class TestPlainText:
    def test_case_width_blanks_and_punctuation_do_not_count_and_recorded_voices_neither(self) -> None:
        one = call("1", "i:请按一", "c:我的 \uff21\uff30\uff30,坏了。", "a:OK")
        other = call("2", "a:我的app", "c:坏了 ok!")
        assert plain_text(one) == plain_text(other) == "我的app坏了ok"

    @given(st.text(max_size=100))
    def test_no_text_makes_it_fail(self, text: str) -> None:
        plain = plain_text(call("1", f"c:{text}"))
        assert not plain or signature(plain).size == PERMUTATIONS


class TestClusters:
    def test_texts_that_are_alike_come_together_in_the_order_of_the_calls(self) -> None:
        one, other = sentence("one", 600), sentence("other", 600)
        texts = [other, sentence("alone"), one, garbled(one, 1, 200), other, garbled(one, 2, 200)]
        found = clusters(call(f"c{number}", f"c:{text}") for number, text in enumerate(texts))
        assert found == [["c0", "c4"], ["c2", "c3", "c5"]]

    def test_nearly_all_pairs_well_above_the_threshold_are_found_and_none_well_below(self) -> None:
        above, below = [], []
        for seed in range(300):
            one, other = pair(seed, 120 if seed % 2 else 20)
            found = bool(clusters([call("1", f"c:{one}"), call("2", f"c:{other}")]))
            alike = jaccard(one, other)
            if alike >= THRESHOLD + 0.09:
                above.append(found)
            elif alike <= THRESHOLD - 0.15:
                below.append(found)
        assert len(above) > 60
        assert len(below) > 60
        assert np.mean(above) > 0.97
        assert not any(below)

    def test_calls_in_which_nothing_is_said_are_like_no_other(self) -> None:
        silent = [call("1"), call("2", "c:…"), call("3", "i:请按一"), call("4", "c:喂"), call("5", "c:喂?")]
        assert clusters(silent) == [["4", "5"]]
        assert clusters([]) == clusters(silent[:3]) == []

    def test_a_chain_is_one_cluster_though_its_ends_are_strangers(self) -> None:
        texts = [sentence("chain", 600)]
        for step in range(60):
            texts.append(garbled(texts[-1], step, 300))
        assert jaccard(texts[0], texts[-1]) < 0.3
        found = clusters(call(f"c{number}", f"c:{text}") for number, text in enumerate(texts))
        assert [len(each) for each in found] == [61]

    def test_any_subset_and_any_order_finds_no_pair_that_the_whole_does_not(self) -> None:
        calls = [
            call(f"c{family}-{child}", f"c:{garbled(sentence(family, 300), f'{family}/{child}', 60 + 40 * child)}")
            for family in range(40)
            for child in range(6)
        ]
        whole = {name: number for number, each in enumerate(clusters(calls)) for name in each}
        assert len(set(whole.values())) > 20
        dice = random.Random(1)
        for _ in range(10):
            for each in clusters(dice.sample(calls, 100)):
                assert len({whole.get(name, name) for name in each}) == 1
        shuffled = clusters(dice.sample(calls, len(calls)))
        assert {frozenset(each) for each in shuffled} == {frozenset(each) for each in clusters(calls)}

    @pytest.mark.slow
    def test_a_giant_cluster_among_many_calls_costs_little_and_comes_out_whole(self) -> None:
        script = sentence("script", 400)
        texts = Texts()
        for number in range(12_000):
            texts.add(call(f"c{number}", f"c:{garbled(script, number, 150) if number % 2 else sentence(number, 100)}"))
        found = texts.clusters()
        assert len(found) == 1
        assert len(found[0]) > 5_900

    def test_equal_texts_are_kept_once(self) -> None:
        texts = Texts()
        for number in range(50):
            texts.add(call(f"c{number}", "c:同一句话说了很多遍"))
        assert texts.text_of == [0] * 50
        assert texts.clusters() == [list(range(50))]


class TestForest:
    def test_what_is_joined_over_others_belongs_together(self) -> None:
        forest = Forest(6)
        for members in ([4, 5], [1, 2], [2, 4], []):
            forest.join(np.array(members, dtype=np.int64))
        assert forest.all_roots().tolist() == [0, 1, 1, 3, 1, 1]

    @given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
    def test_it_agrees_with_walking_from_one_to_the_next(self, joined: list[tuple[int, int]]) -> None:
        forest = Forest(20)
        together = [{number} for number in range(20)]
        for one, other in joined:
            forest.join(np.array([one, other], dtype=np.int64))
            union = together[one] | together[other]
            for each in union:
                together[each] = union
        assert forest.all_roots().tolist() == [min(each) for each in together]
