"""Numbers that are told in parts, over turns and voices, and read back."""

import pytest

from tests.calls.redact.saying import IDENTITY, MOBILE, OTHER_MOBILE, PLAIN, found, redacted, spoken

PARTS = (spoken(MOBILE[:3]), spoken(MOBILE[3:7]), spoken(MOBILE[7:]))


def test_a_number_in_three_turns_with_back_channels_is_one() -> None:
    said = ["a:报一下手机号", f"c:{PARTS[0]}", "a:嗯", f"c:{PARTS[1]}", "a:对您说", f"c:{PARTS[2]}", "a:好的请稍等"]
    assert redacted(*said) == ["报一下手机号", "<手机1>", "嗯", "<手机1>", "对您说", "<手机1>", "好的请稍等"]


def test_without_any_cue_the_parts_still_make_a_number() -> None:
    assert redacted(f"c:{PARTS[0]}", "a:嗯", f"c:{PARTS[1]}", "a:嗯嗯", f"c:{PARTS[2]}") == [
        "<手机1>",
        "嗯",
        "<手机1>",
        "嗯嗯",
        "<手机1>",
    ]


def test_what_the_agent_reads_back_is_the_same_number() -> None:
    said = [
        "a:您的手机号多少",
        f"c:{PARTS[0]}",
        f"a:{PARTS[0]}",
        f"c:{PARTS[1]}",
        f"a:{PARTS[1]}，好的",
        f"c:{PARTS[2]}",
        f"a:{spoken(MOBILE, PLAIN)}对吧",
        "c:对",
    ]
    texts = redacted(*said)
    assert texts[1:7] == ["<手机1>", "<手机1>", "<手机1>", "<手机1>，好的", "<手机1>", "<手机1>对吧"]


@pytest.mark.parametrize("sorry", ["不对，是", "不是，应该是", "说错了，", "错了重新说"])
def test_what_is_corrected_goes_with_what_corrects_it(sorry: str) -> None:
    wrong = spoken(MOBILE[:7] + "8001")
    texts = redacted("a:手机号报一下", f"c:{wrong}{sorry}{spoken(MOBILE)}")
    assert not set(texts[1]) & set("零二三四五六七八九幺0")
    texts = redacted("a:手机号报一下", f"c:{PARTS[0]}{spoken('0014')}{sorry}{spoken('0013')}{PARTS[2]}")
    assert not set(texts[1]) & set("零二三四五六七八九幺0")


def test_a_corrected_part_gives_the_right_number() -> None:
    said = [
        "a:手机号",
        f"c:{PARTS[0]}",
        "a:嗯",
        f"c:{spoken('0014')}",
        f"c:不对是{PARTS[1]}",
        f"c:{PARTS[2]}",
        f"a:{MOBILE}",
    ]
    texts = redacted(*said)
    assert texts[1] == texts[3] == texts[5] == texts[6] == "<手机1>"
    assert texts[4] == "不对是<手机1>"


def test_an_identity_card_in_parts_is_one() -> None:
    parts = [IDENTITY[:6], IDENTITY[6:10], IDENTITY[10:14], IDENTITY[14:]]
    said = ["a:请报一下身份证号"]
    for part in parts:
        said += [f"c:{spoken(part)}", "a:嗯好"]
    assert redacted(*said)[1::2] == ["<身份证1>"] * 4


def test_a_turn_that_recognition_broke_in_a_number_is_mended() -> None:
    whole = spoken(MOBILE)
    assert redacted(f"c:我的号码是{whole[:10]}", f"c:{whole[10:]}我等你电话") == [
        "我的号码是<手机1>",
        "<手机1>我等你电话",
    ]
    assert redacted("a:call back number", "c:two oh two five five five", "a:uh huh", "c:oh one four three") == [
        "call back number",
        "<PHONE1>",
        "uh huh",
        "<PHONE1>",
    ]


def test_a_number_goes_on_over_talk_that_was_misheard() -> None:
    said = [
        "a:麻烦报一下手机号",
        f"c:{PARTS[0]}",
        "a:嗯您缩",
        f"c:{PARTS[1]}，我慢点说了啊",
        "a:宁这个继许",
        f"c:{PARTS[2]}",
    ]
    assert redacted(*said)[1::2] == ["<手机1>", "<手机1>，我慢点说了啊", "<手机1>"]


def test_the_letters_of_an_account_go_with_its_digits() -> None:
    said = ["a:请报一下宽带账号", "c:背面贴着呢ftth", "a:嗯", "c:0012", "a:好", "c:449674", "a:ftth0012449674对吗"]
    texts = redacted(*said)
    assert not any("ftth" in text or "449" in text or "0012" in text for text in texts)
    assert redacted("a:the account number please", "c:it's b b zero zero three nine two two four zero")[1] == (
        "it's <ACCOUNT1>"
    )


def test_a_cue_that_was_misheard_is_a_cue() -> None:
    assert redacted("a:报一下生份证号", "c:九九九九九九一九九零零一零一")[1] == "<身份证1>"
    assert redacted("a:尾耗是八零零零对吧") == ["尾耗是八零零零对吧"]


def test_parts_of_a_number_that_was_told_are_found_later_without_a_cue() -> None:
    texts = redacted(f"c:我手机{MOBILE}", "a:好的，套餐是一百二十八的", f"c:就是{spoken(MOBILE[:7])}那个号嘛")
    assert texts[2] == "就是<手机1>那个号嘛"


def test_two_people_and_two_numbers_are_not_mixed() -> None:
    texts = redacted(
        "a:手机号", f"c:{MOBILE}", "a:还有吗", f"c:还有我爱人的{spoken(OTHER_MOBILE)}", f"a:{spoken(OTHER_MOBILE)}是吧"
    )
    assert texts == ["手机号", "<手机1>", "还有吗", "还有我爱人的<手机2>", "<手机2>是吧"]


@pytest.mark.parametrize(
    "said",
    [
        ["a:您是几月办的", "c:三月", "a:嗯", "c:十二号", "a:多少钱", "c:五十九"],
        ["a:等了多久", "c:三四天吧", "a:嗯", "c:打了两三次", "a:好的", "c:一二十分钟"],
        ["a:尾号多少", "c:八零零零", "a:好的"],
        ["a:您打的是幺零零八六吗", "c:幺零零八六", "a:嗯", "c:幺二三幺五也打了"],
        ["a:是多少兆的", "c:五零零", "a:嗯", "c:不对三零零"],
    ],
)
def test_short_answers_are_no_parts_of_a_number(said: list[str]) -> None:
    assert redacted(*said) == [each[2:] for each in said]


def test_confidence_falls_with_what_speaks_for_a_number() -> None:
    assert found("c:身份证" + IDENTITY) == [("ID_CARD", IDENTITY)]
    assert found("c:身份证" + IDENTITY[:-3]) == [("ID_CARD", IDENTITY[:-3])]
