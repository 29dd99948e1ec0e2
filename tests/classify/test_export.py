"""From an adapter to a classifier that proved itself, or to a refusal that says why."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenops.classify.answers import answers_of
from qwenops.classify.calibrate import calibration_of, logits_of, scale
from qwenops.classify.decide import thresholds_of
from qwenops.classify.export import (
    Exported,
    ExportOptions,
    common_prefix,
    export,
    ladder,
    watched,
)
from qwenops.classify.golden import golden_prompts
from qwenops.classify.hierarchy import hierarchy_of
from qwenops.classify.meaning import meaning_of
from qwenops.classify.score import Classifier, check_tokenizer, open_form
from qwenops.engines.classifier import open_scorer
from qwenops.engines.classifier.compiled import CompileOptions, compile_graph, probabilities
from qwenops.engines.options import EngineOptions
from qwenops.errors import ConfigError, InvalidDataError, ModelLoadError, ParityError
from qwenops.models import compress, packing
from qwenops.models.prefill import Prefill, PrefillRequest, PrefillScheme, convert_prefill, open_prefill
from qwenops.models.random import write_random_checkpoint
from qwenops.models.spec import TINY
from qwenops.models.tokenizer import open_tokenizer
from qwenops.statistics.samples import Array
from qwenops.text import Report, Text
from tests.classify.adapted import BUDGET, Adapted, prompts_of, rehash
from tests.classify.made import TAXONOMY, pairs
from tests.models.adapters import write_tensors

NOW = datetime(2026, 3, 2, tzinfo=UTC)
HERE = {"convert": convert_prefill}


def silent(_fraction: float, _doing: str) -> None:
    """Tell nobody."""


def score_here(folder: Path, prompts: Sequence[tuple[int, ...]], label_ids: Sequence[int], report: Report) -> Array:
    """Compute in this process, in float32, so that tests need no other one."""
    prefill = open_prefill(folder)
    assert prefill.label_ids == tuple(label_ids)
    graph = compile_graph(prefill, CompileOptions(precision="f32", threads=1))
    report(1.0, "scored")
    return probabilities(graph.logits([ids[len(prefill.prefix) :] for ids in prompts]))


@pytest.fixture
def own(adapted: Adapted, tmp_path: Path) -> Adapted:
    """A copy that a test may write into."""
    shutil.copytree(adapted.folder, tmp_path / "adapter")
    return replace(adapted, folder=tmp_path / "adapter")


def exported(adapted: Adapted, out: Path, scheme: str = "int8", **more: Any) -> Exported:
    options = ExportOptions(base=adapted.base, out=out, scheme=scheme, target_precision=0.8)  # type: ignore[arg-type] # one of its choices
    usual: dict[str, Any] = {"report": silent, "now": lambda: NOW, "score": score_here, **HERE}
    return export(adapted.folder, more.pop("data", adapted.data), options, **(usual | more))


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_the_head_of_the_tests_classifies(adapted: Adapted, tmp_path: Path) -> None:
    """Else nothing could be lost by compressing."""
    found = exported(adapted, tmp_path / "out", "bf16")
    assert found.macro_f1 > 0.7


@pytest.mark.parametrize("scheme", ["bf16", "int8", "w8a8"])
def test_a_classifier_has_all_that_service_reads(adapted: Adapted, tmp_path: Path, scheme: str) -> None:
    found = exported(adapted, tmp_path / "out", scheme)
    assert found.folder == tmp_path / "out"
    assert found.scheme.value == scheme
    form = open_form(found.folder)
    assert form.leaves == TAXONOMY.leaves
    assert (form.budget_tokens, form.redaction, form.warning) == (BUDGET, "zh-1", None)
    assert form.conformal is not None
    check_tokenizer(found.folder, form, open_tokenizer(found.folder))
    prefill = open_prefill(found.folder)
    assert prefill.scheme.value == scheme
    assert len(prefill.golden) == 8
    manifest = read(found.folder, "manifest.json")
    named = set(manifest["files"])
    assert named == {path.name for path in found.folder.iterdir()} - {"manifest.json"}
    least = {"taxonomy.yaml", "prompt.json", "calibration.json", "thresholds.json", "metrics.json", "parity.json"}
    assert least < named
    assert manifest["taxonomy"]["ref"] == TAXONOMY.ref
    assert manifest["data"]["sources"] == {"calls.jsonl": "0" * 64, "more.jsonl": "1" * 64}
    assert manifest["data"]["test"]["sha256"] == adapted.data.test.sha256()
    assert manifest["created_at"] == "2026-03-02T00:00:00+00:00"
    assert read(found.folder, "metrics.json")["test"]["leaves"]["macro_f1"]["value"] == pytest.approx(found.macro_f1)
    assert read(found.folder, "parity.json")["candidate"].startswith(scheme)


def test_what_is_fitted_is_fitted_to_validation_calls(adapted: Adapted, tmp_path: Path) -> None:
    found = exported(adapted, tmp_path / "out", "bf16")
    ids = open_prefill(found.folder).label_ids
    said = score_here(found.folder, prompts_of(adapted.data.val), ids, silent)
    truth = [TAXONOMY.leaves[label] for label in adapted.data.val.labels]
    customers = [adapted.data.customers[name] for name in adapted.data.val.ids]
    answers = answers_of(truth, said, TAXONOMY.leaves, groups=customers)
    wanted = meaning_of(answers, hierarchy_of(TAXONOMY), target_precision=0.8)
    assert calibration_of(read(found.folder, "calibration.json")) == wanted.calibration
    assert thresholds_of(read(found.folder, "thresholds.json")) == wanted.thresholds
    assert open_form(found.folder).conformal == wanted.conformal
    others = replace(adapted.data, val=adapted.data.test, test=adapted.data.val)
    again = exported(adapted, tmp_path / "other", "bf16", data=others)
    assert read(again.folder, "calibration.json") != read(found.folder, "calibration.json")


def broken_scale(monkeypatch: pytest.MonkeyPatch, tensor: str) -> None:
    """Let the scales of one matrix come out eight times as large, after it was compared with its source."""
    right = compress.stored_scales
    names: list[str] = []
    pack = packing._pack_tensor

    def noted(source: Any, spec: Any, *args: Any) -> Any:
        names.append(spec.name)
        return pack(source, spec, *args)

    def wrong(scales: Any, layout: Any) -> Any:
        return right(scales, layout) * (8 if names[-1] == tensor else 1)

    monkeypatch.setattr(packing, "_pack_tensor", noted)
    monkeypatch.setattr(packing, "stored_scales", wrong)


def test_a_broken_scale_is_refused_and_the_calls_are_named(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(adapted, tmp_path / "out")
    before = read(tmp_path / "out", "manifest.json")
    broken_scale(monkeypatch, "model.layers.1.mlp.down_proj.weight")
    with pytest.raises(ParityError) as caught:
        exported(adapted, tmp_path / "out")
    assert caught.value.calls
    assert set(caught.value.calls) <= set(adapted.data.test.ids)
    assert all(name in str(caught.value.message) for name in caught.value.calls)
    assert read(tmp_path / "out", "manifest.json") == before, "what was there is still there"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_swapped_rows_are_refused(adapted: Adapted, tmp_path: Path) -> None:
    def swapping(request: PrefillRequest, target: Path, report: Report) -> Prefill:
        if request.scheme is PrefillScheme.INT8:
            from qwenops.models.checkpoint import open_tensors

            assert request.rows is not None
            rows = open_tensors(request.rows).read("rows")
            write_tensors(tmp_path / "swapped.safetensors", {"rows": rows[[1, 0, 2, 3]]})
            request = replace(request, rows=tmp_path / "swapped.safetensors")
        return convert_prefill(request, target, report)

    with pytest.raises(
        ParityError, match=r"billing\.fee instead of network\.down|network\.down instead of billing\.fee"
    ):
        exported(adapted, tmp_path / "out", convert=swapping)
    assert not (tmp_path / "out").exists()


def spoiled(*schemes: str) -> Callable[..., Array]:
    """Return a way to score that mixes up the test calls' classes for these schemes."""

    def score(folder: Path, prompts: Sequence[tuple[int, ...]], label_ids: Sequence[int], report: Report) -> Array:
        found = score_here(folder, prompts, label_ids, report)
        return found[:, [1, 0, 2, 3]] if folder.name in schemes else found

    return score


def test_the_smallest_form_that_holds_is_taken(adapted: Adapted, tmp_path: Path) -> None:
    told: list[Text] = []
    options: dict[str, Any] = {"scheme": "auto", "tell": told.append}
    found = exported(adapted, tmp_path / "out", score=spoiled("w8a8", "w8a8-without-layers-0", "int8"), **options)
    assert found.scheme is PrefillScheme.BF16
    parity = read(found.folder, "parity.json")
    assert parity["agreement"] == 1.0
    assert [each["candidate"] for each in parity["refused"]][-1] == "int8"
    assert "bf16 chooses the class that bf16 chooses" in told[-1]
    assert len(told) == len(parity["refused"]) + 1
    found = exported(adapted, tmp_path / "out", score=spoiled("w8a8"), **options)
    assert found.scheme in {PrefillScheme.W8A8, PrefillScheme.INT8}


def test_the_next_form_of_a_scheme_is_tried_before_it_is_refused(adapted: Adapted, tmp_path: Path) -> None:
    found = exported(adapted, tmp_path / "out", "w8a8", score=spoiled("w8a8"))
    assert read(found.folder, "manifest.json")["kept_layers"] == [0]
    with pytest.raises(ParityError):
        exported(adapted, tmp_path / "no", "w8a8", score=spoiled("w8a8", "w8a8-without-layers-0"))


def test_a_graph_that_is_not_the_trained_models_is_refused(own: Adapted, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (own.folder / "golden.jsonl").read_text().splitlines()]
    for line in lines:
        line["logits"] = line["logits"][::-1]
    (own.folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rehash(own.folder)
    with pytest.raises(ParityError, match="made-up calls"):
        exported(own, tmp_path / "out", "bf16")


def test_another_checkpoint_than_the_one_it_was_trained_on_is_refused(adapted: Adapted, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "other", TINY, seed=5)
    with pytest.raises(ModelLoadError, match="another model"):
        exported(replace(adapted, base=tmp_path / "other"), tmp_path / "out")


@pytest.mark.parametrize("key", ["sha256", "fingerprint"])
def test_prompts_of_another_form_are_refused(own: Adapted, tmp_path: Path, key: str) -> None:
    prompt = read(own.folder, "manifest.json")["prompt"]
    rehash(own.folder, prompt={**prompt, key: "0" * 64})
    with pytest.raises(ModelLoadError, match="another form"):
        exported(own, tmp_path / "out")


def test_a_byte_that_changed_since_training_is_refused(own: Adapted, tmp_path: Path) -> None:
    raw = bytearray((own.folder / "adapter_model.safetensors").read_bytes())
    raw[-1] ^= 1
    (own.folder / "adapter_model.safetensors").write_bytes(raw)
    with pytest.raises(ModelLoadError, match=r"adapter_model\.safetensors is not what was written"):
        exported(own, tmp_path / "out")


def test_parts_must_have_calls_and_share_none(adapted: Adapted, tmp_path: Path) -> None:
    data = adapted.data
    with pytest.raises(InvalidDataError, match="is in train and in test"):
        exported(adapted, tmp_path / "out", data=replace(data, test=data.train))
    empty = replace(
        data.val,
        ids=(),
        tokens=data.val.tokens[:0],
        offsets=data.val.offsets[:1],
        labels=data.val.labels[:0],
        weights=data.val.weights[:0],
    )
    with pytest.raises(InvalidDataError, match="no call to use as val"):
        exported(adapted, tmp_path / "out", data=replace(data, val=empty))


def test_progress_only_grows(adapted: Adapted, tmp_path: Path) -> None:
    told: list[float] = []
    exported(adapted, tmp_path / "out", report=lambda fraction, _doing: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_the_ladder_goes_from_the_smallest_to_the_uncompressed() -> None:
    names = [each.name for each in ladder("auto", 28, has_int8=True)]
    assert names == ["w8a8", "w8a8 without layers 0,26", "int8", "bf16"]
    assert [each.name for each in ladder("auto", 28, has_int8=False)] == ["int8", "bf16"]
    assert [each.name for each in ladder("int8", 28, has_int8=True)] == ["int8"]
    assert [each.name for each in ladder("w8a8", 28, has_int8=False)] == names[:2]


def test_the_common_beginning_is_shorter_than_every_prompt(adapted: Adapted) -> None:
    prompts = golden_prompts(open_tokenizer(adapted.base), budget_tokens=BUDGET)
    found = common_prefix(prompts)
    assert len(found) >= 3
    assert all(ids[: len(found)] == found for ids in prompts)
    assert len({ids[: len(found) + 1] for ids in prompts}) > 1
    assert common_prefix([(1, 2), (1, 2, 3)]) == (1,)
    assert common_prefix([(1, 2), (3, 4)]) == ()


def test_prompts_to_watch_are_drawn_alike_for_one_seed(adapted: Adapted) -> None:
    train = adapted.data.train
    found = watched(train, 3, count=10)
    assert found == watched(train, 3, count=10)
    assert found != watched(train, 4, count=10)
    assert len(set(found)) == 10
    assert set(found) <= set(prompts_of(train))
    assert len(watched(train, 3, count=10_000)) == len(train)


def test_the_meaning_is_calibrated_before_thresholds_are_chosen() -> None:
    draw = np.random.default_rng(1)
    true = draw.dirichlet(np.full(4, 0.3), 600)
    truth = [TAXONOMY.leaves[int(draw.choice(4, p=row))] for row in true]
    flat = scale(logits_of(true) / 3, calibration_like(1.0))
    found = meaning_of(answers_of(truth, flat, TAXONOMY.leaves), hierarchy_of(TAXONOMY), target_precision=0.8)
    assert found.calibration.scaling.kind == "temperature"
    assert found.calibration.scaling.value == pytest.approx(1 / 3, rel=0.2)
    assert found.thresholds.leaf is not None
    assert found.thresholds.leaf.precision_low >= 0.8
    with pytest.raises(ConfigError):
        meaning_of(answers_of(truth, flat, TAXONOMY.leaves), hierarchy_of(TAXONOMY), target_precision=1.5)


def calibration_like(value: float) -> Any:
    from qwenops.classify.calibrate import Temperature

    return Temperature(value=value)


# -- with the true engine ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_exported_classifier_classifies(adapted: Adapted, tmp_path: Path) -> None:
    """Converted in a process of its own, scored by the engine that serves, opened as service opens it."""
    import asyncio

    options = ExportOptions(base=adapted.base, out=tmp_path / "out", scheme="int8", target_precision=0.8)
    found = export(adapted.folder, adapted.data, options, report=silent, now=lambda: NOW)
    calls = [call for call, _ in pairs(12, seed=9)]

    async def classify() -> list[Any]:
        form = open_form(found.folder)
        scorer = await open_scorer(found.folder, EngineOptions(context_tokens=512))
        classifier = Classifier(
            "made@1", form, open_tokenizer(found.folder), scorer, secret=b"a secret for tests only", clock=lambda: 0.0
        )
        try:
            return await classifier.judge(classifier.prepare(calls))
        finally:
            await classifier.aclose()

    predictions = asyncio.run(classify())
    assert [each.conversation_id for each in predictions] == [call.conversation_id for call in calls]
    assert all(sum(each.probs.values()) == pytest.approx(1, abs=1e-4) for each in predictions)
    best = [max(each.probs, key=lambda leaf: each.probs[leaf]) for each in predictions]
    assert sum(leaf == label.primary for leaf, (_, label) in zip(best, pairs(12, seed=9), strict=True)) >= 8
