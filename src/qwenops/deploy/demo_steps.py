"""The commands of the demo, as values: what is typed, what of its answer is told, how long it usually takes.

    synth ─> redact ─> split ─> baseline ─> a tiny base ─> train ─> evaluate ─> calibrate ─> export ─> registry
      serve ─> new calls ─┬─> over HTTP          (`demo_story` starts the server and asks it)
                          └─> from a file ─> measured for a few seconds ─> reports

Every step is a command that a user could type in the demo's folder, and what is shown is what runs: only `--json` is
added, so that its answer can be read here. All paths are relative to that folder.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenops.command import shown
from qwenops.deploy import demo_base
from qwenops.text import Text, say

CALLS = 1200
"""Enough for a class of the tail to have a dozen examples, few enough for two cores and six minutes."""
NEW_CALLS = 200
ASKED_CALLS = 24
"""Of the new calls, those that are asked about over HTTP."""
NAME = "complaints"
TAXONOMY = "telecom-cn"
DATA, NEW = Path("data"), Path("new")
REDACTED = DATA / "redacted.jsonl"
LABELS = DATA / "labels.jsonl"
SPLITS = DATA / "splits.json"
BASE = Path("tiny-qwen3")
RUN, CLASSIFIER = Path("run"), Path("classifier")
ADAPTER, BASELINE = RUN / "adapter", RUN / "baseline"
NEW_FILE = NEW / "calls.jsonl"
REQUEST = NEW / "request.json"
FILED = NEW / "filed.xlsx"
BENCH = Path("bench")

Told = Callable[[Mapping[str, Any]], Text]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the story."""

    name: str
    """Stable; scripts may rely on it."""
    title: Text
    words: tuple[str, ...]
    """As they are typed."""
    told: Told
    """Makes one line of what the command answered."""
    usual_s: float
    """On two cores; only the bar goes by it."""
    timeout_s: float = 600.0

    @property
    def typed(self) -> str:
        """The command as one types it."""
        return shown(self.words)

    @property
    def argv(self) -> tuple[str, ...]:
        """What is started: this very Python, and an answer that a program can read."""
        program, *words = self.words
        if program == "qwenops":
            return (sys.executable, "-m", "qwenops", *words, "--json")
        return (sys.executable, *words)


def preparing(num_calls: int) -> tuple[Step, ...]:
    """Return the steps that make data, and what has to be beaten."""
    return (
        Step(
            name="synth",
            title=say("Synthetic calls"),
            words=("qwenops", "calls", "synth", "--out", str(DATA), "--calls", str(num_calls)),
            told=lambda _told: say("{count} calls, with labels and the whole truth", count=num_calls),
            usual_s=5,
        ),
        Step(
            name="redact",
            title=say("Redaction"),
            words=("qwenops", "calls", "redact", str(DATA / "calls.jsonl"), "--out", str(REDACTED)),
            told=lambda told: say(
                "{count} pieces of personal data taken out of {calls} calls",
                count=sum(told["found"].values()),
                calls=told["calls"],
            ),
            usual_s=4,
        ),
        Step(
            name="split",
            title=say("Split"),
            words=(
                *("qwenops", "calls", "split", str(REDACTED), "--labels", str(LABELS)),
                *("--taxonomy", TAXONOMY, "--out", str(SPLITS)),
            ),
            told=_told_split,
            usual_s=3,
        ),
    )


def baseline() -> Step:
    """Return the step that says what a model without a language model can do."""
    return Step(
        name="baseline",
        title=say("Baseline"),
        words=(
            *("qwenops", "finetune", "baseline", *_data(positional=True)),
            *("--taxonomy", TAXONOMY, "--out", str(BASELINE)),
        ),
        told=_told_baseline,
        usual_s=16,
    )


def base_model() -> Step:
    """Return the step that makes the tiny model, which stands for Qwen3-0.6B; `demo_base` is what it runs."""
    return Step(
        name="base",
        title=say("A tiny Qwen3"),
        words=("python", "-m", "qwenops.deploy.demo_base", str(BASE)),
        told=lambda _told: say(
            "two layers; has read {count} other calls and what each is about, as Qwen3-0.6B, for which it stands, has "
            "read the internet",
            count=demo_base.CALLS,
        ),
        usual_s=115,
    )


def learning() -> tuple[Step, ...]:
    """Return the steps from a base model to one whose confidence can be trusted."""
    return (
        Step(
            name="train",
            title=say("Training"),
            words=(
                *("qwenops", "finetune", "train", *_data(positional=True), "--taxonomy", TAXONOMY),
                *("--model", f"./{BASE}", "--out", str(RUN)),
                *("--max-tokens", str(demo_base.PROMPT_TOKENS), "--epochs", "5", "--learning-rate", "0.005"),
            ),
            told=lambda told: say(
                "macro-F1 {value:.3f} on the validation calls, best in epoch {epoch}",
                value=told["metrics"]["macro_f1"],
                epoch=told["metrics"]["best_epoch"],
            ),
            usual_s=85,
        ),
        Step(
            name="evaluate",
            title=say("Evaluation"),
            words=(
                *("qwenops", "finetune", "evaluate", str(ADAPTER), *_data()),
                *("--facts", str(DATA / "truth.jsonl"), "--slice", "author", "--price-per-hour", "0.1"),
            ),
            told=_told_evaluation,
            usual_s=13,
        ),
        Step(
            name="calibrate",
            title=say("Calibration"),
            words=("qwenops", "finetune", "calibrate", str(ADAPTER), *_data(), "--precision", "0.8"),
            told=_told_calibration,
            usual_s=3,
        ),
    )


def releasing() -> tuple[Step, ...]:
    """Return the steps from what was learnt to the champion that servers follow."""
    return (
        Step(
            name="export",
            title=say("Export"),
            words=("qwenops", "finetune", "export", str(ADAPTER), *_data(), "--out", str(CLASSIFIER)),
            told=lambda told: say(
                "{scheme}: says what bf16 says in {agreement:.1%}; {auto:.0%} of the test calls filed without a person",
                scheme=told["scheme"],
                agreement=told["parity"]["agreement"],
                auto=told["filed"]["auto"] + told["filed"]["parent"],
            ),
            usual_s=12,
        ),
        Step(
            name="register",
            title=say("Registry"),
            words=("qwenops", "registry", "register", NAME, str(CLASSIFIER)),
            told=lambda told: say("{ref} is the candidate", ref=told["classifier"]["ref"]),
            usual_s=3,
        ),
        Step(
            name="promote",
            title=say("Promotion"),
            words=("qwenops", "registry", "promote", NAME),
            told=lambda told: say("{key} is the champion", key=told["change"]["new"]),
            usual_s=3,
        ),
    )


def new_calls() -> Step:
    """Return the step that makes calls which the model has not seen: another seed."""
    return Step(
        name="new",
        title=say("New calls"),
        words=("qwenops", "calls", "synth", "--out", str(NEW), "--calls", str(NEW_CALLS), "--seed", "2"),
        told=lambda _told: say("{count} calls of another seed", count=NEW_CALLS),
        usual_s=4,
    )


def serve_words() -> tuple[str, ...]:
    """Return the command of the server: the classifier, and beside it the tiny model for chat; a free port."""
    return ("qwenops", "serve", f"./{BASE}", "--classifier", NAME, "--port", "0")


def serve_argv() -> tuple[str, ...]:
    """Return what is started for it: without a log file, on loopback."""
    _, *words = serve_words()
    quiet = ("--host", "127.0.0.1", "--log-destination", "off", "--log-level", "warning")
    return (sys.executable, "-m", "qwenops", "-q", *words, *quiet)


def curl_words(url: str) -> tuple[str, ...]:
    """Return the command with which one asks the server about the calls of a file."""
    return (
        *("curl", f"{url}/v1/classify", "-H", "Content-Type: application/json"),
        *("-d", f"@{REQUEST}"),
    )


def serving(url: str) -> tuple[Step, ...]:
    """Return the steps that need the server, and the file that a person gets."""
    return (
        Step(
            name="classify",
            title=say("A file"),
            words=("qwenops", "classify", str(NEW_FILE), "--classifier", NAME, "--out", str(FILED)),
            told=lambda told: say(
                "{count} calls into {path}, {rate:.1f} a second",
                count=told["classified"],
                path=str(FILED),
                rate=told["calls_per_s"],
            ),
            usual_s=5,
        ),
        Step(
            name="bench",
            title=say("Benchmark"),
            words=(
                *("qwenops", "bench", "load", url, "--users", "2", "--duration", "10s"),
                *("--prompt-tokens", "256", "--max-tokens", "32", "--runs", str(BENCH)),
            ),
            told=lambda told: say("the model beside the classifier, two callers: {outcome}", outcome=told["outcome"]),
            usual_s=16,
        ),
    )


def _data(*, positional: bool = False) -> tuple[str, ...]:
    """Return the flags that say where calls, labels and parts are."""
    calls = (str(REDACTED),) if positional else ("--calls", str(REDACTED))
    return (*calls, "--labels", str(LABELS), "--splits", str(SPLITS))


def _told_split(told: Mapping[str, Any]) -> Text:
    sizes = told["calls"]
    return say(
        "{train} calls for training, {val} for validation, {test} for the test, no leaks",
        train=sizes["train"],
        val=sizes["val"],
        test=sizes["test"],
    )


def _told_baseline(told: Mapping[str, Any]) -> Text:
    return say(
        "{kind} on words: macro-F1 {value:.3f} out of fold, which the model has to beat; {doubtful} doubtful labels",
        kind=told["best"],
        value=told["out_of_fold"][told["best"]],
        doubtful=told["suspicious"],
    )


def _told_evaluation(told: Mapping[str, Any]) -> Text:
    value, kind = told["macro_f1"]["value"], told["best_baseline"]
    if told["use_model"]:
        return say("macro-F1 {value:.3f} on the test calls, surely better than {kind}: use it", value=value, kind=kind)
    return say("macro-F1 {value:.3f} on the test calls, not surely better than {kind}", value=value, kind=kind)


def _told_calibration(told: Mapping[str, Any]) -> Text:
    before, after = told["calibration"]["before"], told["calibration"]["after"] or told["calibration"]["before"]
    return say(
        "calibration error {before:.3f}, then {after:.3f}; {filed}",
        before=before["ece"],
        after=after["ece"],
        filed=_told_filing(told["thresholds"]),
    )


def _told_filing(thresholds: Mapping[str, Any]) -> Text:
    if thresholds["leaf"] is not None:
        return say("{share:.0%} of calls can be filed without a person", share=thresholds["leaf"]["coverage"])
    if thresholds["parent"] is not None:
        share = thresholds["parent"]["coverage"]
        return say("{share:.0%} of calls can be filed without a person, under what their class is part of", share=share)
    return say("nothing is sure enough, so people look at every call")
