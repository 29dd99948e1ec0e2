"""The whole way, from no calls at all to calls that a promoted classifier has filed; and that training teaches.

Every command is the one that people type, in this process; only engines run in processes of their own.
"""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra")
pytest.importorskip("peft", reason="training needs the train extra")
pytest.importorskip("sklearn", reason="baselines are trained with scikit-learn, which comes with the train extra")
pytest.importorskip("openvino", reason="classifiers are exported to OpenVINO")

from qwenops.calls.schema import Role, Turn  # noqa: E402 -- after the skips
from qwenops.calls.split import read_splits  # noqa: E402 -- after the skips
from qwenops.calls.taxonomy import load  # noqa: E402 -- after the skips
from qwenops.classify.calibrate import softmax  # noqa: E402 -- after the skips
from qwenops.classify.dataset import TrainData, encode  # noqa: E402 -- after the skips
from qwenops.classify.evaluate import Outcome  # noqa: E402 -- after the skips
from qwenops.classify.linear import Kind  # noqa: E402 -- after the skips
from qwenops.classify.prediction import parse_prediction  # noqa: E402 -- after the skips
from qwenops.classify.train.gathering import gather  # noqa: E402 -- after the skips
from qwenops.classify.train.lora import attach  # noqa: E402 -- after the skips
from qwenops.classify.train.options import TrainOptions  # noqa: E402 -- after the skips
from qwenops.classify.train.scoring import logits_of  # noqa: E402 -- after the skips
from qwenops.classify.train.states import source_of  # noqa: E402 -- after the skips
from qwenops.classify.train.training import train  # noqa: E402 -- after the skips
from qwenops.classify.train.world import World  # noqa: E402 -- after the skips
from qwenops.classify.trial import sentences  # noqa: E402 -- after the skips
from qwenops.classify.trying import TrialOptions, Tried, try_adapter  # noqa: E402 -- after the skips
from qwenops.cli.door import run  # noqa: E402 -- after the skips
from qwenops.engines.options import EngineOptions  # noqa: E402 -- after the skips
from qwenops.engines.transformers import open_engine  # noqa: E402 -- after the skips
from qwenops.generation import Tokens  # noqa: E402 -- after the skips
from qwenops.models.tokenizer import open_tokenizer  # noqa: E402 -- after the skips
from tests.classify.judged import Run, add_baselines, now, silent, write_files  # noqa: E402 -- after the skips
from tests.classify.made import TAXONOMY, Pair, pairs  # noqa: E402 -- after the skips
from tests.classify.train.loaded import body_of, label_head  # noqa: E402 -- after the skips

pytestmark = [pytest.mark.reference, pytest.mark.slow, pytest.mark.timeout(900)]

CALLS, NEW_CALLS = 600, 40
WORDS = {
    "billing.fee": ("多扣了钱", "话费不对", "扣费"),
    "network.down": ("宽带断了", "没有信号", "上不了网"),
    "service.rude": ("态度差", "挂我电话", "骂人"),
    "inquiry": ("几点开门", "怎么办理", "问一下"),
}
FILLERS = ("嗯", "那个", "就是说", "我跟你讲", "麻烦你了", "昨天也打过", "等了半天")
Typed = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a story takes place."""

    folder: Path
    typed: Typed
    """Runs a command line with `--json` and returns the document that it printed."""


@pytest.fixture
def place(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    environ = {
        "QWENOPS_HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "home"),
        "LANG": "C.UTF-8",
        "QWENOPS_FINETUNE_TRAINED_HEAD": "true",
    }

    def call(*argv: object, code: int = 0) -> Any:
        found = run([*map(str, argv), "--json"], environ)
        out, err = capfd.readouterr()
        assert found == code, f"{argv}\n{out}\n{err}"
        return json.loads(out)

    return Place(folder=tmp_path, typed=call)


def test_from_nothing_to_filed_calls(place: Place, tiny_checkpoint: Path) -> None:
    do, model = place.typed, ("--model", tiny_checkpoint)
    do("calls", "synth", "--out", "demo", "--calls", CALLS, "--seed", 11)
    do("calls", "redact", "demo/calls.jsonl", "--out", "clean.jsonl")
    labels = ("--labels", "demo/labels.jsonl")
    sizes = do("calls", "split", "clean.jsonl", *labels, "--taxonomy", "telecom-cn", "--out", "splits.json")["calls"]
    assert sizes["train"] > sizes["test"] > 20
    data = (*labels, "--splits", "splits.json")
    taught = do("finetune", "baseline", "clean.jsonl", *data, "--taxonomy", "telecom-cn", "--out", "run/baseline")
    assert taught["out_of_fold"]["logistic"] > taught["out_of_fold"]["prior"] + 0.1
    trained = do(
        *("finetune", "train", "clean.jsonl", *data, "--taxonomy", "telecom-cn", "--out", "run", *model),
        *("--epochs", 2, "--max-tokens", 192, "--learning-rate", 0.005, "--precision", "f32", "--no-probe"),
    )
    adapter = Path(trained["folder"])
    judged = ("--calls", "clean.jsonl", *data, *model)
    tried = do("finetune", "evaluate", adapter, *judged, "--facts", "demo/truth.jsonl", "--slice", "author")
    check_trial(place.folder / "run" / "evaluation", tried)
    calibrated = do("finetune", "calibrate", adapter, *judged, "--precision", 0.6)
    assert calibrated["thresholds"]["target_precision"] == 0.6
    assert (place.folder / "run" / "calibration" / "thresholds.json").exists()
    exported = do("finetune", "export", adapter, *judged, "--precision", 0.6, "--out", "classifier")
    assert exported["parity"]["agreement"] >= 0.995
    do("registry", "register", "complaints", "classifier")
    do("registry", "promote", "complaints")
    shown = do("registry", "show", "complaints", "--verify")["classifier"]
    assert shown["says"]["metrics.json"]["test"]["leaves"]["macro_f1"]["value"] == exported["macro_f1"]
    do("calls", "synth", "--out", "new", "--calls", NEW_CALLS, "--seed", 12)
    done = do("classify", "new/calls.jsonl", "--classifier", "complaints", "--out", "filed.jsonl")
    assert (done["classified"], done["rejected"]) == (NEW_CALLS, 0)
    check_predictions(place.folder / "filed.jsonl")


def check_trial(folder: Path, told: Any) -> None:
    """The page is there, and the verdict follows from the figures."""
    page = Path(told["report"]).read_text("utf-8")
    assert "<html" in page
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    proven = [each["outcome"] == "better" for each in metrics["verdicts"].values()]
    assert told["use_model"] is all(proven)
    sides = metrics["verdicts"][told["decided_by"]]
    assert sides["difference"]["value"] == pytest.approx(sides["macro_f1"] - sides["their_macro_f1"])
    assert metrics["sentences"][0].startswith("Use" if sides["outcome"] == "better" else "Do not use")
    assert any(each["name"] == "author" for each in metrics["test"]["slices"])
    lines = (folder / "predictions.jsonl").read_text("utf-8").splitlines()
    test = read_splits(folder.parents[1] / "splits.json").test
    assert sorted(parse_prediction(line).conversation_id for line in lines) == sorted(test)


def check_predictions(path: Path) -> None:
    """Each new call is filed once, and its probabilities are of the taxonomy's leaves."""
    found = [parse_prediction(line) for line in path.read_text("utf-8").splitlines()]
    assert len({each.conversation_id for each in found}) == len(found) == NEW_CALLS
    leaves = set(load("telecom-cn").leaves)
    for each in found:
        assert set(each.probs) == leaves
        assert sum(each.probs.values()) == pytest.approx(1.0, abs=1e-3)
        assert each.model.startswith("complaints@1-")


def ordered(count: int, *, seed: int) -> list[Pair]:
    """Calls about two matters, of the class of the one that is named first: which words are said tells half of it."""
    rng = random.Random(seed)
    found = []
    for number, (call, label) in enumerate(pairs(count, seed=seed)):
        first, second = label.primary, rng.choice([leaf for leaf in TAXONOMY.leaves if leaf != label.primary])
        said = [*fillers(rng), rng.choice(WORDS[first]), *fillers(rng), rng.choice(WORDS[second]), *fillers(rng)]
        turns = (
            Turn(role=Role.AGENT, text="您好，请讲。"),
            Turn(role=Role.CUSTOMER, text="，".join(said)),
            Turn(role=Role.AGENT, text="好的。"),
        )
        found.append((replace(call, turns=turns, customer_id=f"c-{number // 2}"), label))
    return found


def fillers(rng: random.Random) -> list[str]:
    return [rng.choice(FILLERS) for _ in range(rng.randint(2, 4))]


def trial_of(items: Sequence[Pair], model: Path, work: Path) -> Tried:
    """Train the tiny model and the baselines on some calls, and hold a trial on others."""
    files = write_files(work / "data", items)
    options = TrainOptions(
        model_dir=model,
        model_name="random:tiny",
        out=work / "run",
        cache_dir=work / "activations",
        epochs=20,
        patience=20,
        batch_calls=16,
        learning_rate=5e-3,
        max_tokens=192,
        precision="f32",
        four_bit="never",
        device="cpu",
        trained_head=True,
        probe=False,
    )
    data: TrainData = gather(files, TAXONOMY, open_tokenizer(model), options, silent)
    adapter = train(options, data, report=silent, now=now)
    made = Run(
        files=files,
        adapter=adapter.folder,
        base=model,
        truth={call.conversation_id: label.primary for call, label in items},
    )
    add_baselines(made)
    return try_adapter(files, TrialOptions(adapter=adapter.folder, base=model), report=silent, now=now)


def check_honest(found: Tried) -> None:
    """The verdict says what the figures say, whichever side that is."""
    verdict, advice = found.trial.verdict, sentences(found.trial)[0]
    low, high = verdict.difference.low, verdict.difference.high
    assert low is not None
    assert high is not None
    if verdict.outcome is Outcome.BETTER:
        assert low > 0
        assert advice.startswith("Use model")
    else:
        assert low <= 0 or verdict.p >= 0.05
        assert advice.startswith("Do not use model")


def test_it_learns_or_says_that_it_does_not(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Where only the order of words tells, words are not enough; what a model gains there, the verdict has to say."""
    found = trial_of(ordered(600, seed=5), tiny_checkpoint, tmp_path)
    trial = found.trial
    assert trial.verdicts[Kind.PRIOR].outcome is Outcome.BETTER, "it learnt something"
    assert trial.baselines[Kind.LOGISTIC].leaves.accuracy.value < 0.8, "else words are enough"
    check_honest(found)


def test_where_words_are_enough_a_model_is_not_recommended_for_a_tie(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = trial_of(pairs(240, seed=6), tiny_checkpoint, tmp_path)
    trial = found.trial
    assert trial.baselines[trial.best].leaves.macro_f1.value > 0.95
    assert trial.evaluation.leaves.macro_f1.value > 0.5
    assert not trial.use_model
    check_honest(found)


def test_before_the_first_step_the_head_says_what_the_reference_says_of_the_labels(tiny_checkpoint: Path) -> None:
    tokenizer = open_tokenizer(tiny_checkpoint)
    calls = encode(pairs(12, seed=8), taxonomy=TAXONOMY, tokenizer=tokenizer, budget_tokens=192)
    body = body_of(tiny_checkpoint)
    torch.manual_seed(0)
    attach(body, TrainOptions(rank=4))
    head = label_head(body, tokenizer)
    ours = softmax(
        logits_of(source_of(calls, body, first_layer=0), head, micro_tokens=512, world=World()).astype(np.float64)
    )
    label_ids = [tokenizer.encode(code, control=False)[0] for code in ("A", "B", "C", "D")]
    prompts = [Tokens(ids=tuple(calls.prompt(row).tolist())) for row in range(len(calls))]

    async def reference() -> list[tuple[float, ...]]:
        engine = await open_engine(EngineOptions(model_dir=tiny_checkpoint, context_tokens=256, threads=1))
        try:
            await engine.ready()
            return await engine.score(prompts, label_ids)
        finally:
            await engine.aclose()

    theirs = np.array(asyncio.run(reference()))
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.abs(theirs - 1 / len(label_ids)).max() > 0.01, "else anything would agree"
