"""How fast text is redacted: a megabyte a second on one core, and any text in a time proportional to its length."""

import random
import time

import pytest

from qwenops.calls.redact import find, redact
from qwenops.calls.schema import Call, Role, Turn
from tests.calls.redact.saying import IDENTITY, MOBILE, SECRET, spoken
from tests.quiet import quiet_tries

LEAST_BYTES_PER_S = 1_000_000
MOST_GROWTH = 6.0
CHINESE = (
    "你好我想问一下我这个月的话费怎么比上个月多了二十块钱",
    "您好请问有什么可以帮您",
    "就是那个视频彩铃我从来没有开通过你们凭什么扣我的钱",
    "我已经打了三四次电话了每次都说四十八小时内回复到现在也没有人理我",
    "好的先生我帮您查询一下请稍等",
    "嗯",
    "宽带从上个月十二号装好到现在一天断七八次三百兆的网连视频都看不了",
    "再不解决我就打工信部的电话投诉你们",
    f"我的手机号是{MOBILE}",
    f"身份证{spoken(IDENTITY)}",
    f"{spoken(MOBILE[:3])}",
    f"{spoken(MOBILE[3:7])}",
    f"{spoken(MOBILE[7:])}",
    "我叫王小明住在文三路一二八号三单元五零二",
)
ENGLISH = (
    "hello i am calling about my bill this month it is twenty dollars more than the last one",
    "thank you for calling how can i help you today",
    "i have been on hold for forty five minutes and nobody could tell me what this charge is",
    "sure let me take a look at your account one moment please",
    "my name is john smith and my number is two oh two five five five oh one four three",
    "the internet drops every evening at eight and the technician never came",
)


def calls_of(lines: tuple[str, ...], num_bytes: int, seed: int) -> list[Call]:
    """Return calls of about forty turns, so many bytes together."""
    dice = random.Random(seed)
    calls: list[Call] = []
    total = 0
    while total < num_bytes:
        said = [dice.choice(lines) for _ in range(40)]
        total += sum(len(each.encode()) for each in said)
        roles = (Role.CUSTOMER, Role.AGENT)
        turns = tuple(Turn(role=roles[place % 2], text=each) for place, each in enumerate(said))
        calls.append(Call(conversation_id=str(len(calls)), turns=turns))
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("lines", [CHINESE, ENGLISH], ids=["zh", "en"])
def test_a_megabyte_takes_a_second_at_most(lines: tuple[str, ...]) -> None:
    calls = calls_of(lines, 500_000, seed=7)
    num_bytes = sum(len(turn.text.encode()) for call in calls for turn in call.turns)
    redact(calls[0], secret=SECRET)
    fastest = 0.0
    for _ in quiet_tries(5):
        start = time.process_time()
        for call in calls:
            redact(call, secret=SECRET)
        fastest = max(fastest, num_bytes / (time.process_time() - start))
        if fastest >= LEAST_BYTES_PER_S:
            break
    assert fastest >= LEAST_BYTES_PER_S


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    ["1", "一", "1 ", "一嗯", "a", "a ", "a.", "路", "北京路", "王", "我叫王", "姓", "对的", "@", "a@a.", "点com",
     "12345", "幺三八对", "one ", "my name is ", "身份证", "手机1", "三号楼", " ", "<手机1>", "\ue000", "不对", "先生"],
)  # fmt: skip
def test_no_text_takes_more_than_its_length_explains(part: str) -> None:
    def seconds(length: int) -> float:
        turn = Turn(role=Role.CUSTOMER, text=part * (length // len(part)))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            find([turn])
            best = min(best, time.process_time() - start)
        return best

    find([Turn(role=Role.CUSTOMER, text=part)])
    small, large = seconds(5_000), seconds(20_000)
    assert large < MOST_GROWTH * max(small, 0.02)
