"""`qwenops finetune baseline`, `evaluate` and `calibrate`: what they print, and what they end with."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from qwenops.classify import trying
from tests.classify.judged import Run as Made
from tests.classify.judged import add_baselines, make_run
from tests.classify.made import SOURCE
from tests.cli.conftest import Run

pytest.importorskip("sklearn", reason="baselines are trained with scikit-learn, which comes with the train extra")
Use = Callable[[float], None]


@pytest.fixture
def made(tiny_checkpoint: Path, tmp_path: Path) -> Made:
    return make_run(tmp_path, tiny_checkpoint, noise=0.35)


@pytest.fixture
def use(made: Made, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Return what chooses how often the model is right; its pages are not written."""

    def choose(right: float) -> None:
        for name in ("calibrate_adapter", "try_adapter"):
            act = getattr(trying, name)
            monkeypatch.setattr(trying, name, _with(act, open_score=made.knowing(right)))

    shown = "qwenops.classify.report.write_report"
    monkeypatch.setattr(shown, lambda folder, _trial, **_given: folder / "report.html")
    return choose


def _with(act: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    return lambda *args, **given: act(*args, **given, **more)


def data_of(made: Made) -> Sequence[str | Path]:
    assert made.files.labels is not None
    return ("--labels", made.files.labels, "--splits", made.files.splits)


def argv(made: Made, verb: str) -> Sequence[str | Path]:
    return ("finetune", verb, made.adapter, "--model", made.base, "--calls", made.files.calls, *data_of(made))


def test_baselines_are_shown_and_written_where_they_are_looked_for(qwenops: Run, made: Made) -> None:
    out = made.adapter.parent / "baseline"
    words = ["finetune", "baseline", made.files.calls, *data_of(made), "--taxonomy", SOURCE, "--out", out]
    ran = qwenops(*words)
    assert ran.code == 0, ran.err
    assert "logistic" in ran.out
    assert "suspicious.jsonl" in ran.err
    told = json.loads(qwenops(*words, "--json").out)
    assert told["best"] in {"logistic", "complement"}
    assert told["out_of_fold"]["prior"] < told["out_of_fold"][told["best"]]
    assert (out / "manifest.json").exists()


def test_evaluate_says_first_whether_to_use_the_model(qwenops: Run, made: Made, use: Use) -> None:
    add_baselines(made)
    use(0.95)
    ran = qwenops(*argv(made, "evaluate"))
    assert ran.code == 0, ran.err
    assert "Use model: it is better than" in ran.err
    assert "report.html" in ran.out
    told = json.loads(qwenops(*argv(made, "evaluate"), "--price-per-hour", "2", "--json").out)
    assert told["use_model"] is True
    assert told["price_per_1000_calls"] == pytest.approx(told["seconds_per_1000_calls"] / 1800)
    assert Path(told["report"]).parent == Path(told["folder"])


@pytest.mark.parametrize(("right", "code"), [(0.95, 0), (0.0, 3)])
def test_the_gate_ends_with_three_unless_the_model_is_worth_its_cost(
    qwenops: Run, made: Made, use: Use, right: float, code: int
) -> None:
    add_baselines(made)
    use(right)
    assert qwenops(*argv(made, "evaluate"), "--gate").code == code
    assert qwenops(*argv(made, "evaluate")).code == 0


def test_calibrate_shows_the_error_before_and_after(qwenops: Run, made: Made, use: Use) -> None:
    use(0.95)
    ran = qwenops(*argv(made, "calibrate"), "--precision", "0.7")
    assert ran.code == 0, ran.err
    assert "Calibration error after" in ran.out
    told = json.loads(qwenops(*argv(made, "calibrate"), "--precision", "0.7", "--json").out)
    assert told["part"] == "val"
    assert told["thresholds"]["target_precision"] == 0.7
    strict = qwenops(*argv(made, "calibrate"), "--precision", "0.99")
    assert "No threshold keeps" in strict.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["evaluate"], 1, "finetune baseline"),
        (["calibrate", "--part", "test"], 2, "test"),
        (["calibrate", "--precision", "1"], 2, "precision"),
        (["evaluate", "--facts", "nowhere.jsonl"], 2, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_code(
    qwenops: Run, made: Made, use: Use, words: list[str], code: int, said: str
) -> None:
    use(0.9)
    ran = qwenops(*argv(made, words[0]), *words[1:])
    assert ran.code == code
    assert said in ran.err


def test_the_help_pages_name_the_commands_in_the_order_of_their_use(qwenops: Run) -> None:
    page = qwenops("finetune", "--help").out
    places = [page.index(f"  {name} ") for name in ("baseline", "train", "evaluate", "calibrate", "export")]
    assert places == sorted(places)
    for name in ("baseline", "evaluate", "calibrate"):
        assert "qwenops finetune " + name in qwenops("finetune", name, "--help").out
