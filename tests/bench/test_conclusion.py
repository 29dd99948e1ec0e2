"""What a measurement came to goes through JSON and can still be said in another language."""

import json

from qwenops.bench.conclusion import (
    Conclusion,
    Finding,
    Outcome,
    Table,
    conclusion_data,
    conclusion_of,
    crossed,
    uncrossed,
)
from qwenops.text import Text, say

CONCLUSION = Conclusion(
    outcome=Outcome.LEAK,
    exit_code=3,
    sentences=(say("It grows by {slope:.2f} per {unit}.", slope=1.5, unit=say("hour")),),
    tables=(Table(title=say("A table"), headings=(say("name"), "n"), rows=(("a", 1), (say("dash"), None))),),
    findings=(Finding(text=say("A spike."), severity="warning", from_ns=3, to_ns=5),),
    data={"nested": [{"said": say("So.")}], "number": 1.5},
)


def test_a_conclusion_is_read_as_it_was_written() -> None:
    found = conclusion_of(json.loads(json.dumps(conclusion_data(CONCLUSION))))
    assert found == CONCLUSION
    assert conclusion_of(conclusion_data(found)) == CONCLUSION


def test_sentences_can_still_be_translated() -> None:
    (sentence,) = conclusion_of(json.loads(json.dumps(conclusion_data(CONCLUSION)))).sentences
    words = {"It grows by {slope:.2f} per {unit}.": "每{unit}增长 {slope:.2f}。", "hour": "小时"}
    assert sentence.translated(lambda template: words.get(template, template)) == "每小时增长 1.50。"


def test_plain_data_that_looks_like_a_sentence_stays_what_it_is() -> None:
    for value in ({"say": "hello"}, {"say": [1, 2], "more": 3}, {"say": ["a", "b", {}], "more": 1}, ["say"], "say", 7):
        assert uncrossed(json.loads(json.dumps(crossed(value)))) == value
    assert isinstance(uncrossed(crossed(say("x"))), Text)
