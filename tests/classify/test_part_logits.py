from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from qwenops.calls.split import Part
from qwenops.classify.dataset import EncodedCalls, encode
from qwenops.classify.part_logits import Logits, PartLogits, Told, part_logits, read_logits, write_logits
from qwenops.classify.train.adapter import AdapterFolder, open_adapter
from qwenops.errors import TrainingError
from qwenops.models.tokenizer import open_tokenizer
from tests.classify.adapted import rehash
from tests.classify.judged import BUDGET, make_run, silent
from tests.classify.made import TAXONOMY, pairs


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> AdapterFolder:
    return open_adapter(make_run(tmp_path, tiny_checkpoint, count=16).adapter)


@pytest.fixture(scope="module")
def calls(tiny_checkpoint: Path) -> EncodedCalls:
    return encode(pairs(12, seed=4), taxonomy=TAXONOMY, tokenizer=open_tokenizer(tiny_checkpoint), budget_tokens=BUDGET)


class Rows:
    """Gives each call its place as logits, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, calls: EncodedCalls, told: Told) -> Logits:
        self.asked += 1
        told(0.5)
        told(1.0)
        return np.arange(4 * len(calls), dtype=np.float32).reshape(len(calls), 4)


def test_the_model_is_asked_once(adapter: AdapterFolder, calls: EncodedCalls) -> None:
    rows, ticks = Rows(), count(step=3.0)
    ask = partial(part_logits, adapter, Part.TEST, score=lambda: rows, report=silent, clock=lambda: float(next(ticks)))
    first, again = ask(calls), ask(calls)
    assert rows.asked == 1
    assert np.array_equal(first.logits, again.logits)
    assert again.ids == calls.ids
    assert (again.seconds, again.tokens) == (first.seconds, int(calls.lengths.sum()))
    assert first.seconds > 0
    (kept,) = (adapter.folder.parent / "logits").iterdir()
    assert kept.name.startswith("test-")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_another_adapter_or_other_calls_are_computed_anew(adapter: AdapterFolder, calls: EncodedCalls) -> None:
    rows = Rows()
    ask = partial(part_logits, score=lambda: rows, report=silent)
    ask(adapter, Part.TEST, calls)
    ask(adapter, Part.TEST, replace(calls, ids=tuple(f"other-{name}" for name in calls.ids)))
    assert rows.asked == 2
    rehash(adapter.folder, seed=1)
    ask(open_adapter(adapter.folder), Part.TEST, calls)
    assert rows.asked == 3


def test_it_says_how_long_it_will_still_take(adapter: AdapterFolder, calls: EncodedCalls) -> None:
    told: list[str] = []
    ticks = count(step=60.0)
    part_logits(
        adapter,
        Part.VAL,
        calls,
        score=lambda: Rows(),  # noqa: PLW0108 -- the class itself would be taken for what scores
        report=lambda _fraction, doing: told.append(doing),
        clock=lambda: float(next(ticks)),
    )
    assert told[0] == "Scoring the calls of val: 6 of 12, about 1m left"
    assert told[-1].endswith("12 of 12, about 0s left")


def test_a_logit_that_is_no_number_is_refused_with_the_call(adapter: AdapterFolder, calls: EncodedCalls) -> None:
    def broken(some: EncodedCalls, told: Told) -> Logits:
        found = Rows()(some, told)
        found[3, 1] = np.nan
        return found

    with pytest.raises(TrainingError) as caught:
        part_logits(adapter, Part.TEST, calls, score=lambda: broken, report=silent)
    assert caught.value.conversation_ids == (calls.ids[3],)
    assert not (adapter.folder.parent / "logits").exists()


def test_a_damaged_file_is_written_over(adapter: AdapterFolder, calls: EncodedCalls) -> None:
    rows = Rows()
    ask = partial(part_logits, adapter, Part.TEST, score=lambda: rows, report=silent)
    ask(calls)
    (kept,) = (adapter.folder.parent / "logits").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    ask(calls)
    assert rows.asked == 2
    assert read_logits(kept) is not None


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    made = PartLogits(
        ids=("通话-1", "b"), logits=np.array([[1.5, -2], [0, 3]], dtype=np.float32), seconds=1.25, tokens=7, threads=2
    )
    write_logits(tmp_path / "some.npz", made)
    found = read_logits(tmp_path / "some.npz")
    assert found is not None
    assert (found.ids, found.seconds, found.tokens, found.threads) == (made.ids, 1.25, 7, 2)
    assert np.array_equal(found.logits, made.logits)
    assert read_logits(tmp_path / "none.npz") is None
