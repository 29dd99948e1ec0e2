import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenops.bench.prompts.calls import Dice, make_call, phrases_of
from qwenops.bench.prompts.items import SyntheticCalls, prompt_tokens_of
from qwenops.bench.prompts.lengths import CALL_ERROR_RATIO, ERROR_RATIO, estimated_tokens
from qwenops.bench.prompts.phrases import SpokenLanguage
from qwenops.generation import Messages
from qwenops.models.tokenizer import open_tokenizer

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    """Return the true tokenizer of Qwen3, which the tiny model has too."""
    return open_tokenizer(tiny_checkpoint)


def true_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer.encode(text))


def errors_of(tokenizer: Any, texts: list[str]) -> np.ndarray:
    return np.asarray([estimated_tokens(each) / true_tokens(tokenizer, each) - 1 for each in texts])


@pytest.mark.parametrize("language", ["zh", "en"])
def test_synthetic_calls_are_estimated_within_the_error_that_is_stated(
    tokenizer: Any, language: SpokenLanguage
) -> None:
    texts = [make_call(language, 100 + 13 * index, Dice("held out", index)) for index in range(100)]
    errors = errors_of(tokenizer, texts)
    assert np.quantile(abs(errors), 0.95) <= CALL_ERROR_RATIO
    assert abs(errors.mean()) < CALL_ERROR_RATIO / 2


@pytest.mark.parametrize("language", ["zh", "en"])
def test_prose_is_estimated_within_the_error_that_is_stated(tokenizer: Any, language: SpokenLanguage) -> None:
    places = (
        sorted((ROOT / "docs" / "zh").rglob("*.md")) if language == "zh" else sorted((ROOT / "docs").glob("e*/*.md"))
    )
    texts = [re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", each.read_text("utf-8"), flags=re.DOTALL) for each in places]
    lines = [line for text in texts for line in text.splitlines() if line and line[0] not in "|:#-*!({"]
    prose = "\n".join(lines)
    size = 250 if language == "zh" else 500
    pieces = [prose[start : start + size] for start in range(0, len(prose) - size, size)]
    assert len(pieces) >= 6
    errors = errors_of(tokenizer, pieces)
    assert np.quantile(abs(errors), 0.95) <= ERROR_RATIO


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_whole_prompt_with_its_template_is_as_long_as_was_asked_for(tokenizer: Any, language: SpokenLanguage) -> None:
    for median in (96, 512, 2048):
        calls = SyntheticCalls(language, median, seed=5)
        lengths = []
        for index in range(40):
            messages = calls.item(index, "#0123456789ab").messages
            true = len(tokenizer.render(Messages(messages=messages)).ids)
            lengths.append(true)
            assert prompt_tokens_of(messages) == pytest.approx(true, rel=2 * CALL_ERROR_RATIO, abs=6)
        assert np.median(lengths) == pytest.approx(median, rel=0.2)


def test_estimates_of_languages_are_far_apart_as_their_tokens_are(tokenizer: Any) -> None:
    per_token = {
        language: sum(map(len, phrases_of(language).instructions))
        / sum(true_tokens(tokenizer, each) for each in phrases_of(language).instructions)
        for language in ("zh", "en")
    }
    assert 1.2 < per_token["zh"] < 2.0
    assert 3.5 < per_token["en"] < 5.0
    assert estimated_tokens("") == 0
