import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qwenops.calls.classes import Words
from qwenops.classify.evaluate import Outcome
from qwenops.classify.evaluate.evaluation import Estimate
from qwenops.classify.report.classes import MOST_SQUARES
from qwenops.classify.report.contents import evaluation_page
from qwenops.classify.report.head import own_verdicts, tiles, verdict_notice
from qwenops.classify.report.names import CHINESE, LANGUAGE
from qwenops.classify.report.record import Record
from qwenops.page.document import Tone
from qwenops.page.html import MAX_BYTES, render
from qwenops.text import Language
from tests.classify.report.recorded import CLASSES, english_page, held, judged, many_classes, record, said, tables_of
from tests.page.reading import read


@pytest.fixture(scope="module")
def whole() -> Record:
    return record()


@pytest.fixture(scope="module")
def tables(whole: Record) -> dict[str, list[list[list[str]]]]:
    return tables_of(english_page(whole))


def in_words(found: Estimate | None) -> str:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return f"{found.value:.3f}|{found.low:.3f}–{found.high:.3f}"  # noqa: RUF001 -- a dash between two numbers


def test_each_class_has_the_figures_of_the_evaluation(whole: Record, tables: dict[str, list[list[list[str]]]]) -> None:
    leaves, parents = tables["Class by class"]
    for row, each in zip(leaves[1:], whole.evaluation.leaves.by_class, strict=True):
        assert row[0].split("|")[1].startswith(each.code)
        assert (row[1].lstrip("! "), row[2]) == (f"{each.num_true:,}", f"{each.num_said:,}")
        assert row[3:6] == [in_words(each.precision), in_words(each.recall), in_words(each.f1)]
    assert leaves[0][-1] == "F1 of TF-IDF with logistic regression"
    assert "critical" in leaves[1 + CLASSES.index("network.down")][0]
    assert whole.evaluation.parents is not None
    assert len(parents) == 1 + len(whole.evaluation.parents.classes)


def test_the_matrix_has_every_call_of_the_confusion(whole: Record, tables: dict[str, list[list[list[str]]]]) -> None:
    found = tables["What is taken for what"][0][1:]
    counts = tuple(tuple(int(cell or 0) for cell in row[1:]) for row in found)
    assert counts == whole.evaluation.leaves.confusion
    assert sum(map(sum, counts)) == whole.evaluation.num_calls
    assert [row[0] for row in found] == ["1. Overcharged", "2. No network", "3. Rude", "4. Inquiry"]


def test_confused_pairs_name_calls_to_listen_to(whole: Record, tables: dict[str, list[list[list[str]]]]) -> None:
    first, pair = tables["The pairs that are confused most often"][0][1], whole.evaluation.leaves.confused[0]
    assert first[2] == str(pair.count)
    assert first[4] == ", ".join(f"call-{row}" for row in pair.rows)
    bare = tables_of(english_page(replace(whole, ids={})))["The pairs that are confused most often"][0][1]
    assert bare[4].startswith(f"#{pair.rows[0] + 1}")


def test_thresholds_are_shown_with_what_they_do_with_the_test_calls(
    whole: Record, tables: dict[str, list[list[list[str]]]]
) -> None:
    rows = tables["Thresholds chosen on validation calls, tried on the test calls"][0][1:]
    assert [row[0] for row in rows] == ["95.0 %", "98.0 %"]
    for row, each in zip(rows, whole.points, strict=True):
        assert (row[2], row[6]) == (f"{100 * each.filed.auto:.1f} %", f"{100 * each.filed.review:.1f} %")


def test_a_promise_that_is_surely_broken_is_bad_and_one_within_chance_a_warning(whole: Record) -> None:
    signs = {}
    for high in (0.9, 0.97):
        point = whole.points[0]
        precision = Estimate(value=0.8, low=0.7, high=high)
        broken = replace(point, filed=replace(point.filed, auto_precision=precision))
        rows = tables_of(english_page(replace(whole, points=(broken,))))
        signs[high] = rows["Thresholds chosen on validation calls, tried on the test calls"][0][1][3][0]
    assert signs == {0.9: "✕", 0.97: "!"}


def test_calibration_is_shown_before_and_after(whole: Record, tables: dict[str, list[list[list[str]]]]) -> None:
    ece = tables["Figures of calibration"][0][1]
    assert whole.before is not None
    assert ece[1] == f"{whole.before.ece:.3f}"
    assert ece[2].lstrip("✓! ").startswith(f"{whole.evaluation.reliability.ece:.3f}|")
    bins = tables["How sure it was, and how often it was right"][0][1:]
    assert len(bins) == len(whole.before.bins) + len(whole.evaluation.reliability.bins)
    assert bins[-1][3] == f"{whole.evaluation.reliability.bins[-1].num_calls:,}"


def test_the_verdict_is_the_sentence_that_the_page_is_about(whole: Record) -> None:
    notice = verdict_notice(whole)
    assert (notice.tone, notice.large) == (Tone.GOOD, True)
    assert notice.text == "Use the trained model: it is better than TF-IDF with logistic regression."
    assert whole.verdicts[0].outcome is Outcome.BETTER
    ours = said()
    even = replace(whole, verdicts=(held(ours, ours),))
    assert verdict_notice(even).text.startswith("Do not use the trained model: there is no evidence")
    assert verdict_notice(even).tone is Tone.WARNING
    assert "Do not use the trained model" in english_page(even)


def test_of_several_verdicts_the_worst_decides(whole: Record) -> None:
    won = whole.verdicts[0]
    lost = replace(won, theirs="complement", outcome=Outcome.WORSE, their_macro_f1=0.1)
    other = replace(won, ours="another one", outcome=Outcome.WORSE)
    both = replace(whole, verdicts=(won, lost, other))
    assert [each.outcome for each in own_verdicts(both)] == [Outcome.WORSE, Outcome.BETTER]
    assert verdict_notice(both).tone is Tone.BAD
    assert "worse than TF-IDF with naive Bayes" in verdict_notice(both).text


def test_without_a_comparison_nobody_is_told_to_use_it(whole: Record) -> None:
    notice = verdict_notice(replace(whole, verdicts=()))
    assert notice.tone is Tone.NOTE
    assert "not known" in notice.text


def test_the_headline_figures_are_those_of_the_evaluation(whole: Record) -> None:
    found = {tile.name: tile.value for tile in tiles(whole).tiles}
    assert found["Macro-F1"] == f"{whole.evaluation.leaves.macro_f1.value:.3f}"
    assert found["Calls in the test"] == "600"
    assert found["Machine cost of 1,000 calls"] == "0.02 CNY"
    share = whole.points[0].filed.auto + whole.points[0].filed.parent
    assert found["Filed without a person, aiming at 95.0 %"] == f"{100 * share:.1f} %"


def test_parts_that_surely_differ_are_marked_and_stand_first() -> None:
    ours = said(800)
    wrong = np.roll(ours.probabilities, 1, axis=1)
    bad = np.arange(800) % 4 == 0
    mixed = replace(ours, probabilities=np.where(bad[:, None], wrong, ours.probabilities))
    test = judged(mixed, slices={"month": ["2026-02" if each else "2026-01" for each in bad], "lang": ["zh"] * 800})
    rows = tables_of(english_page(replace(record(), evaluation=test)))["Parts of the calls"][0][1:]
    assert [row[0] for row in rows] == ["Month: 2026-02", "Month: 2026-01", "Language: zh"]
    assert [row[6][0] for row in rows] == ["✕", "✓", "–"]  # noqa: RUF001 -- says that there is no value


def test_doubtful_labels_are_listed_with_how_many_were_looked_at(tables: dict[str, list[list[list[str]]]]) -> None:
    assert tables["Labels to look at again"][0][1] == [
        "call-3",
        "Overcharged|billing.fee",
        "No network|network.down",
        "0.020",
        "0.930",
    ]


def test_every_hash_stands_in_the_page(whole: Record) -> None:
    html = english_page(whole)
    assert all(letter * 64 in html for letter in "abcde")
    assert "qwenops finetune evaluate run/adapter" in html


def test_what_is_not_known_has_no_section(whole: Record) -> None:
    bare = Record(name="model", evaluation=replace(whole.evaluation, slices=()))
    anchors = [each.anchor for each in evaluation_page(bare).sections]
    assert anchors == ["verdict", "classes", "calibration", "coverage", "setting", "words"]
    everything = ["verdict", "classes", "calibration", "coverage", "parts", "labels", "cost", "setting", "words"]
    assert [each.anchor for each in evaluation_page(whole).sections] == everything


def test_nothing_is_fetched_and_every_table_and_picture_is_named(whole: Record) -> None:
    found = read(render(evaluation_page(whole)))
    assert (found.addresses, found.handlers, found.unclosed) == ([], [], [])
    assert set(found.references) <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


def test_the_page_stays_small_and_says_what_it_leaves_out() -> None:
    html = render(evaluation_page(many_classes()))
    assert len(html.encode()) <= 3 * MAX_BYTES
    assert f"Only the {MOST_SQUARES} of 80 classes" in html
    assert "50 of 500 labels" in html
    small = render(evaluation_page(record()))
    assert len(small.encode()) <= MAX_BYTES


@pytest.mark.parametrize(
    "hostile",
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "`<b>`", "{0.__class__}", "</td></table>"],
)
def test_the_name_of_a_class_is_never_markup(whole: Record, hostile: str) -> None:
    names = {code: Words(zh=hostile, en=hostile + code) for code in CLASSES}
    doubted = tuple(replace(each, conversation_id=hostile) for each in whole.doubted)
    html = render(evaluation_page(replace(whole, name=hostile, names=names, doubted=doubted)))
    found = read(html)
    assert (found.addresses, found.handlers, found.unclosed) == ([], [], [])
    assert len(found.scripts) == 1
    assert hostile not in html or "<" not in hostile


def test_a_hostile_code_is_never_markup() -> None:
    ours = replace(said(), classes=("<i>a</i>", "b&amp;b", "c'\"", "`d`"))
    html = english_page(Record(name="model", evaluation=judged(ours)))
    assert "<i>a" not in html
    assert "b&amp;amp;b" in html


def chinese(language: Language) -> Callable[[str], str]:
    """Return a translation that knows one message only: which language is being spoken."""
    return lambda template: CHINESE if language == "zh" and template == LANGUAGE.template else template


def test_a_class_is_called_by_its_name_in_the_language_of_the_reader(whole: Record) -> None:
    html = render(evaluation_page(whole), translation=chinese)
    assert '<span lang="en">Overcharged</span><span lang="zh-CN">多扣费</span>' in html
    assert re.search(r'<span lang="en">1\. Overcharged</span><span lang="zh-CN">1\. 多扣费</span>', html)
    unnamed = render(evaluation_page(replace(whole, names={})), translation=chinese)
    assert "多扣费" not in unnamed
    assert "billing.fee" in unnamed
