"""Redaction of any text: it never crashes, changes nothing that it did not find, and finds every number put there."""

from hypothesis import example, given
from hypothesis import strategies as st

from qwenops.calls.redact import find, redact, redact_text
from qwenops.calls.redact.checks import identity_check, luhn
from qwenops.calls.schema import Call, Role, Turn
from tests.calls.redact.saying import ENGLISH, PLAIN, SECRET, SIGNALS, TELEPHONE, spoken

# Characters that redaction has rules for, among all others.
BUSY = st.sampled_from(
    [
        *"0123456789零幺一二三六八九两个十百块号月年路区楼室单元姓叫王李先生女士是的嗯对不@点.-:，。<>\u200b\ue000\ue001Xx叉手机身份证卡微信浙A",
        "<手机1>",
        "<PHONE2>",
        "我叫",
        "尾号",
        "one ",
        "double ",
        "five ",
        "my name is ",
        " at ",
        " dot com",
        "\n",
        "客户：",
        "地址",
    ]
)
TEXT = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(), max_size=40),
    st.lists(BUSY, max_size=40).map("".join),
    st.lists(st.one_of(BUSY, st.characters()), max_size=40).map("".join),
)
TURNS = st.lists(st.builds(Turn, role=st.sampled_from(Role), text=TEXT), max_size=6)
DIGIT = st.sampled_from("0123456789")
MOBILES = st.text(DIGIT, min_size=9, max_size=9).map("12".__add__)
READ = st.sampled_from([TELEPHONE, PLAIN, SIGNALS])
WORDS_BEFORE = st.sampled_from(["", "我的电话是", "你打", "我要投诉，", "那个号是嗯", "联系方式："])
WORDS_AFTER = st.sampled_from(["", "记下来没", "，快点", "我等着", "的机主", "。谢谢"])
BETWEEN = st.sampled_from(["嗯", "对", "您说", "好的，继续", "嗯嗯，后面呢", "是的"])


@given(TURNS, st.booleans(), st.sampled_from(["", "zh", "en", "mixed"]))
@example([Turn(role=Role.CUSTOMER, text="\ud800138\udfff")], False, "")  # noqa: FBT003 -- as the strategies give them
def test_it_never_crashes_and_redacting_again_changes_nothing(turns: list[Turn], strict: bool, lang: str) -> None:  # noqa: FBT001 -- the strategies give them
    given_call = Call(conversation_id="one", turns=tuple(turns), lang=lang)
    once = redact(given_call, secret=SECRET, strict=strict)
    again = redact(once.call, secret=SECRET, strict=strict)
    assert again.call == once.call
    assert again.spans == ()


@given(TURNS, st.booleans())
def test_places_are_in_the_text_apart_from_one_another_and_everything_else_stays(
    turns: list[Turn],
    strict: bool,  # noqa: FBT001 -- the strategies give them
) -> None:
    spans = find(turns, strict=strict)
    done = redact(Call(conversation_id="one", turns=tuple(turns)), secret=SECRET, strict=strict).call
    for number, turn in enumerate(turns):
        mine = [span for span in spans if span.turn == number]
        left = done.turns[number].text
        at = 0
        for span in mine:
            assert at <= span.start < span.end <= len(turn.text)
            assert left.startswith(turn.text[at : span.start])
            left = left[span.start - at :]
            left = left[left.index(">") + 1 :]
            at = span.end
        assert left == turn.text[at:]


@given(TEXT)
@example("a\r\nb\x0bc\u2028d\x1ce")
def test_a_text_is_redacted_once_too(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


@given(MOBILES, WORDS_BEFORE, WORDS_AFTER)
def test_every_written_mobile_number_is_found(number: str, before: str, after: str) -> None:
    (span,) = find([Turn(role=Role.CUSTOMER, text=before + number + after)])
    assert (span.start, span.end, span.value) == (len(before), len(before) + 11, number)


@given(MOBILES, READ, WORDS_BEFORE, WORDS_AFTER)
def test_every_spoken_mobile_number_is_found(number: str, words: dict[str, str], before: str, after: str) -> None:
    said = spoken(number, words)
    (span,) = find([Turn(role=Role.CUSTOMER, text=before + said + after)])
    assert (span.start, span.end, span.value) == (len(before), len(before) + 11, number)


@given(MOBILES, st.integers(2, 5), st.integers(1, 4), READ, BETWEEN)
def test_every_split_mobile_number_is_found(
    number: str, first: int, second: int, words: dict[str, str], between: str
) -> None:
    parts = [number[:first], number[first : first + second], number[first + second :]]
    turns = [Turn(role=Role.AGENT, text="手机号您报一下")]
    for part in parts:
        turns += [Turn(role=Role.CUSTOMER, text=spoken(part, words)), Turn(role=Role.AGENT, text=between)]
    spans = find(turns)
    assert {span.turn for span in spans} == {1, 3, 5}
    assert all(span.end - span.start == len(turns[span.turn].text) for span in spans)


@given(st.integers(1950, 2009), st.integers(1, 12), st.integers(1, 28), st.integers(0, 999), READ)
def test_every_identity_card_is_found(year: int, month: int, day: int, order: int, words: dict[str, str]) -> None:
    body = f"999999{year}{month:02}{day:02}{order:03}"
    number = body + identity_check(body)
    for said in (number, spoken(number, words)):
        (span,) = find([Turn(role=Role.CUSTOMER, text=f"我身份证是{said}啊")])
        assert (span.kind.value, span.value, span.end - span.start) == ("ID_CARD", number, 18)


@given(st.text(DIGIT, min_size=15, max_size=18), READ)
def test_every_card_is_found(start: str, words: dict[str, str]) -> None:
    number = next(start + last for last in "0123456789" if luhn(start + last))
    for said in (number, spoken(number, words), " ".join(number[at : at + 4] for at in range(0, len(number), 4))):
        spans = find([Turn(role=Role.CUSTOMER, text=f"银行卡号是{said}")])
        assert [(span.start, span.end) for span in spans] == [(5, 5 + len(said))]


@given(st.text(DIGIT, min_size=7, max_size=7), st.booleans())
def test_every_english_number_is_found(rest: str, oh: bool) -> None:  # noqa: FBT001 -- the strategies give them
    number = "202" + rest
    words = ENGLISH | {"0": "oh"} if oh else ENGLISH
    text = f"you can reach me at {spoken(number, words, ' ')} after that"
    (span,) = find([Turn(role=Role.CUSTOMER, text=text)])
    assert text[span.start : span.end] == spoken(number, words, " ")
    assert span.value == f"1{number}"
