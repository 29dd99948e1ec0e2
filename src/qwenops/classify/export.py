"""From a trained adapter to a classifier: a folder with all that service needs, and that has proved itself.

    checkpoint + adapter ──merge in float32──> bf16 graph ──> what it says of the test calls ─┐
                                        └────> smaller graph ──> of the same calls ───────────┴─> parity
    parity held ──> validation calls ──> calibration, thresholds, sets ──> folder

The smaller graph has to say what the bf16 one says (`parity`), else the next larger one is tried, or the export
refused. It is calibrated anew, since compression changes how sure a model is. Test calls judge and choose nothing else;
all that is fitted is fitted to validation calls. The folder appears whole or not at all.

    openvino_model.xml, .bin, scorer.json, config.json, tokenizer.json, ...    the model (`models.prefill`)
    taxonomy.yaml, prompt.json                                                 how it is asked
    calibration.json, thresholds.json, conformal.json                          what its answers mean
    parity.json, metrics.json                                                  what it proved
    manifest.json                                                              where it comes from, a hash of every file
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qwenops.atomic import write_text
from qwenops.calls.classes import Taxonomy
from qwenops.calls.taxonomy import TAXONOMY, load
from qwenops.classify.answers import Answers, answers_of
from qwenops.classify.calibrate import logits_of, scale, softmax
from qwenops.classify.dataset import EncodedCalls
from qwenops.classify.decide import Filed, measure
from qwenops.classify.evaluate import evaluate
from qwenops.classify.golden import fingerprint
from qwenops.classify.hierarchy import Hierarchy, hierarchy_of
from qwenops.classify.meaning import TARGET_PRECISION, Meaning, meaning_of
from qwenops.classify.parity import LEAST_AGREEMENT, MOST_F1_LOSS, LabelParity, hold, judge, parity_data
from qwenops.classify.plain import to_plain
from qwenops.classify.prompt import prompt_hash
from qwenops.classify.score import CALIBRATION, CONFORMAL, PROMPT, THRESHOLDS
from qwenops.classify.train.adapter import HEAD_ROWS, AdapterFolder, open_adapter, read_golden, verify_adapter
from qwenops.classify.trying import verdict_beside
from qwenops.engines.classifier import BATCH_TOKENS, open_scorer
from qwenops.engines.options import EngineOptions
from qwenops.errors import InvalidDataError, ModelLoadError, ParityError
from qwenops.generation import Tokens
from qwenops.hardware import Machine, detect_machine
from qwenops.models.artefact import MANIFEST
from qwenops.models.checkpoint import file_sha256, open_checkpoint
from qwenops.models.convert import hashes_of
from qwenops.models.folders import new_folder
from qwenops.models.prefill import (
    Prefill,
    PrefillRequest,
    PrefillScheme,
    convert_prefill_in_child,
    open_prefill,
    write_golden,
)
from qwenops.models.tokenizer import open_tokenizer
from qwenops.statistics.samples import Array
from qwenops.text import Report, Text, say

SCHEMA = "qwenops.classifier/1"
PARITY, METRICS = "parity.json", "metrics.json"
WATCHED_CALLS = 64
"""Of the training calls, that activations are watched on before they are quantised."""
WORTH_TOKENS = 64
"""A beginning that all prompts share is computed beforehand from so many tokens on. Quantised activations want even a
short one: the first token's are far larger than all others, and so never have to fit into the same 8 bits."""
MOST_AWAY = 0.2
"""A probability of a made-up call may differ by so much from what the model said in training, by bf16's rounding."""
LEAST_CONTEXT = 64
AT_ONCE = 256
_INT8 = frozenset({"amx_int8", "avx512_vnni", "avx_vnni"})
"""What a processor needs for 8-bit arithmetic to be faster."""

Prompt = tuple[int, ...]
Score = Callable[[Path, Sequence[Prompt], Sequence[int], Report], Array]
Convert = Callable[[PrefillRequest, Path, Report], Prefill]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to make of an adapter."""

    base: Path
    """The checkpoint that it was trained on."""
    out: Path
    """The classifier's folder; takes the place of what is there."""
    scheme: Literal["auto", "w8a8", "int8", "bf16"] = "auto"
    """auto takes the smallest and fastest one that holds parity."""
    target_precision: float = TARGET_PRECISION
    """The share of filed calls that shall be right at least."""
    least_agreement: float = LEAST_AGREEMENT
    most_f1_loss: float = MOST_F1_LOSS
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportData:
    """Labelled calls, encoded in the form in which the model was trained; no call is in two parts."""

    train: EncodedCalls
    val: EncodedCalls
    test: EncodedCalls
    customers: Mapping[str, str] = field(default_factory=dict)
    """By conversation; one that is not in it is nobody else's."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the files that they came from, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A classifier that was exported."""

    folder: Path
    scheme: PrefillScheme
    parity: LabelParity
    macro_f1: float
    """On the test calls."""
    filed: Filed
    """What its thresholds do with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A form in which a model may be exported."""

    scheme: PrefillScheme
    kept_layers: tuple[int, ...] = ()
    """Whose activations stay in bf16, where the others' are quantised."""

    @property
    def name(self) -> str:
        """What reports call it."""
        layers = ",".join(map(str, self.kept_layers))
        return f"{self.scheme.value} without layers {layers}" if layers else self.scheme.value


def score_calls(folder: Path, prompts: Sequence[Prompt], label_ids: Sequence[int], report: Report) -> Array:
    """Return the probabilities that a model gives, [prompts, labels], computed by the engine that serves it."""
    return asyncio.run(_scored(folder, prompts, label_ids, report))


def export(
    adapter: Path,
    data: ExportData,
    options: ExportOptions,
    *,
    report: Report,
    now: Callable[[], datetime],
    tell: Callable[[Text], None] = lambda _sentence: None,
    convert: Convert = convert_prefill_in_child,
    score: Score = score_calls,
) -> Exported:
    """Make a classifier of an adapter, or refuse.

    Args:
        adapter: Folder that training wrote.
        data: What to watch, calibrate and judge with.
        options: What was chosen.
        report: Is told how far it is.
        now: The time, for the manifest.
        tell: Is told what should stay readable: which form held parity, and which did not.
        convert: Makes the graphs.
        score: Computes them.

    Raises:
        ParityError: No form that was allowed says what the bf16 model says; or that one does not say what the trained
            model said.
        InvalidDataError: A part has no calls, or a call is in two parts.
        ModelLoadError: Adapter, checkpoint and this version of qwenops do not belong together.
        ConversionError: A tensor lost more than its format allows.
        InsufficientDiskError: There is no room.
    """
    opened = open_adapter(adapter)
    verify_adapter(opened)
    taxonomy = load(adapter / TAXONOMY)
    _check(opened, taxonomy, options)
    _check_data(data)
    with new_folder(options.out) as folder:
        work = _Work(
            adapter=opened,
            hierarchy=hierarchy_of(taxonomy),
            data=data,
            options=options,
            golden=read_golden(opened),
            folder=folder / "work",
            report=report,
            tell=tell,
            convert=convert,
            score=score,
        )
        chosen = work.choose(detect_machine())
        val = work.answers(data.val, work.scored(chosen.model.folder, data.val, (0.8, 0.97)))
        meaning = meaning_of(val, work.hierarchy, target_precision=options.target_precision, seed=options.seed)
        for path in sorted(chosen.model.folder.iterdir()):
            path.rename(folder / path.name)
        shutil.rmtree(work.folder)
        prompts = [prompt for prompt, _ in work.golden]
        write_golden(open_prefill(folder), prompts, chosen.golden.tolist())
        found = _finish(work, folder, chosen, meaning, now)
    report(1.0, say("Exported"))
    return replace(found, folder=options.out)


def ladder(scheme: str, num_layers: int, *, has_int8: bool) -> tuple[Attempt, ...]:
    """Return the forms to try, the smallest first.

    The first and the last layers are the ones that quantised activations hurt most, so they are kept before all are.
    """
    quantised = (
        Attempt(scheme=PrefillScheme.W8A8),
        Attempt(scheme=PrefillScheme.W8A8, kept_layers=tuple(sorted({0, max(0, num_layers - 2)}))),
    )
    int8, bf16 = Attempt(scheme=PrefillScheme.INT8), Attempt(scheme=PrefillScheme.BF16)
    forms = {"w8a8": quantised, "int8": (int8,), "bf16": (bf16,)}
    return forms.get(scheme, (*(quantised if has_int8 else ()), int8, bf16))


def common_prefix(prompts: Sequence[Prompt]) -> Prompt:
    """Return what all prompts begin with, and at least one token less than the shortest has."""
    first, last = min(prompts), max(prompts)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return first[: min(shared, min(map(len, prompts)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chosen:
    """A model that held parity."""

    attempt: Attempt
    model: Prefill
    parity: LabelParity
    golden: Array
    """What it says of the made-up calls, [calls, classes]."""
    test: Array
    refused: tuple[LabelParity, ...]
    """What did not hold."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    """The steps of an export, and what they share."""

    adapter: AdapterFolder
    hierarchy: Hierarchy
    data: ExportData
    options: ExportOptions
    golden: list[tuple[Prompt, tuple[float, ...]]]
    """Made-up calls' prompts with the logits that they had in training."""
    folder: Path
    report: Report
    tell: Callable[[Text], None]
    convert: Convert
    score: Score

    def choose(self, machine: Machine) -> _Chosen:
        """Return the first form that holds parity."""
        reference = self.made(Attempt(scheme=PrefillScheme.BF16), (0.0, 0.08))
        golden, test = self.judged(reference, (0.08, 0.25))
        self.check_golden(golden)
        forms = ladder(
            self.options.scheme, reference.spec.num_layers, has_int8=bool(_INT8 & set(machine.processor.isa))
        )
        refused: list[LabelParity] = []
        for number, attempt in enumerate(forms):
            begin, width = 0.25 + 0.55 * number / len(forms), 0.55 / len(forms)
            model, said = reference, (golden, test)
            if attempt.scheme is not PrefillScheme.BF16:
                model = self.made(attempt, (begin, begin + width / 3))
                said = self.judged(model, (begin + width / 3, begin + width))
            parity = self.parity(attempt, test, said[1])
            try:
                hold(parity, least_agreement=self.options.least_agreement, most_f1_loss=self.options.most_f1_loss)
            except ParityError as error:
                if number == len(forms) - 1:
                    raise
                self.tell(say("{reason} The next form is tried.", reason=error.message))
                shutil.rmtree(model.folder)
                refused.append(parity)
                continue
            self.tell(
                say(
                    "{form} chooses the class that bf16 chooses for {agreement:.2%} of {calls} calls.",
                    form=attempt.name,
                    agreement=parity.agreement,
                    calls=parity.num_calls,
                )
            )
            return _Chosen(
                attempt=attempt, model=model, parity=parity, golden=said[0], test=said[1], refused=tuple(refused)
            )
        raise AssertionError(forms)

    def made(self, attempt: Attempt, share: tuple[float, float]) -> Prefill:
        """Make one form of the model."""
        request = request_of(self.adapter, self.options, attempt, [prompt for prompt, _ in self.golden], self.data)
        return self.convert(request, self.folder / attempt.name.replace(" ", "-"), _stage(self.report, *share))

    def judged(self, model: Prefill, share: tuple[float, float]) -> tuple[Array, Array]:
        """Return what a model says of the made-up calls and of the test's."""
        prompts = [*(prompt for prompt, _ in self.golden), *_prompts(self.data.test)]
        found = self.score(model.folder, prompts, self.adapter.token_ids, _stage(self.report, *share))
        return found[: len(self.golden)], found[len(self.golden) :]

    def scored(self, folder: Path, calls: EncodedCalls, share: tuple[float, float]) -> Array:
        """Return what a model says of some calls."""
        return self.score(folder, _prompts(calls), self.adapter.token_ids, _stage(self.report, *share))

    def parity(self, attempt: Attempt, reference: Array, candidate: Array) -> LabelParity:
        """Compare what the reference and one form say of the test calls."""
        test = self.data.test
        truth = [self.hierarchy.leaves[label] for label in test.labels]
        names = (PrefillScheme.BF16.value, attempt.name)
        return judge(reference, candidate, truth=truth, classes=self.hierarchy.leaves, ids=test.ids, names=names)

    def answers(self, calls: EncodedCalls, probabilities: Array) -> Answers:
        """Return what a model said of some calls with their classes and customers."""
        leaves = self.hierarchy.leaves
        truth = [leaves[label] for label in calls.labels]
        customers = [self.data.customers.get(name, "") for name in calls.ids]
        return answers_of(truth, probabilities, leaves, groups=customers)

    def check_golden(self, said: Array) -> None:
        """Refuse a graph that is not the trained model's."""
        trained = softmax(np.array([logits for _, logits in self.golden], dtype=np.float64))
        away = float(np.abs(said - trained).max())
        if not away <= MOST_AWAY:
            raise ParityError(
                say(
                    "The exported model does not say of made-up calls what the trained one said: a probability differs "
                    "by {away:.2f}.",
                    away=away,
                ),
                hint=say("Check that checkpoint and adapter belong together; train the adapter again."),
            )


def request_of(
    adapter: AdapterFolder,
    options: ExportOptions,
    attempt: Attempt,
    golden: Sequence[Prompt],
    data: ExportData,
) -> PrefillRequest:
    """Return what to convert for one form."""
    quantised = attempt.scheme is PrefillScheme.W8A8
    prefix = common_prefix(golden)
    return PrefillRequest(
        source=options.base,
        adapter=adapter.folder,
        label_ids=adapter.token_ids,
        scheme=attempt.scheme,
        rows=adapter.folder / HEAD_ROWS if adapter.head_trained else None,
        prefix=prefix if quantised or len(prefix) >= WORTH_TOKENS else (),
        calibration=watched(data.train, options.seed) if quantised else (),
        kept_layers=attempt.kept_layers,
    )


def watched(calls: EncodedCalls, seed: int, *, count: int = WATCHED_CALLS) -> tuple[Prompt, ...]:
    """Return the prompts that activations are watched on, drawn by chance out of some calls."""
    order = np.random.default_rng(seed).permutation(len(calls))[:count]
    return tuple(tuple(calls.prompt(int(place)).tolist()) for place in np.sort(order))


def _finish(work: _Work, folder: Path, chosen: _Chosen, meaning: Meaning, now: Callable[[], datetime]) -> Exported:
    """Judge the calibrated classifier on the test calls, and write everything beside the model."""
    said = work.answers(work.data.test, scale(logits_of(chosen.test), meaning.calibration.scaling))
    customers = [work.data.customers.get(name, "") for name in work.data.test.ids]
    evaluation = evaluate(
        [said.classes[place] for place in said.truth],
        said.probabilities,
        said.classes,
        groups=customers,
        parents=work.hierarchy.parent_of,
        seed=work.options.seed,
    )
    filed = measure(said, work.hierarchy, meaning.thresholds)
    manifest = work.adapter.manifest
    shutil.copyfile(work.adapter.folder / TAXONOMY, folder / TAXONOMY)
    prompt = manifest["prompt"]
    told = {
        PROMPT: {
            "budget_tokens": prompt["budget_tokens"],
            "legend": prompt["legend"],
            "hash": prompt["sha256"],
            "fingerprint": prompt["fingerprint"],
        },
        CALIBRATION: to_plain(meaning.calibration),
        THRESHOLDS: to_plain(meaning.thresholds),
        CONFORMAL: to_plain(meaning.conformal),
        PARITY: {**parity_data(chosen.parity), "refused": [parity_data(each) for each in chosen.refused]},
        METRICS: {
            "training": manifest["metrics"],
            "test": to_plain(evaluation),
            "filed": to_plain(filed),
            "trial": verdict_beside(work.adapter.folder),
        },
    }
    for name, data in told.items():
        _write(folder / name, data)
    _write(folder / MANIFEST, _manifest(work, folder, chosen, now))
    return Exported(
        folder=folder,
        scheme=chosen.attempt.scheme,
        parity=chosen.parity,
        macro_f1=evaluation.leaves.macro_f1.value,
        filed=filed,
    )


def _manifest(work: _Work, folder: Path, chosen: _Chosen, now: Callable[[], datetime]) -> dict[str, Any]:
    adapter, data, machine = work.adapter.manifest, work.data, detect_machine()
    options = {name: value for name, value in asdict(work.options).items() if name not in {"base", "out"}}
    return {
        "schema": SCHEMA,
        "created_at": now().isoformat(timespec="seconds"),
        "taxonomy": adapter["taxonomy"],
        "redaction": "+".join(each for each in adapter["redaction"] if each),
        "prompt": adapter["prompt"],
        "head": adapter["head"],
        "base": adapter["base"],
        "adapter": {
            "sha256": file_sha256(work.adapter.folder / MANIFEST),
            **{name: adapter[name] for name in ("created_at", "lora", "seed") if name in adapter},
        },
        "scheme": chosen.attempt.scheme.value,
        "kept_layers": list(chosen.attempt.kept_layers),
        "prefix_tokens": len(chosen.model.prefix),
        "data": {
            "sources": {**adapter["data"].get("sources", {}), **data.sources},
            "train": adapter["data"]["train"],
            "val": {"calls": len(data.val), "sha256": data.val.sha256()},
            "test": {"calls": len(data.test), "sha256": data.test.sha256()},
        },
        "options": options,
        "machine": {"processor": machine.processor.model, "cores": machine.usable_cores.value},
        "made_with": chosen.model.facts["made_with"],
        "files": hashes_of(folder),
    }


def _check(adapter: AdapterFolder, taxonomy: Taxonomy, options: ExportOptions) -> None:
    """Refuse an adapter that does not belong to the checkpoint, or was trained on prompts of another form."""
    try:
        base, prompt = adapter.manifest["base"]["sha256"], adapter.manifest["prompt"]
        budget_tokens, legend = int(prompt["budget_tokens"]), str(prompt["legend"])
        known = (str(prompt["sha256"]), str(prompt["fingerprint"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _unfit(say("its manifest is incomplete ({reason})", reason=repr(error))) from error
    if taxonomy.leaves != adapter.leaves:
        raise _unfit(say("its taxonomy has other classes than its head"))
    if open_checkpoint(options.base).sha256() != base:
        raise _unfit(say("it was trained on another model than the one in {folder}", folder=str(options.base)))
    tokenizer = open_tokenizer(options.base)
    ours = (
        prompt_hash(budget_tokens=budget_tokens, legend=legend),
        fingerprint(tokenizer, budget_tokens=budget_tokens, legend=legend),
    )
    if ours != known:
        raise _unfit(say("it was trained on prompts of another form than this version of qwenops makes"))


def _unfit(what: Text) -> ModelLoadError:
    return ModelLoadError(
        say("The adapter cannot be exported: {what}.", what=what),
        hint=say("Give the checkpoint that it was trained on, or train it again."),
    )


def _check_data(data: ExportData) -> None:
    parts = {"train": data.train, "val": data.val, "test": data.test}
    seen: dict[str, str] = {}
    for name, calls in parts.items():
        if not len(calls):
            raise InvalidDataError(
                say("There is no call to use as {part}.", part=name),
                hint=say("Split the calls into train, val and test with `qwenops calls split`."),
            )
        for call in calls.ids:
            if call in seen:
                raise InvalidDataError(
                    say("The call {call} is in {part} and in {other}.", call=call, part=seen[call], other=name),
                    hint=say("Split the calls anew with `qwenops calls split`."),
                )
            seen[call] = name


def _prompts(calls: EncodedCalls) -> list[Prompt]:
    return [tuple(calls.prompt(place).tolist()) for place in range(len(calls))]


def _stage(report: Report, begin: float, end: float) -> Report:
    """Return what tells of a part of the work as of the whole."""
    return lambda fraction, doing: report(begin + (end - begin) * fraction, doing)


def _write(path: Path, data: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n")


async def _scored(folder: Path, prompts: Sequence[Prompt], label_ids: Sequence[int], report: Report) -> Array:
    longest = max(len(prompt) for prompt in prompts)
    options = EngineOptions(max_batched_tokens=BATCH_TOKENS, context_tokens=max(LEAST_CONTEXT, longest))
    found: list[tuple[float, ...]] = []
    async with await open_scorer(folder, options) as scorer:
        for begin in range(0, len(prompts), AT_ONCE):
            some = [Tokens(ids=ids) for ids in prompts[begin : begin + AT_ONCE]]
            found += await scorer.score(some, label_ids)
            doing = say("Scoring calls: {done} of {total}", done=len(found), total=len(prompts))
            report(len(found) / len(prompts), doing)
    return np.array(found, dtype=np.float64)
