import re
import statistics

import pytest

from qwenops.bench.prompts.calls import Dice, make_call, phrases_of, wanted_tokens
from qwenops.bench.prompts.lengths import estimated_tokens
from qwenops.bench.prompts.phrases import SpokenLanguage

LANGUAGES: tuple[SpokenLanguage, ...] = ("zh", "en")
PLACEHOLDERS = {
    "zh": {"张三", "李四", "王五", "赵六", "孙七", "周八", "吴九", "郑十"},
    "en": {"John Doe", "Jane Doe", "Joe Bloggs", "Jane Roe", "Richard Roe", "Mary Major", "Max Mustermann"},
}


def texts(language: SpokenLanguage, number: int = 300, tokens: float = 600) -> list[str]:
    return [make_call(language, tokens, Dice("test", language, index)) for index in range(number)]


def passes_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += int(digit) if place % 2 == 0 else sum(divmod(2 * int(digit), 10))
    return total % 10 == 0


def test_the_check_digit_test_knows_a_valid_number() -> None:
    assert passes_luhn("4242424242424242")
    assert not passes_luhn("4242424242424241")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_number_name_and_address_is_one_that_nobody_has(language: SpokenLanguage) -> None:
    cards = phones = mails = 0
    for text in texts(language):
        for number in re.findall(r"\d{6,}", text):
            if len(number) == 16:
                cards += 1
                assert number.startswith("0")  # no issuer
                assert not passes_luhn(number)
            else:
                phones += 1
                assert re.fullmatch(r"12\d{9}", number)  # no network
        for number in re.findall(r"\d{3}-\d{4}", text):
            phones += 1
            assert re.fullmatch(r"555-01\d\d", number)  # kept for fiction
        for address in re.findall(r"\S+@[A-Za-z0-9.-]+[A-Za-z]", text):
            mails += 1
            assert address.endswith(("@example.com", "@example.org"))
        assert set(re.findall(r"TEST-\d+|[A-Z]{2,}-\d+", text)) <= set(re.findall(r"TEST-\d{4}", text))
    assert cards > 5
    assert phones > 5
    assert mails > 5


def test_names_are_placeholders_and_companies_are_examples() -> None:
    for language in LANGUAGES:
        slots = phrases_of(language).slots
        assert set(slots["name"]) == PLACEHOLDERS[language]
        assert all(each.startswith(("示例", "Example ")) for each in slots["company"])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("tokens", [40, 150, 600, 4000])
def test_a_call_is_as_long_as_it_should_be(language: SpokenLanguage, tokens: int) -> None:
    for index in range(20):
        call = make_call(language, tokens, Dice(index))
        assert estimated_tokens(call) == pytest.approx(tokens, rel=0.05, abs=10)


@pytest.mark.parametrize("language", LANGUAGES)
def test_two_speak_in_turn_and_no_two_calls_are_alike(language: SpokenLanguage) -> None:
    phrases = phrases_of(language)
    made = texts(language)
    assert len(set(made)) == len(made)
    for text in made[:50]:
        lines = text.split("\n")
        assert lines[0].startswith(phrases.agent)
        assert lines[1].startswith(phrases.customer)
        speakers = [line.startswith(phrases.agent) for line in lines]
        assert all(line.startswith((phrases.agent, phrases.customer)) for line in lines)
        assert 0.4 < statistics.fmean(speakers) < 0.6


@pytest.mark.parametrize("language", LANGUAGES)
def test_recognition_makes_mistakes_but_few(language: SpokenLanguage) -> None:
    phrases = phrases_of(language)
    clean = {said for pair in phrases.exchanges for said in pair if "{" not in said}
    lines = [line.split(": ", 1)[-1].split("：", 1)[-1] for text in texts(language) for line in text.split("\n")]
    exact = sum(line in clean for line in lines)
    beginnings = {each[:6] for each in clean}
    like = sum(line[:6] in beginnings for line in lines)
    assert 0.3 < exact / like < 0.9
    assert any(filler in line for line in lines for filler in phrases.fillers[:3])


def test_the_same_dice_make_the_same_call_on_every_machine() -> None:
    assert make_call("zh", 60, Dice(1)) == make_call("zh", 60, Dice(1))
    assert make_call("en", 60, Dice(1)).split("\n")[0] == (
        "Agent: Hello, this is agent 0004 at Example Store, how may I help?"
    )


def test_lengths_are_log_normal_around_their_median_and_bounded() -> None:
    drawn = sorted(wanted_tokens(500, Dice("length", index)) for index in range(4000))
    assert statistics.median(drawn) == pytest.approx(500, rel=0.03)
    assert drawn[int(0.8413 * len(drawn))] / 500 == pytest.approx(1.4918, rel=0.05)  # one sigma of 0.4
    assert drawn[int(0.1587 * len(drawn))] * 1.4918 == pytest.approx(500, rel=0.05)
    assert drawn[0] >= 125
    assert drawn[-1] <= 2000
