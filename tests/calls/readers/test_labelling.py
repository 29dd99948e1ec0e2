import pytest

from qwenops.calls.readers.labelling import NO_TAXONOMY, Judgement, labelling
from qwenops.calls.schema import Label
from qwenops.errors import ConfigError
from tests.calls.readers.reading import TAXONOMY


@pytest.mark.parametrize(
    "category",
    [
        "billing.fee",
        " Billing.FEE ",
        "资费争议",
        "plan fee",
        "Plan-Fee",
        "PLAN_FEE",
        "收费争议/资费争议",
        "收费争议 > 资费争议",
        "收费争议\uff5c资费争议",
        "类别：资费争议",
        "<think>\n嗯\n</think>\n资费争议",
    ],
)
def test_a_category_is_found_however_it_is_written(category: str) -> None:
    assert labelling(TAXONOMY).codes_of(category) == ("billing.fee",)


def test_several_categories_are_a_main_one_and_others() -> None:
    known = labelling(TAXONOMY)
    assert known.codes_of("资费争议、网络质量") == ("billing.fee", "network")
    label = known.label(Judgement(categories=["退费;network", "退费"], score=0.5, annotator="a"), "c-1")
    assert isinstance(label, Label)
    assert (label.primary, label.secondary, label.weight) == ("billing.refund", ("network",), 0.5)
    assert label.taxonomy == "test@2"


def test_what_is_no_class_is_said_with_those_that_are_near() -> None:
    known = labelling(TAXONOMY)
    told = known.label(Judgement(categories=["资费争执"]), "c-1")
    assert isinstance(told, str)
    assert "'资费争执' is no class of test@2" in told
    assert "billing.fee" in told


def test_a_class_above_is_no_class_of_a_call() -> None:
    assert labelling(TAXONOMY).codes_of("收费争议") == ()


def test_one_unknown_category_among_several_is_not_dropped() -> None:
    known = labelling(TAXONOMY)
    assert known.codes_of("资费争议、天气") == ()
    assert isinstance(known.label(Judgement(categories=["资费争议", "天气"]), "c-1"), str)


def test_nothing_said_is_no_label() -> None:
    assert labelling(TAXONOMY).label(Judgement(categories=["", " "]), "c-1") is None


def test_without_a_taxonomy_a_category_is_what_it_says() -> None:
    label = labelling(None).label(Judgement(categories=["费用 问题"]), "c-1")
    assert isinstance(label, Label)
    assert (label.taxonomy, label.primary) == (NO_TAXONOMY, "费用 问题")


def test_the_user_can_say_what_the_words_of_a_file_mean() -> None:
    known = labelling(TAXONOMY, ["3=network", "费用问题 = billing.fee"])
    assert known.codes_of("3") == ("network",)
    assert known.codes_of("费用问题") == ("billing.fee",)
    for told in ("3=nothing", "=network", "3", "3=billing"):
        with pytest.raises(ConfigError, match="names no class"):
            labelling(TAXONOMY, [told])
