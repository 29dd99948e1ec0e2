"""A checkpoint and an adapter to a classifier's model, and that model as a folder.

    openvino_model.xml, openvino_model.bin      the prefill-only graph (`prefill_graph`)
    scorer.json                                 labels, prefix, scheme, what each tensor lost, sizes and hashes
    config.json, tokenizer.json, ...            as the checkpoint has them

The adapter is merged in float32 while tensors are read, so the merged model never exists as a whole. Where activations
are to be quantised, the graph is first built unquantised and watched on calibration texts, in float32.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from qwenops import __version__
from qwenops.atomic import write_text
from qwenops.errors import InvalidRequestError, ModelLoadError
from qwenops.hardware import detect_machine, plan_environment, plan_threads
from qwenops.models.adapter import CONFIG, WEIGHTS, Merged, open_merged
from qwenops.models.artefact import MODEL_BIN, MODEL_XML, OPTIONAL_FILES
from qwenops.models.checkpoint import file_sha256, open_tensors, read_json
from qwenops.models.child import follow, speak
from qwenops.models.compress import Layout
from qwenops.models.convert import copy_files, died, hashes_of, took_too_long
from qwenops.models.folders import new_folder
from qwenops.models.packing import Packed, PackedWeights, open_packed, pack_tensors, row_slices, save_model
from qwenops.models.prefill_graph import PrefillForm, PrefixState, build_prefill_model
from qwenops.models.prefill_layout import Joined, Joining, recipes
from qwenops.models.smoothing import (
    STRENGTH,
    Plan,
    Statistics,
    column_peaks_of,
    plan,
    readers,
    smoothed_prefix,
)
from qwenops.models.spec import EMBEDDING, HEAD, RUNTIME_BYTES, ModelSpec, TensorKind, TensorSpec
from qwenops.text import Report, Text, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
SCORER = "scorer.json"
ROWS = "rows"
"""The one tensor in a file of trained label rows."""
SPARE_BYTES = 1 << 26
LEAST_LABELS = 2


class PrefillScheme(StrEnum):
    """How a classifier's weights are stored, and in what it computes."""

    F32 = "f32"
    BF16 = "bf16"
    INT8 = "int8"
    """Every matrix int8 with one scale for each output channel; activations as they come."""
    W8A8 = "w8a8"
    """Activations in 8 bits, too, with fixed scales; what that is too coarse for stays in bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRequest:
    """What to make a model from."""

    source: Path
    """The base checkpoint."""
    label_ids: tuple[int, ...]
    """The token that stands for each label."""
    adapter: Path | None = None
    scheme: PrefillScheme = PrefillScheme.INT8
    rows: Path | None = None
    """A safetensors file with the labels' rows, where they were trained; else they are those of the model's head."""
    prefix: tuple[int, ...] = ()
    """Tokens that every prompt begins with."""
    calibration: tuple[tuple[int, ...], ...] = ()
    """Prompts that activations are watched on; needed for W8A8."""
    kept_layers: tuple[int, ...] = ()
    """Layers whose activations are not quantised. The last one's never are."""
    joining: Joining | None = None
    """Which matrices are one; None decides."""
    strength: float = STRENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """An opened model of a classifier."""

    folder: Path
    spec: ModelSpec
    scheme: PrefillScheme
    label_ids: tuple[int, ...]
    prefix: tuple[int, ...]
    sha256: str
    """Of all that it was made from."""
    facts: Mapping[str, Any]

    @property
    def model_xml(self) -> Path:
        """The graph; its weights lie beside it."""
        return self.folder / MODEL_XML

    @property
    def golden(self) -> tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]:
        """Prompts, each with the probabilities that the labels must get, about; see `write_golden`."""
        return tuple((tuple(each["ids"]), tuple(each["probabilities"])) for each in self.facts.get("golden", ()))

    def memory_bytes(self, batch_tokens: int) -> int:
        """Estimate what a process needs that computes batches of so many tokens."""
        spec = self.spec
        widest = 2 * spec.intermediate_size + 3 * spec.hidden_size + 2 * spec.num_heads * spec.head_dim
        weights = sum(int(each["bytes"]) for each in self.facts["files"].values())
        return weights + 4 * batch_tokens * widest + RUNTIME_BYTES


def open_prefill(folder: Path) -> Prefill:
    """Open a classifier's model; compares the sizes of its files.

    Raises:
        ModelLoadError: The folder is none, is of another version, or a file is missing or truncated.
    """
    if not (folder / SCORER).exists():
        raise ModelLoadError(
            say("{folder} is no classifier's model: it has no {name}.", folder=str(folder), name=SCORER),
            hint=say("Give a folder that `qwenops finetune export` has written."),
        )
    facts = read_json(folder / SCORER)
    if facts.get("format") != FORMAT:
        raise ModelLoadError(
            say(
                "{folder} has the format {found!r}, and this version reads {known}.",
                folder=str(folder),
                found=facts.get("format"),
                known=FORMAT,
            ),
            hint=say("Export the model again."),
        )
    try:
        found = Prefill(
            folder=folder,
            spec=ModelSpec.from_config(facts["config"]),
            scheme=PrefillScheme(facts["scheme"]),
            label_ids=tuple(facts["label_ids"]),
            prefix=tuple(facts["prefix"]),
            sha256=facts["sha256"],
            facts=facts,
        )
        sizes = {name: int(each["bytes"]) for name, each in facts["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, say("{name} is incomplete ({error})", name=SCORER, error=repr(error))) from error
    for name, size in sizes.items():
        path = folder / name
        there = path.stat().st_size if path.is_file() else 0
        if there != size:
            raise _damaged(folder, say("{name} has {found} of {size} bytes", name=name, found=there, size=size))
    return found


def write_golden(
    prefill: Prefill, prompts: Sequence[Sequence[int]], probabilities: Sequence[Sequence[float]]
) -> Prefill:
    """Keep with the model what it says about some prompts, so that whoever opens it can see whether it still does.

    The prompts become part of the model: they must be made up, never calls of customers.
    """
    golden = [
        {"ids": list(ids), "probabilities": [round(float(each), 6) for each in row]}
        for ids, row in zip(prompts, probabilities, strict=True)
    ]
    facts = {**prefill.facts, "golden": golden}
    _write(prefill.folder / SCORER, facts)
    return replace(prefill, facts=facts)


def convert_prefill(request: PrefillRequest, target: Path, report: Report, *, threads: int = 2) -> Prefill:
    """Make a classifier's model at `target`, which is replaced if it exists.

    Raises:
        ModelLoadError: Checkpoint or adapter are damaged, or do not belong together.
        InvalidRequestError: The request contradicts itself or the model.
        ConversionError: A packed tensor differs from its source by more than its format allows.
        InsufficientDiskError: There is no room for the result.
    """
    merged = open_merged(request.source, request.adapter)
    _check(request, merged.spec)
    with (
        new_folder(target, needed_bytes=_needed_bytes(merged.spec, request.scheme)) as folder,
        ThreadPoolExecutor(max_workers=threads, thread_name_prefix="convert") as pool,
    ):
        hashes = pool.submit(_source_hashes, request, merged)
        work = _Work(
            request=request, merged=merged, labels=_label_rows(request, merged), folder=folder, pool=pool, report=report
        )
        prefix, planned = work.prepare()
        packed = work.write(prefix, planned)
        copy_files(merged.base.folder, folder, ("config.json", *OPTIONAL_FILES))
        report(0.95, say("Hashing the files"))
        _write(folder / SCORER, _facts(request, merged, packed, planned, hashes.result(), folder))
    report(1.0, say("Converted"))
    return open_prefill(target)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    """The steps of a conversion, and what they share."""

    request: PrefillRequest
    merged: Merged
    labels: "NDArray[np.float32]"
    folder: Path
    pool: ThreadPoolExecutor
    report: Report

    @property
    def joining(self) -> Joining:
        return self.request.joining or Joining(by_place=not self.request.prefix)

    def prepare(self) -> tuple[PrefixState | None, Plan | None]:
        """Compute the prefix's state and watch activations, as far as the request needs it."""
        quantised = self.request.scheme is PrefillScheme.W8A8
        if not self.request.prefix and not quantised:
            return None, None
        scratch = self.folder / "plain.scratch"
        joined = self.joined()
        packed = self.pack(joined, scratch, _layouts(joined.tensors, PrefillScheme.BF16, None), (0.0, 0.25))
        prefix = self.prefix_state(open_packed(scratch, packed)) if self.request.prefix else None
        planned = self.watch(open_packed(scratch, packed), prefix) if quantised else None
        scratch.unlink()
        return prefix, planned

    def write(self, prefix: PrefixState | None, planned: Plan | None) -> list[Packed]:
        """Pack the weights and write the graph over them."""
        joined = self.joined(planned)
        scratch = self.folder / "weights.scratch"
        quantised = _quantised(planned, self.joining, self.merged.spec) if planned else None
        packed = self.pack(joined, scratch, _layouts(joined.tensors, self.request.scheme, quantised), (0.5, 0.85))
        self.report(0.85, say("Writing the model"))
        weights = open_packed(scratch, packed)
        if prefix is not None and planned is not None:
            prefix = smoothed_prefix(self.merged.spec, self.joining, prefix, planned.scaling)
        form = PrefillForm(joining=self.joining, prefix=prefix, peaks=planned.peaks if planned else {})
        save_model(build_prefill_model(self.merged.spec, weights, form), self.folder, scratch)
        scratch.unlink()
        return packed

    def joined(self, planned: Plan | None = None) -> Joined:
        made = recipes(self.merged.spec, len(self.request.label_ids), self.joining)
        return Joined(self.merged, made, labels=self.labels, scaling=planned.scaling if planned else None)

    def pack(
        self, joined: Joined, scratch: Path, wanted: list[tuple[TensorSpec, Layout]], share: tuple[float, float]
    ) -> list[Packed]:
        total = sum(tensor.num_elements for tensor, _ in wanted)
        found, done = [], 0
        with scratch.open("wb") as sink:
            for each in pack_tensors(joined, wanted, sink, self.pool):
                found.append(each)
                done += each.tensor.num_elements
                self.report(
                    share[0] + (share[1] - share[0]) * done / total,
                    say("Packing the weights: {name}", name=each.tensor.name),
                )
        return found

    def prefix_state(self, weights: PackedWeights) -> PrefixState:
        """Compute the keys and values of the prefix, in float32."""
        import numpy as np

        self.report(0.25, say("Computing what all prompts begin with"))
        found = next(self.computed(weights, PrefillForm(joining=self.joining, states=True), [self.request.prefix]))
        layers = range(self.merged.spec.num_layers)
        return PrefixState(
            keys=np.concatenate([found[f"key:{layer}"] for layer in layers]),
            values=np.concatenate([found[f"value:{layer}"] for layer in layers]),
        )

    def watch(self, weights: PackedWeights, prefix: PrefixState | None) -> Plan:
        """See what activations are like on the calibration prompts, and plan by it."""
        form = PrefillForm(joining=self.joining, prefix=prefix, watch=True)
        texts = [ids[len(self.request.prefix) :] for ids in self.request.calibration]
        statistics = Statistics()
        for number, found in enumerate(self.computed(weights, form, texts)):
            statistics.add(found, len(texts[number]))
            self.report(
                0.3 + 0.15 * (number + 1) / len(texts),
                say("Watching activations: {number} of {total} texts", number=number + 1, total=len(texts)),
            )
        plain = self.joined()
        tensors = {tensor.name: tensor for tensor in plain.tensors}
        return plan(
            self.merged.spec,
            self.joining,
            statistics,
            lambda name: column_peaks_of(plain.read, name, list(row_slices(tensors[name]))),
            kept_layers=self.request.kept_layers,
            strength=self.request.strength,
        )

    def computed(
        self, weights: PackedWeights, form: PrefillForm, texts: Sequence[Sequence[int]]
    ) -> "Iterator[dict[str, NDArray[Any]]]":
        """Yield all outputs of a graph for each text, computed in float32."""
        import numpy as np
        import openvino as ov

        model = build_prefill_model(self.merged.spec, weights, form)
        threads = plan_threads(detect_machine()).value
        properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        request = ov.Core().compile_model(model, "CPU", properties).create_infer_request()
        names = [each.any_name for each in request.model_outputs]
        for ids in texts:
            request.infer({"input_ids": np.array([ids], np.int64), "last": np.array([len(ids) - 1], np.int64)})
            yield {name: np.array(request.get_tensor(name).data) for name in names}


def _check(request: PrefillRequest, spec: ModelSpec) -> None:
    ids = request.label_ids
    if len(ids) < LEAST_LABELS or len(set(ids)) < len(ids) or not all(0 <= each < spec.vocab_size for each in ids):
        raise _wrong(say("the labels {labels} are not two or more different tokens", labels=list(ids)), "label_ids")
    if request.scheme is PrefillScheme.W8A8 and not request.calibration:
        raise _wrong(say("8-bit activations need texts that they are calibrated on"), "calibration")
    for number, text in enumerate(request.calibration):
        if text[: len(request.prefix)] != request.prefix or len(text) <= len(request.prefix):
            raise _wrong(
                say("the calibration text {number} does not begin with the prefix", number=number), "calibration"
            )
    if request.prefix and request.joining is not None and request.joining.by_place:
        raise _wrong(say("heads cannot stand by place behind a prefix"), "joining")


def _wrong(what: Text, param: str) -> InvalidRequestError:
    return InvalidRequestError(say("The model cannot be made: {what}.", what=what), param=param)


def _label_rows(request: PrefillRequest, merged: Merged) -> "NDArray[np.float32]":
    """Return the labels' rows, `[labels, hidden]`."""
    import numpy as np

    shape = (len(request.label_ids), merged.spec.hidden_size)
    if request.rows is None:
        table = EMBEDDING if merged.spec.tie_word_embeddings else HEAD
        rows = np.concatenate([merged.read(table, slice(each, each + 1)) for each in request.label_ids])
    else:
        tensors = open_tensors(request.rows)
        if ROWS not in tensors.entries:
            raise _wrong(say("{path} has no tensor {name}", path=str(request.rows), name=ROWS), "rows")
        rows = tensors.read(ROWS)
    if rows.shape != shape or not np.isfinite(rows).all():
        raise _wrong(
            say("the labels' rows have the shape {found} instead of {shape}", found=list(rows.shape), shape=shape),
            "rows",
        )
    return rows


def _layouts(
    tensors: Iterable[TensorSpec], scheme: PrefillScheme, quantised: frozenset[str] | None
) -> list[tuple[TensorSpec, Layout]]:
    return [(tensor, _layout(tensor, scheme, quantised)) for tensor in tensors]


def _layout(tensor: TensorSpec, scheme: PrefillScheme, quantised: frozenset[str] | None) -> Layout:
    """Return how a tensor is stored; norms and the labels' few rows always in float32."""
    if tensor.kind in (TensorKind.NORM, TensorKind.HEAD):
        return Layout(stored="f32")
    match scheme:
        case PrefillScheme.F32:
            return Layout(stored="f32")
        case PrefillScheme.BF16:
            return Layout(stored="bf16")
        case PrefillScheme.INT8:
            return Layout(stored="i8", group=tensor.shape[1])
        case PrefillScheme.W8A8:
            coarse = quantised is not None and tensor.kind is TensorKind.LINEAR and tensor.name not in quantised
            return Layout(stored="bf16") if coarse else Layout(stored="i8", group=tensor.shape[1])
        case _:
            assert_never(scheme)


def _quantised(planned: Plan, joining: Joining, spec: ModelSpec) -> frozenset[str]:
    """Return the matrices whose activations are quantised."""
    places = spec.num_heads // spec.num_kv_heads
    return frozenset(matrix for name in planned.peaks for matrix in readers(name, joining, places))


def _needed_bytes(spec: ModelSpec, scheme: PrefillScheme) -> int:
    """Return the room for the result and its scratch files, of which a plain one has two bytes for each number."""
    each = 4 if scheme is PrefillScheme.F32 else 2
    return (2 * each + 2) * spec.num_parameters + SPARE_BYTES


def _source_hashes(request: PrefillRequest, merged: Merged) -> dict[str, dict[str, str]]:
    found = {"base": merged.base.sha256()}
    if request.adapter is not None:
        found["adapter"] = {name: file_sha256(request.adapter / name) for name in (CONFIG, WEIGHTS)}
    if request.rows is not None:
        found["rows"] = {request.rows.name: file_sha256(request.rows)}
    return found


def _facts(
    request: PrefillRequest,
    merged: Merged,
    packed: Sequence[Packed],
    planned: Plan | None,
    sources: Mapping[str, Mapping[str, str]],
    folder: Path,
) -> dict[str, Any]:
    import openvino as ov

    made = {
        "scheme": request.scheme.value,
        "label_ids": list(request.label_ids),
        "prefix": list(request.prefix),
        "sources": sources,
        "kept": list(planned.kept) if planned else [],
        "calibration_texts": len(request.calibration) if planned else 0,
        "strength": request.strength if planned else None,
    }
    files = {name: facts for name, facts in hashes_of(folder).items() if name in {MODEL_XML, MODEL_BIN}}
    return {
        "format": FORMAT,
        "sha256": hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest(),
        **made,
        "made_with": {"qwenops": __version__, "openvino": ov.get_version()},
        "config": merged.spec.to_config(),
        "rounding_errors": dict(planned.errors) if planned else {},
        "worst_relative_error": max(each.error.relative for each in packed),
        "files": files,
        "tensors": [each.facts for each in packed],
    }


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _damaged(folder: Path, what: Text) -> ModelLoadError:
    return ModelLoadError(
        say("The classifier's model in {folder} is damaged: {what}.", folder=str(folder), what=what),
        hint=say("Export it again, or take it from the registry again."),
    )


# -- in a process of its own -------------------------------------------------------------------------------------------


def convert_prefill_in_child(
    request: PrefillRequest, target: Path, report: Report, timeout_s: float = 3600.0
) -> Prefill:
    """Convert in a process of its own; it is killed after `timeout_s`, and dies with this process.

    Raises:
        DeadlineError: It took longer than `timeout_s`.
        ConversionError: The process died, for example because memory ran out.
        QwenOpsError: What `convert_prefill` raises.
    """
    with tempfile.TemporaryDirectory(prefix="qwenops-convert-") as folder:  # nobody else can look into it
        path = Path(folder) / "request.json"
        write_text(path, json.dumps(asdict(request), default=str), mode=0o600)
        arguments = [str(path), str(target)]
        follow("qwenops.models.prefill", arguments, report, timeout_s=timeout_s, late=took_too_long, died=died)
    return open_prefill(target)


def _request_of(data: Mapping[str, Any]) -> PrefillRequest:
    paths = {name: Path(data[name]) if data[name] is not None else None for name in ("adapter", "rows")}
    return PrefillRequest(
        source=Path(data["source"]),
        scheme=PrefillScheme(data["scheme"]),
        label_ids=tuple(data["label_ids"]),
        prefix=tuple(data["prefix"]),
        calibration=tuple(tuple(each) for each in data["calibration"]),
        kept_layers=tuple(data["kept_layers"]),
        joining=Joining(**data["joining"]) if data["joining"] else None,
        strength=data["strength"],
        **paths,
    )


def _main(argv: list[str]) -> int:
    path, target = argv
    machine = detect_machine()
    os.environ.update(plan_environment(machine, plan_threads(machine).value).value)
    request = _request_of(json.loads(Path(path).read_text(encoding="utf-8")))
    return speak(lambda report: convert_prefill(request, Path(target), report))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
