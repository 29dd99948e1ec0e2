"""Digits of a call: which are a person's number, and which only count something."""

import pytest

from tests.calls.redact.saying import (
    CARD,
    ENGLISH,
    IDENTITY,
    LANDLINE,
    MOBILE,
    OTHER_MOBILE,
    PLAIN,
    SIGNALS,
    TELEPHONE,
    found,
    one,
    spoken,
)

FULL_WIDTH = {ord("0") + each: chr(0xFF10 + each) for each in range(10)}


@pytest.mark.parametrize(
    "said",
    [
        MOBILE,
        "128 0013 8000",
        "128-0013-8000",
        "128,0013,8000",
        "128.0013.8000",
        "+86 12800138000",
        MOBILE.translate(FULL_WIDTH),
        "128\u200b0013\u200b8000",
        spoken(MOBILE),
        spoken(MOBILE, PLAIN),
        spoken(MOBILE, SIGNALS),
        spoken(MOBILE, joint=" "),
        spoken(MOBILE, joint="，"),
        "幺二八嗯零零幺三那个八零零零",
        "幺二八零零幺三八三个零",
        "幺二八两个零幺三八三个零",
        "128零零幺三8000",
        "１２８零零一三八零零零",
        "幺二八零零要三八零零零",
        "幺二八零林幺山八零零零",
    ],
)
def test_a_mobile_number_next_to_chinese_is_found_however_it_is_said(said: str) -> None:
    assert one(f"我的手机号是{said}你记一下") == "我的手机号是<手机1>你记一下"
    assert one(f"打{said}找我") == "打<手机1>找我"


@pytest.mark.parametrize("said", [MOBILE, spoken(MOBILE), spoken(MOBILE, SIGNALS)])
def test_a_word_after_the_number_stays_whole(said: str) -> None:
    assert one(f"我电话{said}一下子想不起来了") == "我电话<手机1>一下子想不起来了"
    assert one(f"我电话{said}一个月前换的") == "我电话<手机1>一个月前换的"
    assert one(f"我电话{said}三块钱一个月") == "我电话<手机1>三块钱一个月"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"座机是{LANDLINE}", "座机是<座机1>"),
        ("座机0571-01234567", "座机<座机1>"),
        (f"家里固话{spoken('01234567')}", "家里固话<座机1>"),
        (f"身份证号{IDENTITY}", "身份证号<身份证1>"),
        (f"身份证{spoken(IDENTITY)}", "身份证<身份证1>"),
        (f"身份证{spoken(IDENTITY[:6])} {spoken(IDENTITY[6:14])} {spoken(IDENTITY[14:])}", "身份证<身份证1>"),
        (f"身份证{IDENTITY[:-1]}X", "身份证<身份证1>"),
        ("身份证号是999999900101123", "身份证号是<身份证1>"),
        (f"我的银行卡{CARD}", "我的银行卡<银行卡1>"),
        ("我的银行卡4111 1111 1111 1111", "我的银行卡<银行卡1>"),
        (f"卡号{spoken(CARD)}", "卡号<银行卡1>"),
        ("卡号是0000123412341235扣的", "卡号是<银行卡1>扣的"),
        ("QQ号是876543219", "QQ号是<账号1>"),
        ("宽带账号是kd88123456", "宽带账号是<账号1>"),
        (f"宽带账号kd{spoken('88123456')}", "宽带账号<账号1>"),
        ("订单号DD20260312001", "订单号<订单1>"),
        ("工单号202603120017", "工单号<订单1>"),
        ("护照号E12345678", "护照号<护照1>"),
    ],
)
def test_other_numbers_are_what_their_form_or_a_cue_says(said: str, expected: str) -> None:
    assert one(said) == expected


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("身份证", IDENTITY[:-2]),
        ("身份证", IDENTITY[:9] + "7" + IDENTITY[10:]),
        ("银行卡", CARD[:-1] + "2"),
        ("手机号", MOBILE[:-1]),
    ],
)
def test_a_number_with_a_digit_lost_or_wrong_is_found_by_its_cue(kind: str, number: str) -> None:
    for said in (number, spoken(number)):
        assert not any(character.isdigit() and character != "1" for character in one(f"我的{kind}是{said}"))
        assert len(found(f"c:我的{kind}是{said}")) == 1
        assert found(f"c:我的{kind}是{said}")[0][1] == said


@pytest.mark.parametrize(
    "said",
    [
        "一定要给我一个说法一样的问题",
        "我用的三星手机",
        "五一的时候办的，国庆七天",
        "每个月二十块，一共一百二十八块五",
        "扣了百分之五的违约金",
        "十二号到现在十五号了",
        "两个月前，二零二四年三月份办的",
        "2024年3月12号办的，到2026-03-12到期",
        "三百兆的宽带只有三十兆，晚上八点半",
        "流量用了1234567KB，剩20.5个G",
        "一千两百八十元，不是一千三",
        "我打了一零零八六，又打了幺二三幺五，还有10086和12345",
        "客服热线4001234567打不通",
        "等了四五天，打了三四次，一二十分钟",
        "我的手机尾号8000，身份证后四位是1234",
        "尾号幺二三四的卡",
        "畅享一百二十八套餐改成59元套餐",
        "一二三四五六七，喂听得见吗",
        "手机号138开头的那个",
        "第一第二第三，万一不行统一处理",
        "周一三五上门，星期二四不在",
        "工号是80231，请讲",
        "速率是0.5，延迟120:35",
        "7x24小时在线，12/24都行",
        "一九九零年的房子，九八年装的电话",
        "一共三十二万五千六百块",
    ],
)
def test_amounts_dates_tariffs_durations_and_words_stay(said: str) -> None:
    assert one(said) == said


@pytest.mark.parametrize(
    "said",
    [
        "five five five, two zero two, zero one four three",
        spoken("2025550143", ENGLISH, " "),
        "two oh two triple five oh one four three",
        "two zero two double five five zero one forty three",
        "202-555-0143",
        "(202) 555 0143",
        "202.555.0143",
        "two oh too five five five oh one for three",
    ],
)
def test_english_numbers_are_found(said: str) -> None:
    assert one(f"my phone number is {said} and please hurry") in {
        "my phone number is <PHONE1> and please hurry",
        "my phone number is (<PHONE1> and please hurry",
    }


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("my card number is 4111 1111 1111 1111 thanks", "my card number is <BANK_CARD1> thanks"),
        ("my social security number is 000-12-3456", "my social security number is <ID_CARD1>"),
        ("my social is, my ssn is zero zero zero one two three four five six", "my social is, my ssn is <ID_CARD1>"),
        ("the account number is 88123456", "the account number is <ACCOUNT1>"),
        ("order number is AB1234567", "order number is <ORDER1>"),
    ],
)
def test_english_cues_say_what_a_number_is(said: str, expected: str) -> None:
    assert one(said) == expected


@pytest.mark.parametrize(
    "said",
    [
        "I paid twenty five dollars for two months",
        "it was one of the two or three times I called",
        "the 40 gig plan at 59 dollars a month since 2024",
        "for one thing, oh no, one more time to two of us",
        "I waited forty five minutes on hold",
        "my card ends in 1234, the last four digits are 5678",
        "one hundred and twenty eight megs",
        "call 911 or 10086",
    ],
)
def test_english_amounts_and_words_stay(said: str) -> None:
    assert one(said) == said


def test_two_numbers_in_one_breath_are_two() -> None:
    assert one(f"{MOBILE}，{OTHER_MOBILE}") == "<PHONE1>，<PHONE2>"
    assert one(f"手机{MOBILE}，座机0571-01234567，身份证{IDENTITY}") == "手机<手机1>，座机<座机1>，身份证<身份证1>"
    assert one(f"一个是{spoken(MOBILE)}，一个是{spoken(OTHER_MOBILE)}") == "一个是<手机1>，一个是<手机2>"


def test_digits_of_every_script_and_width_are_digits() -> None:
    arabic = MOBILE.translate({ord("0") + each: chr(0x0660 + each) for each in range(10)})
    assert one(f"电话{arabic}") == "电话<手机1>"
    assert TELEPHONE["1"] == "幺"
