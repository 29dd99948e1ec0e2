"""The demo's base model: a checkpoint as published ones are, that has read calls of its own and no class."""

import json
from pathlib import Path

import pytest

from qwenops.calls.generator.options import GeneratorOptions
from qwenops.classify.codes import LABEL_CODES
from qwenops.deploy import demo_base, demo_steps
from qwenops.deploy.demo_base import BATCH, PROMPT_TOKENS, SPEC, Lesson, lesson_of, read_calls, write_base
from qwenops.models.checkpoint import open_checkpoint
from qwenops.models.qwen_vocabulary import write_tokenizer
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from qwenops.text import Report


def ignored(_fraction: float, _doing: str) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return open_tokenizer(folder)


@pytest.fixture(scope="module")
def lessons(tokenizer: Tokenizer) -> list[Lesson]:
    return [lesson_of(made, tokenizer) for made in read_calls(BATCH * 2, lambda _truth: True, ignored)]


def test_its_calls_are_of_no_seed_that_the_demo_uses() -> None:
    words = demo_steps.new_calls().words
    assert demo_base.SEED not in {GeneratorOptions().seed, int(words[words.index("--seed") + 1])}


def test_it_reads_calls_as_a_classifier_does_and_is_told_no_code(lessons: list[Lesson], tokenizer: Tokenizer) -> None:
    assert all(len(each.prompt) <= PROMPT_TOKENS for each in lessons)
    answers = {tokenizer.decode(list(each.answer)) for each in lessons}
    assert len(answers) > 3
    assert not answers & set(LABEL_CODES)


def test_only_calls_that_are_wanted_are_read_and_personal_data_is_gone() -> None:
    found = list(read_calls(40, lambda truth: truth.author == "river", ignored))
    assert 0 < len(found) < 40
    assert {made.truth.author for made in found} == {"river"}
    assert all(made.call.redaction is not None for made in found)


def test_the_demo_asks_with_prompts_as_long_as_those_that_it_has_read() -> None:
    words = next(each.words for each in demo_steps.learning() if each.name == "train")
    assert words[words.index("--max-tokens") + 1] == str(PROMPT_TOKENS)


def test_every_call_is_read_once_beside_others_of_its_length(lessons: list[Lesson]) -> None:
    batches = list(demo_base._batches(lessons))
    assert sorted(map(id, (each for batch in batches for each in batch))) == sorted(map(id, lessons))
    first, second = sorted(([len(each.prompt) for each in batch] for batch in batches), key=max)
    assert max(first) <= min(second)


def test_the_rate_rises_and_then_falls_to_nothing() -> None:
    rates = [demo_base._share_of_rate(step, steps=100) for step in range(101)]
    assert rates[0] < rates[demo_base.WARMUP_STEPS - 1]
    assert max(rates) <= 1
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[100] == 0


@pytest.mark.reference
@pytest.mark.slow
def test_it_is_written_as_published_models_are_and_equal_runs_give_equal_files(tmp_path: Path) -> None:
    heard: list[float] = []
    tell: Report = lambda fraction, _doing: heard.append(fraction)  # noqa: E731 -- a report is called by position
    for name in ("one", "same"):
        write_base(tmp_path / name, calls=BATCH, report=tell)
    one, same = (open_checkpoint(tmp_path / name) for name in ("one", "same"))
    assert one.spec == SPEC
    assert one.sha256() == same.sha256()
    assert open_tokenizer(tmp_path / "one").encode("您好") != []
    assert json.loads((tmp_path / "one" / "config.json").read_text())["model_type"] == "qwen3"
    assert heard[0] == 0.0


@pytest.mark.reference
@pytest.mark.slow
def test_what_it_has_read_often_it_can_answer(lessons: list[Lesson]) -> None:
    import torch
    import transformers

    used = sorted({token for each in lessons for token in (*each.prompt, *each.answer)})
    number_of = {token: number for number, token in enumerate(used)}

    def loss_after(times: int) -> float:
        state = demo_base._train(lessons * times, ignored)
        config = transformers.Qwen3Config(**{**SPEC.to_config(dtype="float32"), "vocab_size": len(used)})
        model = transformers.Qwen3ForCausalLM(config)
        table = state["model.embed_tokens.weight"][torch.tensor(used)]
        model.load_state_dict({**state, "model.embed_tokens.weight": table}, strict=False)
        torch.manual_seed(1)
        with torch.no_grad():
            return float(demo_base._loss(model, lessons[:BATCH], number_of))

    assert loss_after(12) < 0.5 * loss_after(1)
