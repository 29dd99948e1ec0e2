"""The prefill-only graph against transformers, against itself in other forms, and against what OpenVINO recognises."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.models.prefill import Prefill, PrefillScheme
from qwenops.models.prefill_graph import linear_inputs
from qwenops.models.prefill_layout import Joining
from qwenops.models.random import write_random_checkpoint
from qwenops.models.spec import TINY, ModelSpec
from tests.models.adapters import write_adapter
from tests.models.prefilled import LABELS, PREFIX, compiled, kinds, logits, made, prompts, relative

GROUPED = Joining(by_place=False)
FORMS = {
    "as served": Joining(),
    "projections apart": Joining(attention=False),
    "gate and up joined": Joining(feed_forward=True),
    "grouped": GROUPED,
    "grouped, apart": Joining(attention=False, by_place=False),
}
SPECS = {
    "two places": TINY,
    "a key head each": replace(TINY, num_kv_heads=4),
    "one key head": replace(TINY, num_kv_heads=1),
    "three layers, three places": replace(TINY, num_layers=3, num_heads=6),
    "its own head": replace(TINY, tie_word_embeddings=False),
}
MADE = Callable[[str], Prefill]


@pytest.fixture(scope="module")
def form(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> MADE:
    """Return a function that gives the tiny model in one of the forms, uncompressed."""
    folder = tmp_path_factory.mktemp("forms")

    @cache
    def of(name: str) -> Prefill:
        if name == "prefix":
            return made(tiny_checkpoint, folder / "prefix", prefix=PREFIX)
        return made(tiny_checkpoint, folder / name.replace(" ", "-"), joining=FORMS[name])

    return of


def reference(folder: Path, texts: Sequence[Sequence[int]], rows: Sequence[int] = LABELS) -> NDArray[np.float32]:
    """Return transformers' logits of the labels after each prompt, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return np.stack([model(torch.tensor([list(ids)])).logits[0, -1, list(rows)].numpy() for ids in texts])


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_logits_of_transformers(form: MADE, tiny_checkpoint: Path, name: str) -> None:
    pytest.importorskip("transformers")
    texts = prompts(6)
    assert relative(logits(compiled(form(name)), texts), reference(tiny_checkpoint, texts)) < 1e-5


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("joining", [Joining(), GROUPED])
def test_models_of_other_shapes_give_the_logits_of_transformers(tmp_path: Path, name: str, joining: Joining) -> None:
    pytest.importorskip("transformers")
    spec: ModelSpec = SPECS[name]
    write_random_checkpoint(tmp_path / "model", spec, tokenizer=False)
    found = made(tmp_path / "model", tmp_path / "made", joining=joining)
    texts = prompts(4, seed=1)
    assert relative(logits(compiled(found), texts), reference(tmp_path / "model", texts)) < 1e-5


@pytest.mark.reference
@pytest.mark.slow
def test_a_prefix_gives_the_logits_of_the_whole_prompt(form: MADE, tiny_checkpoint: Path) -> None:
    pytest.importorskip("transformers")
    texts = prompts(5, seed=2)
    whole = [(*PREFIX, *ids) for ids in texts]
    assert relative(logits(compiled(form("prefix")), texts), reference(tiny_checkpoint, whole)) < 1e-5


def test_forms_agree_with_one_another(form: MADE) -> None:
    texts = prompts(5, seed=3)
    wanted = logits(compiled(form("as served")), texts)
    for name in FORMS:
        assert relative(logits(compiled(form(name)), texts), wanted) < 1e-5, name
    behind = [ids for ids in texts if len(ids) > 1]
    whole = logits(compiled(form("as served")), [(*PREFIX, *ids) for ids in behind])
    assert relative(logits(compiled(form("prefix")), behind), whole) < 1e-5


@pytest.mark.parametrize("name", ["as served", "grouped", "prefix"])
def test_neither_company_nor_padding_changes_a_prompt(form: MADE, name: str) -> None:
    model = compiled(form(name))
    texts = prompts(6, seed=4)
    together = logits(model, texts)
    alone = np.concatenate([logits(model, [ids]) for ids in texts])
    assert relative(together, alone) < 1e-5
    assert relative(logits(model, texts, length=64), alone) < 1e-5
    assert relative(logits(model, texts[::-1])[::-1], alone) < 1e-5


@pytest.mark.parametrize("name", ["as served", "prefix"])
def test_every_token_of_a_prompt_counts_and_none_behind_it(form: MADE, name: str) -> None:
    model = compiled(form(name))
    ids = prompts(1, seed=5, shortest=12, longest=12)[0]
    wanted = logits(model, [ids])
    for place in range(len(ids)):
        other = [*ids[:place], ids[place] + 1, *ids[place + 1 :]]
        assert relative(logits(model, [other]), wanted) > 1e-4, place
    assert not np.allclose(logits(model, [[*ids[1:], ids[0]]]), wanted, rtol=1e-3), "order counts"


def test_an_adapter_is_in_the_graph(tiny_checkpoint: Path, form: MADE, tmp_path: Path) -> None:
    texts = prompts(4, seed=6)
    plain = logits(compiled(form("as served")), texts)
    found = made(tiny_checkpoint, tmp_path / "a", adapter=write_adapter(tmp_path / "adapter", TINY, size=0.2))
    assert relative(logits(compiled(found), texts), plain) > 0.05
    nothing = write_adapter(tmp_path / "nothing", TINY, size=0.0)
    same = made(tiny_checkpoint, tmp_path / "b", adapter=nothing)
    np.testing.assert_array_equal(logits(compiled(same), texts), plain)


@pytest.mark.reference
@pytest.mark.slow
def test_a_merged_adapter_gives_the_logits_of_the_merged_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from qwenops.models.adapter import open_merged, write_merged

    adapter = write_adapter(tmp_path / "adapter", TINY, size=0.2)
    found = made(tiny_checkpoint, tmp_path / "made", adapter=adapter)
    write_merged(open_merged(tiny_checkpoint, adapter), tmp_path / "merged", lambda _fraction, _doing: None)
    texts = prompts(4, seed=7)
    away = relative(logits(compiled(found), texts), reference(tmp_path / "merged", texts))
    assert away < 0.01, "the merged checkpoint is rounded to bf16"


# -- what OpenVINO makes of it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [PrefillScheme.F32, PrefillScheme.BF16, PrefillScheme.INT8])
def test_openvino_recognises_every_pattern(tmp_path: Path, scheme: PrefillScheme) -> None:
    layers = 3
    spec = replace(TINY, num_layers=layers)
    write_random_checkpoint(tmp_path / "model", spec, tokenizer=False)
    found = kinds(compiled(made(tmp_path / "model", tmp_path / "made", scheme)))
    places = 2
    attention = found["ScaledDotProductAttention"] + found["Subgraph"]  # which of them depends on the processor
    assert attention >= places * (layers - 1) + 1
    assert found["RoPE"] >= (places + 1) * (layers - 1)
    assert found["RMS"] == (places + 3) * (layers - 1) + 4 + 1
    assert found["FullyConnected"] == (1 + 1 + 3) * (layers - 1) + 6 + 1
    for needless in ("MatMul", "Softmax", "StridedSlice"):
        assert found[needless] == 0, needless
    assert found["Transpose"] <= 3 * places * (layers - 1) + 1, "three for each attention: one was absorbed"


def test_the_model_is_as_small_as_its_scheme_promises(tiny_checkpoint: Path, tmp_path: Path) -> None:
    sizes = {}
    for scheme, each in ((PrefillScheme.F32, 4.0), (PrefillScheme.BF16, 2.0), (PrefillScheme.INT8, 1.0)):
        found = made(tiny_checkpoint, tmp_path / scheme.value, scheme)
        sizes[scheme] = found.facts["files"]["openvino_model.bin"]["bytes"] / (each * TINY.num_parameters)
    assert all(1.0 <= share < 1.15 for share in sizes.values()), sizes


def test_there_is_no_state_and_one_output(form: MADE) -> None:
    model = compiled(form("as served"))
    assert [each.any_name for each in model.outputs] == ["logits"]
    assert sorted(each.any_name for each in model.inputs) == ["input_ids", "last"]
    request: Any = model.create_infer_request()
    assert request.query_state() == []


def test_the_last_layer_is_never_among_the_quantised_inputs() -> None:
    names = linear_inputs(replace(TINY, num_layers=3))
    assert len(names) == 8
    assert {name.partition(".")[0] for name in names} == {"0", "1"}
