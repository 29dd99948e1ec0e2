"""The demo's commands are commands of the command line, each made from what the ones before have written."""

from pathlib import Path
from typing import Any

import pytest

from qwenops.deploy import demo_steps as steps
from qwenops.deploy.demo_steps import Step
from tests.docs.commands import parsed

URL = "http://127.0.0.1:8000"


def every_step() -> list[Step]:
    return [
        *steps.preparing(400),
        steps.baseline(),
        steps.base_model(),
        *steps.learning(),
        *steps.releasing(),
        steps.new_calls(),
        *steps.serving(URL),
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("step", every_step(), ids=lambda step: step.name)
def test_what_is_shown_is_a_command_and_runs_but_for_the_form_of_its_answer(
    step: Step, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if step.words[0] == "python":
        assert step.argv[1:] == step.words[1:]
        return
    assert step.argv[1:3] == ("-m", "qwenops")
    assert step.argv[3:] == (*step.words[1:], "--json")
    shown = parsed(step.words, monkeypatch, home)
    run = parsed(("qwenops", *step.argv[3:]), monkeypatch, home)
    assert {**run.params, "as_json": False} == shown.params


def test_the_server_is_shown_as_it_is_started_for_this_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed(steps.serve_words(), monkeypatch, home)
    argv = steps.serve_argv()
    parsed(("qwenops", *argv[4:]), monkeypatch, home)
    assert argv[3] == "-q"
    assert argv[4 : 4 + len(steps.serve_words()) - 1] == steps.serve_words()[1:]
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--port") + 1] == "0"


def test_the_story_is_told_in_the_order_that_the_issue_gives_and_no_step_twice() -> None:
    names = [step.name for step in every_step()]
    assert names == [
        *("synth", "redact", "split", "baseline", "base", "train", "evaluate", "calibrate", "export"),
        *("register", "promote", "new", "classify", "bench"),
    ]


def test_everything_lies_in_one_folder() -> None:
    for step in every_step():
        assert not any(word.startswith(("/", "~", "..")) for word in step.words)


def test_it_is_meant_to_take_less_than_six_minutes_on_two_cores() -> None:
    assert sum(step.usual_s for step in every_step()) < 330


def test_a_model_that_beats_nothing_is_not_praised() -> None:
    evaluate = next(step for step in every_step() if step.name == "evaluate")
    told = {"macro_f1": {"value": 0.41}, "best_baseline": "logistic", "use_model": False}
    assert "not surely better" in evaluate.told(told)
    assert "use it" in evaluate.told(told | {"use_model": True})


def test_a_calibration_without_a_threshold_says_that_people_look_at_every_call() -> None:
    calibrate = next(step for step in every_step() if step.name == "calibrate")
    told: dict[str, Any] = {
        "calibration": {"before": {"ece": 0.2}, "after": None},
        "thresholds": {"leaf": None, "parent": None},
    }
    assert "every call" in calibrate.told(told)
    told["calibration"]["after"] = {"ece": 0.05}
    told["thresholds"] = {"leaf": None, "parent": {"coverage": 0.3}}
    assert "30% of calls" in calibrate.told(told)
    told["thresholds"] = {"leaf": {"coverage": 0.4}, "parent": None}
    assert "40%" in calibrate.told(told)
