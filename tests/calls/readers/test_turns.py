import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls.readers.turns import Segment, role_of, spoken_by, spoken_in, told_speakers
from qwenops.calls.schema import Role
from qwenops.errors import ConfigError

AGENT, CUSTOMER, UNKNOWN, IVR = Role.AGENT, Role.CUSTOMER, Role.UNKNOWN, Role.IVR


def said(text: str, told: dict[str, Role] | None = None) -> list[tuple[Role, str]]:
    return [(turn.role, turn.text) for turn in spoken_in(text, told or {}).turns]


@pytest.mark.parametrize(
    "text",
    [
        "客服：您好\n客户：我要投诉",
        "坐席:您好\r\n用户:我要投诉\r\n",
        "坐:您好\n客:我要投诉",
        "【客服】您好\n【客户】我要投诉",
        "[客服]：您好\n[客户]：我要投诉",
        "客服8832：您好\n客户： 我要投诉",
        "  客服：您好\n\n\t客户：我要投诉\n",
        "客服：您好 客户：我要投诉",
        "Agent: 您好\nCustomer: 我要投诉",
        "A: 您好\nC: 我要投诉",
        "[00:01] 客服：您好\n[00:05] 客户：我要投诉",
        "客服 00:00:01\n您好\n客户 00:00:05\n我要投诉",
        "客服 00:00:01：您好\n客户 (00:05): 我要投诉",
    ],
)
def test_a_text_with_speakers_in_it_becomes_turns(text: str) -> None:
    assert said(text) == [(AGENT, "您好"), (CUSTOMER, "我要投诉")]


def test_a_single_line_is_cut_after_stops() -> None:
    assert said("客服:您好。客户:我要投诉") == [(AGENT, "您好。"), (CUSTOMER, "我要投诉")]


def test_times_before_speakers_are_kept() -> None:
    turns = spoken_in("[00:01] 客服：您好\n[01:05.5] 客户：我要投诉", {}).turns
    assert [turn.t0 for turn in turns] == [1.0, 65.5]
    turns = spoken_in("客服 00:00:01\n您好\n客户 01:00:05\n我要投诉", {}).turns
    assert [turn.t0 for turn in turns] == [1.0, 3605.0]


@pytest.mark.parametrize(
    "text",
    [
        "我打客服:他们说没有办法",
        "I rang them and told the agent: no way",
        "昨天跟你们客服：就那个人,说过的",
        "没有说话人的一段话",
    ],
)
def test_a_text_that_only_speaks_of_speakers_stays_whole(text: str) -> None:
    assert said(text) == [(UNKNOWN, text)]


def test_what_somebody_else_said_within_a_turn_is_no_turn() -> None:
    text = "Agent: hello. Customer: I told the agent: stop it. Agent: I see."
    assert said(text) == [(AGENT, "hello."), (CUSTOMER, "I told the agent: stop it."), (AGENT, "I see.")]


def test_lines_without_a_speaker_belong_to_the_one_above() -> None:
    assert said("客服：您好\n请讲\n客户：我要投诉") == [(AGENT, "您好\n请讲"), (CUSTOMER, "我要投诉")]


def test_what_stands_before_the_first_speaker_is_kept_apart() -> None:
    spoken = spoken_in("请判断下面通话的类别\n客服：您好\n客户：我要投诉", {})
    assert spoken.preamble == "请判断下面通话的类别"
    assert [turn.role for turn in spoken.turns] == [AGENT, CUSTOMER]


def test_a_speaker_who_says_nothing_has_no_turn() -> None:
    assert said("客服：\n  客户：我要投诉") == [(CUSTOMER, "我要投诉")]


def test_no_text_has_no_turns() -> None:
    assert said("  \n ") == []


def test_numbered_speakers_are_told_apart_by_what_agents_say() -> None:
    text = "说话人1：喂\n说话人2：您好，请问有什么可以帮您\n说话人1：我要投诉"
    assert [role for role, _ in said(text)] == [CUSTOMER, AGENT, CUSTOMER]
    spoken = spoken_by([Segment(speaker="0", text="how can I help you"), Segment(speaker="1", text="hi")], {})
    assert [turn.role for turn in spoken.turns] == [AGENT, CUSTOMER]


def test_of_speakers_whom_nobody_knows_nothing_is_guessed() -> None:
    spoken = spoken_by([Segment(speaker="0", text="喂"), Segment(speaker="1", text="你好")], {})
    assert [turn.role for turn in spoken.turns] == [UNKNOWN, UNKNOWN]
    assert spoken.strangers == ("0", "1")
    both = "请问有什么可以帮您"
    spoken = spoken_by([Segment(speaker="0", text=both), Segment(speaker="1", text=both)], {})
    assert spoken.strangers == ("0", "1")


@pytest.mark.parametrize("speaker", ["1", "01", "SPEAKER_01", "spk1", "speaker 1"])
def test_the_user_can_say_who_a_numbered_speaker_is(speaker: str) -> None:
    told = told_speakers(["0=agent", "1 = 客户"])
    assert role_of(speaker, told) is CUSTOMER
    segments = [Segment(speaker=speaker, text="喂"), Segment(speaker="9", text="你好")]
    assert [turn.role for turn in spoken_by(segments, told).turns] == [CUSTOMER, AGENT]


def test_speakers_of_the_users_own_are_found_in_text() -> None:
    assert said("小助手：您好\n来宾：我要投诉", told_speakers(["小助手=agent", "来宾=customer"])) == [
        (AGENT, "您好"),
        (CUSTOMER, "我要投诉"),
    ]


@pytest.mark.parametrize("told", ["agent", "0=boss", "=agent"])
def test_what_does_not_say_who_somebody_is_is_refused(told: str) -> None:
    with pytest.raises(ConfigError, match="does not say who") as caught:
        told_speakers([told])
    assert "customer" in caught.value.hint


def test_turns_are_put_in_the_order_of_time_where_all_have_one() -> None:
    segments = [
        Segment(speaker="agent", text="一", t0=0.0),
        Segment(speaker="agent", text="三", t0=5.0),
        Segment(speaker="customer", text="二", t0=2.0),
    ]
    turns = spoken_by(segments, {}).turns
    assert [(turn.i, turn.text) for turn in turns] == [(0, "一"), (1, "二"), (2, "三")]
    untimed = [*segments, Segment(speaker="ivr", text="四")]
    turns = spoken_by(untimed, {}).turns
    assert [turn.text for turn in turns] == ["一", "三", "二", "四"]
    assert turns[3].role is IVR


@given(st.text())
def test_no_text_brings_the_reader_down_and_none_is_invented(text: str) -> None:
    spoken = spoken_in(text, {"x": AGENT})
    for turn in spoken.turns:
        assert turn.text
        assert turn.text in text


@given(st.lists(st.tuples(st.sampled_from(["客服", "客户"]), st.text("一二三，。 ", min_size=1)), min_size=2))
def test_a_written_dialogue_reads_as_it_was(turns: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{who}：{what}" for who, what in turns)
    roles = {"客服": AGENT, "客户": CUSTOMER}
    assert said(text) == [(roles[who], what.strip()) for who, what in turns if what.strip()]
