"""Tokens in the place of personal data: consistent, numbered, idempotent, and nothing of the values kept."""

from dataclasses import replace

import pytest

from qwenops.calls.redact import VERSION, Kind, find, redact, redact_text
from qwenops.calls.schema import Redaction, dump
from qwenops.errors import ConfigError
from tests.calls.redact.saying import CARD, IDENTITY, MOBILE, OTHER_MOBILE, SECRET, call, one, redacted, spoken, turns


def test_the_same_value_has_the_same_token_however_it_is_said() -> None:
    texts = redacted(f"c:我手机{MOBILE}", f"a:{spoken(MOBILE)}对吗，还是{OTHER_MOBILE}", f"c:不是{OTHER_MOBILE}")
    assert texts == ["我手机<手机1>", "<手机1>对吗，还是<手机2>", "不是<手机2>"]


def test_tokens_speak_the_language_of_the_call() -> None:
    said = f"c:{MOBILE}"
    for lang, token in (
        ("zh", "<手机1>"),
        ("mixed", "<手机1>"),
        ("en", "<PHONE1>"),
        ("en-GB", "<PHONE1>"),
        ("", "<PHONE1>"),
    ):
        assert redact(call(said, lang=lang), secret=SECRET).call.turns[0].text == token


def test_redaction_twice_is_redaction_once() -> None:
    given = call(f"c:我叫王小明，手机{MOBILE}", "a:地址呢", "c:文三路128号", lang="zh")
    once = redact(given, secret=SECRET)
    assert redact(once.call, secret=SECRET).call == once.call
    assert redact(once.call, secret=SECRET).spans == ()


def test_what_comes_after_an_earlier_redaction_gets_new_numbers_and_adds_to_the_counts() -> None:
    given = replace(call(f"c:<手机3>和{MOBILE}"), redaction=Redaction(version="zh-0", counts={"PHONE": 1}))
    done = redact(given, secret=SECRET).call
    assert done.turns[0].text == "<手机3>和<手机4>"
    assert done.redaction == Redaction(version=VERSION, counts={"PHONE": 2})


def test_the_call_says_what_was_taken_out() -> None:
    done = redact(call(f"c:手机{MOBILE}，身份证{IDENTITY}", f"a:{MOBILE}"), secret=SECRET).call
    assert done.redaction == Redaction(version=VERSION, counts={"PHONE": 2, "ID_CARD": 1})
    assert redact(call("c:你好"), secret=SECRET).call.redaction == Redaction(version=VERSION)


def test_nothing_of_a_value_is_kept() -> None:
    done = redact(call(f"c:我叫王小明，手机{MOBILE}，卡{CARD}"), secret=SECRET)
    told = dump(done.call) + repr(done)
    assert not any(secret in told for secret in (MOBILE, CARD, "王小明", MOBILE[:7], CARD[:8]))
    assert not any(secret in repr(find(turns(f"c:手机{MOBILE}"))) for secret in (MOBILE, MOBILE[:7]))


def test_values_can_be_compared_by_whoever_has_the_secret_alone() -> None:
    one_call, other_call = call(f"c:{MOBILE}"), call(f"c:电话是{spoken(MOBILE)}")
    same = [redact(each, secret=SECRET).spans[0].value for each in (one_call, other_call)]
    assert same[0] == same[1]
    assert redact(one_call, secret=b"another secret of tests").spans[0].value != same[0]


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 bytes"):
        redact(call("c:你好"), secret=b"short")


def test_facts_about_the_call_are_redacted_by_what_their_keys_say() -> None:
    meta = {
        "客户姓名": "王小明",
        "contact": {"phone": MOBILE, "others": [int(OTHER_MOBILE), 3, None, True]},
        "region": "330000",
        "note": f"回电{MOBILE}",
        "started": "2026-03-01T09:12:33+08:00",
        "at_ms": 1772327553000,
    }
    done = redact(replace(call(f"c:{MOBILE}", lang="zh"), meta=meta), secret=SECRET).call
    assert done.turns[0].text == "<手机1>"
    assert done.meta == {
        "客户姓名": "<姓名1>",
        "contact": {"phone": "<手机1>", "others": ["<手机2>", 3, None, True]},
        "region": "330000",
        "note": "回电<手机1>",
        "started": "2026-03-01T09:12:33+08:00",
        "at_ms": 1772327553000,
    }
    assert redact(done, secret=SECRET).call == done


def test_an_id_that_is_a_number_of_a_person_becomes_a_hash() -> None:
    given = replace(call("c:你好"), customer_id=MOBILE, agent_id="h:0011")
    done = redact(given, secret=SECRET).call
    assert done.customer_id.startswith("h:")
    assert MOBILE not in done.customer_id
    assert done.agent_id == "h:0011"
    assert redact(replace(given, agent_id="agent-17"), secret=SECRET).call.customer_id == done.customer_id
    assert redact(replace(given, agent_id="agent-17"), secret=SECRET).call.agent_id == "agent-17"


def test_everything_else_of_a_call_stays() -> None:
    given = replace(call(f"c:手机{MOBILE}"), channel="phone", duration_s=3.0, conversation_id="c-7")
    done = redact(given, secret=SECRET).call
    assert replace(done, turns=given.turns, redaction=None) == given


def test_strict_redaction_takes_every_number() -> None:
    said = f"手机{MOBILE}尾号8000，三月十二号扣了一百二十八块，又扣59.9元，三块也扣"
    assert one(said) != one(said, strict=True)
    strict = one(said, strict=True)
    assert strict == "手机<手机1>尾号<数字1>，<数字2>月<数字3>号扣了<数字4>块，又扣<数字5>元，<数字2>块也扣"
    assert one(strict, strict=True) == strict
    assert one("it was fifty nine dollars on March twelfth two thousand ten", strict=True).count("<NUMBER") == 2


def test_spans_are_told_by_their_place_in_the_text_as_it_was_given() -> None:
    given = turns(f"c:１２号，手机<手机1>和{MOBILE}")
    (span,) = find(given)
    assert (span.kind, span.turn) == (Kind.PHONE, 0)
    assert given[0].text[span.start : span.end] == MOBILE


def test_a_text_with_speakers_is_redacted_as_a_call() -> None:
    text = f"坐席：手机号报一下\r\n客户：{spoken(MOBILE[:3])}\r\n坐席：嗯\r\n客户：{spoken(MOBILE[3:])}\n\n谢谢"
    assert redact_text(text) == "坐席：手机号报一下\r\n客户：<手机1>\r\n坐席：嗯\r\n客户：<手机1>\n\n谢谢"
    assert redact_text(f"call me at {MOBILE}") == "call me at <PHONE1>"
    assert redact_text("") == ""
