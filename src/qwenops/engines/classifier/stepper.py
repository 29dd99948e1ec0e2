"""The classifier inside its own process: prompts in, probabilities of labels out, one batch at a time.

A step computes one batch, out of all calls that wait (`batching`). A prompt that begins with the model's prefix is
computed without it; one that does not is refused, for the graph can start nowhere else.
"""

import os
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenops.engines.classifier.batching import choose, padded
from qwenops.engines.classifier.compiled import (
    ABSURD,
    CompileOptions,
    Graph,
    choose_group,
    choose_precision,
    compile_graph,
    golden_difference,
    probabilities,
)
from qwenops.engines.options import EngineOptions
from qwenops.engines.rate import Rate
from qwenops.engines.steploop import Event, Scores
from qwenops.errors import (
    EngineError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelLoadError,
    PromptTooLongError,
)
from qwenops.generation import GenerationRequest, Tokens
from qwenops.hardware.allocator import forget_file, give_memory_back
from qwenops.hardware.machine import Machine, detect_machine, plan_environment, plan_threads
from qwenops.models.artefact import MODEL_BIN
from qwenops.models.prefill import Prefill, open_prefill
from qwenops.text import Report, say

LEAST_LABELS = 2
WARM_TOKENS = 64


@dataclass(slots=True, kw_only=True)
class _Scoring:
    """A call for scores while it is answered."""

    columns: list[int]
    """Which of the graph's labels are asked for, in the order asked."""
    found: list[tuple[float, ...] | None] = field(default_factory=list)

    @property
    def scores(self) -> Scores | None:
        """The scores in the order of the prompts; None while one is missing."""
        complete = tuple(each for each in self.found if each is not None)
        return complete if len(complete) == len(self.found) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A prompt that is not computed yet, without the prefix."""

    name: str
    """Of the call."""
    place: int
    ids: tuple[int, ...]


class ScoringStepper:
    """Scores labels, one batch of waiting prompts after the other.

    Args:
        graph: Computes.
        context_tokens: Longest prompt.
        batch_tokens: Most tokens of a batch, padding included.
        facts: What `facts` returns.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        context_tokens: int,
        batch_tokens: int,
        facts: Mapping[str, Any],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take everything over; nothing is computed yet."""
        self._graph: Graph | None = graph
        self._prefix = graph.prefill.prefix
        self._vocab_size = graph.prefill.spec.vocab_size
        self._columns = {label: column for column, label in enumerate(graph.prefill.label_ids)}
        self._context_tokens = context_tokens
        self._batch_tokens = batch_tokens
        self._facts = facts
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._scorings: dict[str, _Scoring] = {}
        self._ready: list[Event] = []
        self._rate = Rate()
        self._prefix_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do or to return."""
        return bool(self._waiting or self._ready)

    def facts(self) -> Mapping[str, Any]:
        """Return what does not change."""
        return self._facts

    def submit(self, request: GenerationRequest) -> None:  # noqa: ARG002 -- the seam names it
        """Refuse: this model says which label, and writes nothing.

        Raises:
            InvalidRequestError: Always.
        """
        raise InvalidRequestError(
            say("This model scores labels and writes no answers."),
            hint=say("Ask it for scores, or serve a model that writes with the engine openvino."),
            param="prompt",
        )

    def submit_score(self, name: str, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> None:
        """Queue prompts whose labels are scored.

        Raises:
            InvalidRequestError: A label is none of this model's, there are fewer than two, or a prompt does not begin
                as this model's do.
            PromptTooLongError: A prompt does not fit.
        """
        if name in self._scorings:
            raise InvalidRequestError(say("A request {id!r} is in flight already.", id=name), param="id")
        columns = self._columns_of(label_ids)
        queued = [
            _Waiting(name=name, place=place, ids=self._checked(prompt.ids)) for place, prompt in enumerate(prompts)
        ]
        if not queued:
            self._ready.append((name, ()))
            return
        self._waiting += queued
        self._scorings[name] = _Scoring(columns=columns, found=[None] * len(queued))

    def cancel(self, name: str) -> None:
        """Forget a call for scores; an unknown name is no error."""
        if self._scorings.pop(name, None) is not None:
            self._waiting = [each for each in self._waiting if each.name != name]
        self._ready = [event for event in self._ready if event[0] != name]

    def step(self) -> list[Event]:
        """Compute one batch; return the scores of each call that is complete. A failure is a call's last event."""
        if self._waiting:
            self._compute()
        events, self._ready = self._ready, []
        return events

    def stats(self) -> Mapping[str, Any]:
        """Count what waits and how fast it goes."""
        return {
            "running": 0,
            "waiting": len(self._scorings),
            "cached_prompt_tokens": self._prefix_tokens,
            "prefill_tokens_per_s": self._rate.per_s,
        }

    def close(self) -> None:
        """Drop the model."""
        self._waiting.clear()
        self._scorings.clear()
        self._ready.clear()
        self._graph = None

    def warm_up(self) -> None:
        """Compute a batch as large as there may be, so that the first request finds everything allocated."""
        length = min(WARM_TOKENS, self._context_tokens - len(self._prefix))
        count = max(1, self._batch_tokens // padded(length))
        if self._graph is not None:
            self._graph.logits([[11 + 37 * each % 997 for each in range(length)]] * count)

    def _compute(self) -> None:
        if self._graph is None:
            raise EngineError(say("The engine is closed."))
        chosen = choose([len(each.ids) for each in self._waiting], self._batch_tokens)
        batch = [self._waiting[at] for at in chosen]
        taken = set(chosen)
        self._waiting = [each for at, each in enumerate(self._waiting) if at not in taken]
        begun_s = self._clock()
        try:
            logits = self._graph.logits([each.ids for each in batch])
        except EngineError as error:
            for name in {each.name for each in batch}:
                self.cancel(name)
                self._ready.append((name, error))
            return
        self._rate.add(sum(len(each.ids) for each in batch), self._clock() - begun_s)
        self._prefix_tokens += len(self._prefix) * len(batch)
        self._take(batch, logits)

    def _take(self, batch: Sequence[_Waiting], logits: NDArray[np.float32]) -> None:
        for row, each in zip(logits, batch, strict=True):
            scoring = self._scorings[each.name]
            scoring.found[each.place] = tuple(probabilities(row[None, scoring.columns])[0].tolist())
            if (scores := scoring.scores) is not None:
                del self._scorings[each.name]
                self._ready.append((each.name, scores))

    def _columns_of(self, label_ids: Sequence[int]) -> list[int]:
        if not len(label_ids) == len(set(label_ids)) >= LEAST_LABELS or not self._columns.keys() >= set(label_ids):
            raise InvalidRequestError(
                say("The labels {labels} are not two or more different labels of this model.", labels=list(label_ids)),
                hint=say("This model knows the tokens {known}.", known=", ".join(map(str, self._columns))),
                param="labels",
            )
        return [self._columns[label] for label in label_ids]

    def _checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return a prompt without the prefix."""
        if not ids:
            raise InvalidRequestError(say("The prompt is empty."), hint=say("Send at least one token."), param="prompt")
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise InvalidRequestError(
                say("The prompt holds a token outside the vocabulary of {size}.", size=self._vocab_size),
                hint=say("Encode it with this model's tokenizer."),
                param="prompt",
            )
        if len(ids) > self._context_tokens:
            raise PromptTooLongError(
                say(
                    "The prompt has {tokens} tokens; it may have {limit}.",
                    tokens=len(ids),
                    limit=self._context_tokens,
                ),
                hint=say("Shorten the prompt, or raise context_tokens."),
                param="prompt",
            )
        num = len(self._prefix)
        if tuple(ids[:num]) != self._prefix or len(ids) == num:
            raise InvalidRequestError(
                say("The prompt does not begin as this model's prompts do."),
                hint=say("Ask in the form in which it was taught: with the prompt of the same artefact."),
                param="prompt",
            )
        return tuple(ids[num:])


def open_stepper(
    options: EngineOptions, report: Report, *, environ: MutableMapping[str, str] = os.environ
) -> ScoringStepper:
    """Load, compile, check and warm up, in a process that has not imported OpenVINO yet.

    Raises:
        ModelLoadError: The model's files cannot be used, or compute nonsense on this processor.
        InsufficientMemoryError: The model does not fit.
    """
    report(0.0, say("Opening the model's files."))
    prefill = open_prefill(options.model_dir)
    machine = detect_machine()
    _check_memory(prefill, options, machine)
    threads = plan_threads(machine)
    if options.threads and options.threads <= machine.usable_cores.value:
        threads = replace(threads, value=options.threads, reason=say("The options say so."))
    environment = plan_environment(machine, threads.value)
    environ.update(environment.value)
    report(0.1, say("Compiling the model."))
    has_amx = "amx_int8" in machine.processor.isa and not environment.value  # which leaves AMX out
    graph, arithmetic = _compiled(prefill, options, machine, threads.value, has_amx=has_amx)
    context_tokens = min(options.context_tokens, prefill.spec.max_context_tokens)
    stepper = ScoringStepper(
        graph,
        context_tokens=context_tokens,
        batch_tokens=options.max_batched_tokens,
        facts=_facts(
            prefill,
            graph,
            context_tokens,
            {"threads": threads.reason, "isa": environment.reason, "arithmetic": arithmetic},
        ),
    )
    report(0.8, say("Warming up."))
    stepper.warm_up()
    give_memory_back()
    forget_file(prefill.folder / MODEL_BIN)
    report(1.0, say("Ready."))
    return stepper


def _compiled(
    prefill: Prefill, options: EngineOptions, machine: Machine, threads: int, *, has_amx: bool
) -> tuple[Graph, str]:
    """Compile in the arithmetic that is wanted, and in float32 where that one fails the self-check."""
    has_bf16 = bool({"avx512_bf16", "amx_bf16"} & {*machine.processor.isa})
    precision = choose_precision(prefill, options.prefill_precision, has_bf16=has_bf16)
    whole = has_amx and precision.value == "bf16"  # what the fused feed-forward asks for
    group = choose_group(prefill, allowed=options.dynamic_quantization, has_amx=whole)
    wanted = CompileOptions(precision=precision.value, threads=threads, group=group)
    graph = compile_graph(prefill, wanted)
    away = golden_difference(graph)
    if away <= ABSURD:
        return graph, precision.reason
    if wanted.precision != "f32" and options.prefill_precision == "auto":
        plain = compile_graph(prefill, replace(wanted, precision="f32", group=0))
        if golden_difference(plain) <= ABSURD:
            return plain, say("bf16 gave nonsense in the self-check and is not used.")
    raise ModelLoadError(
        say(
            "The model does not say on this processor what it said when it was exported: a probability differs by "
            "{away:.2f}.",
            away=away,
        ),
        hint=say("Verify the model's files; export the model again on a machine of this kind."),
    )


def _check_memory(prefill: Prefill, options: EngineOptions, machine: Machine) -> None:
    needed, limit = prefill.memory_bytes(options.max_batched_tokens), machine.memory_limit.value
    if needed > limit:
        raise InsufficientMemoryError(
            say(
                "The model needs about {needed:.1f} GiB and {available:.1f} GiB may be used. {reason}",
                needed=needed / 2**30,
                available=limit / 2**30,
                reason=machine.memory_limit.reason,
            ),
            needed_bytes=needed,
            available_bytes=limit,
            hint=say("Export a smaller model or a smaller scheme (int8), or raise the memory limit."),
        )


def _facts(prefill: Prefill, graph: Graph, context_tokens: int, notes: Mapping[str, str]) -> dict[str, Any]:
    import openvino

    return {
        "accepts": "tokens",
        "context_tokens": context_tokens,
        "model_context_tokens": prefill.spec.max_context_tokens,
        "sha256": prefill.sha256,
        "quantization": prefill.scheme.value,
        "version": openvino.__version__.partition("-")[0],
        "max_running": 1,
        "logprobs": False,
        "structure": False,
        "threads": graph.options.threads,
        "notes": {
            **notes,
            "prefix": say("{tokens} tokens of every prompt are not computed.", tokens=len(prefill.prefix)),
        },
    }
