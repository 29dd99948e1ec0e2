"""The demo's base model: a checkpoint as published ones are, that has read the training calls and no other."""

import json
from pathlib import Path

import pytest

from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.write import write
from qwenops.calls.readers import open_calls, open_labels
from qwenops.calls.split import read_splits, split, write_splits
from qwenops.deploy import demo_base
from qwenops.deploy.demo_base import SPEC, write_base
from qwenops.errors import InvalidDataError
from qwenops.models.checkpoint import open_checkpoint
from qwenops.models.tokenizer import open_tokenizer
from qwenops.text import Report


def ignored(_fraction: float, _doing: str) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calls")
    write(GeneratorOptions(calls=60, seed=3), folder)
    labels = [entry.label for entry in open_labels(folder / "labels.jsonl")]
    calls = [entry.call for entry in open_calls(folder / "calls.jsonl")]
    write_splits(folder / "splits.json", split(calls, labels, by_time=False))
    return folder


def test_no_call_outside_the_training_part_is_read(made: Path) -> None:
    splits = read_splits(made / "splits.json")
    texts = list(demo_base._texts(made / "calls.jsonl", frozenset(splits.train)))
    assert len(texts) == len(splits.train) < 60


def test_the_rate_rises_and_then_falls_to_nothing() -> None:
    rates = [demo_base._share_of_rate(step, steps=100) for step in range(101)]
    assert rates[0] < rates[demo_base.WARMUP_STEPS - 1]
    assert max(rates) <= 1
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[100] == 0


@pytest.mark.reference
@pytest.mark.slow
def test_it_is_written_as_published_models_are_and_equal_runs_give_equal_files(made: Path, tmp_path: Path) -> None:
    heard: list[float] = []
    tell: Report = lambda fraction, _doing: heard.append(fraction)  # noqa: E731 -- a report is called by position
    for name in ("one", "same"):
        write_base(made / "calls.jsonl", made / "splits.json", tmp_path / name, steps=3, report=tell)
    one, same = (open_checkpoint(tmp_path / name) for name in ("one", "same"))
    assert one.spec == SPEC
    assert one.sha256() == same.sha256()
    assert open_tokenizer(tmp_path / "one").encode("您好") != []
    assert json.loads((tmp_path / "one" / "config.json").read_text())["model_type"] == "qwen3"
    assert heard[0] == 0.0


@pytest.mark.reference
@pytest.mark.slow
def test_it_has_learnt_something_of_how_calls_go_on(made: Path) -> None:
    import torch
    import transformers

    from qwenops.models.qwen_vocabulary import write_tokenizer

    folder = made / "tokenizer"
    write_tokenizer(folder)
    train = frozenset(read_splits(made / "splits.json").train)
    corpus = demo_base._corpus(demo_base._texts(made / "calls.jsonl", train), open_tokenizer(folder))

    def loss_after(steps: int) -> float:
        state = demo_base._train(corpus, steps, ignored)
        config = transformers.Qwen3Config(**{**SPEC.to_config(dtype="float32"), "vocab_size": len(corpus.used)})
        model = transformers.Qwen3ForCausalLM(config)
        table = state["model.embed_tokens.weight"][torch.tensor(corpus.used)]
        model.load_state_dict({**state, "model.embed_tokens.weight": table}, strict=False)
        torch.manual_seed(1)
        with torch.no_grad():
            return float(demo_base._loss(model, corpus))

    assert loss_after(40) < 0.8 * loss_after(1)


@pytest.mark.reference
def test_too_little_text_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text("", "utf-8")
    with pytest.raises(InvalidDataError):
        write_base(tmp_path / "calls.jsonl", made / "splits.json", tmp_path / "base", steps=1, report=ignored)
    assert not (tmp_path / "base").exists()
