"""Addresses, e-mail addresses and plates."""

import pytest

from tests.calls.redact.saying import one, redacted


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("装机地址是浙江省杭州市西湖区文三路128号3单元502室，尽快来", "装机地址是<地址1>，尽快来"),
        ("我住在文三路一二八号三单元五零二", "我住在<地址1>"),
        ("就在翡翠花园三号楼二单元六零一，信号不好", "就在<地址1>，信号不好"),
        ("三号楼二单元五零二断网了", "<地址1>断网了"),
        ("在朝阳区望京街道花家地南路12号", "在<地址1>"),
        ("浙江省杭州市西湖区文三路那边", "<地址1>那边"),
    ],
)
def test_an_address_is_found_by_its_form_or_its_cue(said: str, expected: str) -> None:
    assert one(said) == expected


def test_the_answer_to_a_question_is_an_address_though_it_was_misheard() -> None:
    texts = redacted("a:麻烦说一下装机地址", "c:嗯我家是金色家园五懂三单元二零一室", "a:好的")
    assert texts == ["麻烦说一下装机地址", "嗯我家是<地址1>", "好的"]


@pytest.mark.parametrize(
    "said",
    [
        "杭州这边信号不好",
        "小区地下车库没信号，三号楼电梯里也没有",
        "解放路营业厅的人说的",
        "我知道12号扣的，家里15号断的网",
        "一楼二楼都没信号",
        "地铁二号线上打不通",
        "地址我不方便说",
        "上个月十二号到这个月三号",
        "我住三楼信号不好",
        "十号那天在中山路营业厅办的",
    ],
)
def test_places_that_identify_nobody_and_dates_stay(said: str) -> None:
    assert one(said) == said


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("I live at 42 Maple Street, Apartment 5, Springfield", "I live at <ADDRESS1>"),
        ("the address is forty two maple street apartment five and", "the address is <ADDRESS1> and"),
        ("my zip code is 00000", "my zip code is <ADDRESS1>"),
    ],
)
def test_english_addresses_are_found(said: str, expected: str) -> None:
    assert one(said) == expected


@pytest.mark.parametrize("said", ["one way or the other", "two of the way home", "I drive to the place on my street"])
def test_english_ways_that_are_no_addresses_stay(said: str) -> None:
    assert one(said) == said


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("邮箱是wang.xm@example.com谢谢", "邮箱是<邮箱1>谢谢"),
        ("邮箱ＷＡＮＧ\uff20example.com", "邮箱<邮箱1>"),
        ("邮箱是wangxm幺二三艾特example点com", "邮箱是<邮箱1>"),
        ("发到wang下划线xm圈a幺六三点com吧", "发到<邮箱1>吧"),
        ("it's john dot smith at example dot com okay", "it's <EMAIL1> okay"),
        ("my email is j o h n four two at example dot co dot uk", "my email is <EMAIL1>"),
    ],
)
def test_e_mail_addresses_are_found_written_and_spoken(said: str, expected: str) -> None:
    assert one(said) == expected


@pytest.mark.parametrize("said", ["我在两点到了", "look at the website example dot com", "meet me at two point five"])
def test_what_only_sounds_like_an_e_mail_address_stays(said: str) -> None:
    assert one(said) == said


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("车牌浙A12345停在那", "车牌<车牌1>停在那"),
        ("浙A·D12345", "<车牌1>"),
        ("车牌是京b幺二三四五", "车牌是<车牌1>"),
        ("粤 B 八八 六六八", "<车牌1>"),
    ],
)
def test_plates_are_found(said: str, expected: str) -> None:
    assert one(said) == expected


def test_a_plan_is_no_plate() -> None:
    assert one("新a套餐，云b类业务，京东5G") == "新a套餐，云b类业务，京东5G"
