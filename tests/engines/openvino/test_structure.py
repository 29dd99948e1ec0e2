import json
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from qwenops.engines.openvino.structure import Grammars
from qwenops.errors import EngineError, InvalidRequestError
from qwenops.generation import Choice, JsonObject, JsonSchema, Regex, Structure

pytestmark = pytest.mark.slow

EOS = (151645, 151643)
SIZE = 151_936
SCHEMA = JsonSchema(
    schema=json.dumps(
        {
            "type": "object",
            "properties": {
                "label": {"enum": ["投诉", "其他"]},
                "score": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["label", "score"],
            "additionalProperties": False,
        }
    )
)


@pytest.fixture(scope="module")
def grammars(tokenizer_folder: Path) -> Grammars:
    return Grammars(tokenizer_folder / "tokenizer.json", SIZE, EOS)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))


def wander(grammars: Grammars, tokenizer: Tokenizer, structure: Structure, seed: int) -> str:
    """Follow allowed tokens at random until the grammar is finished or allows the end."""
    grammar = grammars.compile(structure)
    random = np.random.default_rng(seed)
    tokens: list[int] = []
    while not grammar.is_finished and len(tokens) < 200:
        flags = grammar.allowed()
        if flags[EOS[0]]:
            assert flags[EOS[1]]
            break
        tokens.append(int(random.choice(np.flatnonzero(flags))))
        grammar.accept(tokens[-1])
    return str(tokenizer.decode(tokens))


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_allowed_makes_json_that_the_schema_accepts(
    grammars: Grammars, tokenizer: Tokenizer, seed: int
) -> None:
    found = json.loads(wander(grammars, tokenizer, SCHEMA, seed))
    assert found["label"] in {"投诉", "其他"}
    assert 0 <= found["score"] <= 9
    assert set(found) == {"label", "score"}


def test_whatever_is_allowed_matches_the_regular_expression(grammars: Grammars, tokenizer: Tokenizer) -> None:
    for seed in range(5):
        assert re.fullmatch(r"[a-c]{3}-\d{2}", wander(grammars, tokenizer, Regex(pattern=r"[a-c]{3}-\d{2}"), seed))


def test_whatever_is_allowed_is_one_of_the_choices(grammars: Grammars, tokenizer: Tokenizer) -> None:
    choices = ("yes", 'a "quoted" one', "不知道", "back\\slash")
    found = {wander(grammars, tokenizer, Choice(choices=choices), seed) for seed in range(20)}
    assert found <= set(choices)
    assert len(found) > 1


def test_a_json_object_begins_with_a_brace(grammars: Grammars, tokenizer: Tokenizer) -> None:
    flags = grammars.compile(JsonObject()).allowed()
    texts = [tokenizer.decode([int(each)]).strip() for each in np.flatnonzero(flags)]
    assert all(text.startswith("{") for text in texts if text)


def test_the_same_grammar_starts_anew_for_each_request(grammars: Grammars) -> None:
    first, second = grammars.compile(Choice(choices=("yes",))), grammars.compile(Choice(choices=("yes",)))
    first.accept(int(np.flatnonzero(first.allowed())[0]))
    assert not second.is_finished
    assert second.allowed().any()


@pytest.mark.parametrize(
    "broken",
    [
        Regex(pattern="[a-"),
        JsonSchema(schema='{"type": "nothing"}'),
        JsonSchema(schema='{"type":'),
        JsonSchema(schema="[]"),
        Choice(choices=()),
        Choice(choices=("a", "")),
    ],
)
def test_a_form_that_cannot_be_used_is_refused_with_its_reason(grammars: Grammars, broken: Structure) -> None:
    with pytest.raises(InvalidRequestError, match="structure cannot be used") as caught:
        grammars.compile(broken)
    assert caught.value.param == "response_format"


def test_a_token_that_is_not_allowed_is_an_error(grammars: Grammars) -> None:
    grammar = grammars.compile(Regex(pattern="[a-c]{3}"))
    with pytest.raises(EngineError, match="on the way"):
        grammar.accept(100)
