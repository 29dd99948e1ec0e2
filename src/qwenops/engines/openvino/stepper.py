"""The paged engine inside its own process: requests in, pieces of answers out, one step at a time.

`PagedStepper` joins what the other modules do: the scheduler decides what a step computes, the runner computes it, the
samplers choose from the rows, each answer turns its token into text. `open_stepper` sets all of it up from options and
from what this machine is.
"""

import os
import secrets
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from qwenops.engines.openvino.answers import Answer
from qwenops.engines.openvino.blocks import BLOCK_TOKENS
from qwenops.engines.openvino.forms import Forms, open_forms
from qwenops.engines.openvino.paged import KEPT_KERNELS, CompileOptions
from qwenops.engines.openvino.runner import Runner
from qwenops.engines.openvino.sampling import Row, choose, label_probabilities
from qwenops.engines.openvino.scheduler import Piece, Scheduler, SchedulerOptions, Step, Tracked
from qwenops.engines.openvino.sizing import forms_that_fit, kv_choices, mixed_tokens, plan_blocks
from qwenops.engines.openvino.structure import Grammars
from qwenops.engines.options import EngineOptions
from qwenops.engines.rate import Rate
from qwenops.engines.steploop import Event, Scores, resident_bytes
from qwenops.errors import EngineError, InvalidRequestError, PromptTooLongError
from qwenops.generation import GenerationRequest, SamplingParams, Tokens
from qwenops.hardware.allocator import forget_file, give_memory_back
from qwenops.hardware.machine import Machine, detect_machine, plan_environment, plan_threads
from qwenops.hardware.reasoned import Reasoned
from qwenops.models.artefact import Artefact, open_artefact
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from qwenops.text import say

LEAST_LABELS = 2


class _Scoring:
    """A call for scores: its prompts are sequences like any other."""

    __slots__ = ("found", "labels", "name", "sequences")

    def __init__(self, name: str, labels: tuple[int, ...], num_prompts: int) -> None:
        self.name = name
        self.labels = labels
        self.sequences = [f"\0{name}:{at}" for at in range(num_prompts)]
        self.found: dict[str, tuple[float, ...]] = {}

    @property
    def scores(self) -> Scores | None:
        """Return the scores in the order of the prompts; None while one is missing."""
        if len(self.found) < len(self.sequences):
            return None
        return tuple(self.found[name] for name in self.sequences)


class PagedStepper:
    """Answers requests and scores labels, one step of all running sequences after the other.

    Args:
        runner: Computes.
        scheduler: Decides.
        tokenizer: Of the model.
        grammars: Compiles the forms of structured answers.
        artefact: The model.
        context_tokens: Longest prompt and answer together.
        facts: What `facts` returns.
        clock: Seconds that never go back.
        entropy: Where seeds come from.
    """

    def __init__(  # noqa: PLR0913 -- everything comes together here
        self,
        *,
        runner: Runner,
        scheduler: Scheduler,
        tokenizer: Tokenizer,
        grammars: Grammars,
        artefact: Artefact,
        context_tokens: int,
        facts: Mapping[str, Any],
        clock: Callable[[], float] = time.perf_counter,
        entropy: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        """Take everything over; nothing is computed yet."""
        self._runner: Runner | None = runner
        self.scheduler = scheduler
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._vocab_size = artefact.spec.vocab_size
        self._eos = frozenset(artefact.spec.eos_token_ids) | frozenset(tokenizer.eos_token_ids)
        self._context_tokens = context_tokens
        self._facts = facts
        self._clock = clock
        self._entropy = entropy
        self._answers: dict[str, Answer] = {}
        self._scorings: dict[str, _Scoring] = {}
        """Calls for scores by their name."""
        self._scored: dict[str, _Scoring] = {}
        """To which of them a sequence belongs."""
        self._ready: list[Event] = []
        self._prefill_rate = Rate()
        self._decode_rate = Rate()

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do or to return."""
        return self.scheduler.has_work or bool(self._ready)

    def facts(self) -> Mapping[str, Any]:
        """Return what does not change."""
        return self._facts

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: It can never be answered.
            PromptTooLongError: The prompt fits neither the context nor the cache.
        """
        if not isinstance(request.prompt, Tokens):
            raise InvalidRequestError(
                say("This engine takes tokens, not messages."), hint=say("Render the conversation."), param="prompt"
            )
        if request.id in self._answers or request.id in self._scorings:
            raise InvalidRequestError(say("A request {id!r} is in flight already.", id=request.id), param="id")
        self._check_sampling(request.sampling)
        room = self._check_prompt(request.prompt.ids)
        sequence = Tracked(
            request.id,
            request.prompt.ids,
            max_new_tokens=min(request.sampling.max_tokens, room),
            namespace=request.namespace,
        )
        structure = request.sampling.structure
        grammar = self._grammars.compile(structure) if structure is not None else None
        answer = Answer(request, sequence, self._tokenizer, self._eos, grammar, self._entropy)
        self.scheduler.add(sequence)
        self._answers[request.id] = answer

    def submit_score(self, name: str, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> None:
        """Queue prompts whose labels are scored; they share beginnings and steps with everything else.

        Raises:
            InvalidRequestError: A label is not exactly one token of the vocabulary, or there are fewer than two.
            PromptTooLongError: A prompt does not fit.
        """
        if name in self._answers or name in self._scorings:
            raise InvalidRequestError(say("A request {id!r} is in flight already.", id=name), param="id")
        labels = self._check_labels(label_ids)
        for prompt in prompts:
            self._check_prompt(prompt.ids)
        self._add_scoring(_Scoring(name, labels, len(prompts)), [prompt.ids for prompt in prompts])

    def cancel(self, name: str) -> None:
        """Forget a request or a call for scores and free all it held; an unknown name is no error."""
        if self._answers.pop(name, None) is not None:
            self.scheduler.finish(name)
        if name in self._scorings:
            self._drop_scoring(self._scorings[name])
        self._ready = [event for event in self._ready if event[0] != name]

    def step(self) -> list[Event]:
        """Compute once; return the new pieces by request, and the scores of each call that is complete.

        A failure is the last piece of its request.
        """
        if self.scheduler.has_work:
            self._compute()
        events, self._ready = self._ready, []
        return events

    def stats(self) -> dict[str, Any]:
        """Count what runs, waits and is used."""
        scheduler = self.scheduler
        return {
            "running": scheduler.num_running,
            "waiting": scheduler.num_waiting,
            "kv_used_ratio": scheduler.pool.num_used / scheduler.pool.num_blocks,
            "preemptions": scheduler.num_preemptions,
            "cached_prompt_tokens": scheduler.cached_prompt_tokens,
            "prefill_tokens_per_s": self._prefill_rate.per_s,
            "decode_tokens_per_s": self._decode_rate.per_s,
        }

    def close(self) -> None:
        """Drop the model and the cache."""
        for name in tuple(self.scheduler.sequences):
            self.scheduler.finish(name)
        self._answers.clear()
        self._scorings.clear()
        self._scored.clear()
        self._ready.clear()
        self._runner = None

    def warm_up(self, num_tokens: int) -> None:
        """Compute a prompt as long as a step may be, so that the first request finds everything allocated."""
        size = min(num_tokens, self.scheduler.capacity_tokens, self._context_tokens - 1)
        warm = _Scoring("\0warm", (0, 1), 1)
        self._add_scoring(warm, [[11 + 37 * each % 997 for each in range(size)]], namespace=warm.name)
        try:
            while warm.name in self._scorings:
                self._compute()
        finally:
            self.cancel(warm.name)
        self._prefill_rate, self._decode_rate = Rate(), Rate()

    # -- one step --------------------------------------------------------------------------------------------------

    def _compute(self) -> None:
        step = self.scheduler.plan()
        if step is None or self._runner is None:
            raise EngineError(say("There is work, but no step to compute."), hint=say("Restart the engine."))
        begun_s = self._clock()
        rows = self._runner.run(step.pieces)
        wanted = [piece for piece in step.pieces if piece.wants_row]
        tokens = self._take_rows(rows, wanted)
        self.scheduler.commit(step, {name: token for name, token in tokens.items() if token is not None})
        for name, token in tokens.items():
            if token is None:
                self._answers.pop(name, None)
                self.scheduler.finish(name)
        self._count(step, self._clock() - begun_s)

    def _take_rows(self, rows: Row, wanted: Sequence[Piece]) -> dict[str, int | None]:
        """Choose from each row; return the next token of each sequence, None where it ends here."""
        answering = [at for at, piece in enumerate(wanted) if piece.sequence.id in self._answers]
        tokens: dict[str, int | None] = {}
        for row, piece in zip(rows, wanted, strict=True):
            if piece.sequence.id not in self._answers:
                self._take_score(piece.sequence.id, row)
                tokens[piece.sequence.id] = None
        if not answering:
            return tokens
        answers = [self._answers[wanted[at].sequence.id] for at in answering]
        mine = rows if len(answering) == len(wanted) else rows[answering]
        for answer, chosen in zip(answers, choose(mine, [each.sampler for each in answers]), strict=True):
            name = answer.sequence.id
            try:
                if isinstance(chosen, EngineError):
                    raise chosen
                chunk = answer.push(chosen)
            except EngineError as error:
                self._ready.append((name, error))
                tokens[name] = None
            else:
                self._ready.append((name, chunk))
                tokens[name] = chosen.token_id if chunk.finish_reason is None else None
        return tokens

    def _add_scoring(self, scoring: _Scoring, prompts: Sequence[Sequence[int]], namespace: str = "") -> None:
        for name, ids in zip(scoring.sequences, prompts, strict=True):
            self.scheduler.add(Tracked(name, ids, max_new_tokens=0, namespace=namespace))
            self._scored[name] = scoring
        if prompts:
            self._scorings[scoring.name] = scoring
        else:
            self._ready.append((scoring.name, ()))

    def _take_score(self, name: str, row: Row) -> None:
        scoring = self._scored.get(name)
        if scoring is None:
            return  # another prompt of its call has just failed
        found: Scores | EngineError | None
        try:
            scoring.found[name] = label_probabilities(row, scoring.labels)
            found = scoring.scores
        except EngineError as error:
            found = error
        if found is not None:
            self._drop_scoring(scoring)
            self._ready.append((scoring.name, found))

    def _drop_scoring(self, scoring: _Scoring) -> None:
        del self._scorings[scoring.name]
        for name in scoring.sequences:
            del self._scored[name]
            self.scheduler.finish(name)

    def _count(self, step: Step, seconds: float) -> None:
        prompts = sum(piece.count for piece in step.pieces if piece.count > 1)
        if prompts:
            self._prefill_rate.add(prompts, seconds)
        else:
            self._decode_rate.add(step.num_tokens, seconds)

    # -- what can be answered --------------------------------------------------------------------------------------

    def _check_prompt(self, ids: Sequence[int]) -> int:
        """Return how many tokens may follow."""
        if not ids:
            raise InvalidRequestError(say("The prompt is empty."), hint=say("Send at least one token."), param="prompt")
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise InvalidRequestError(
                say("The prompt holds a token outside the vocabulary of {size}.", size=self._vocab_size),
                hint=say("Encode it with this model's tokenizer."),
                param="prompt",
            )
        limit = min(self._context_tokens, self.scheduler.capacity_tokens)
        if len(ids) >= limit:
            raise PromptTooLongError(
                say(
                    "The prompt has {tokens} tokens; prompt and answer together may have {limit}.",
                    tokens=len(ids),
                    limit=limit,
                ),
                hint=say("Shorten the prompt, or raise context_tokens or kv_cache_bytes."),
                param="prompt",
            )
        return limit - len(ids)

    def _check_sampling(self, sampling: SamplingParams) -> None:
        problems: Mapping[str, bool] = {
            "max_tokens": sampling.max_tokens < 1,
            "temperature": not 0 <= sampling.temperature <= 100,  # noqa: PLR2004 -- beyond it nothing changes
            "top_p": not 0 <= sampling.top_p <= 1,
            "top_k": sampling.top_k < 0,
            "min_p": not 0 <= sampling.min_p <= 1,
            "repetition_penalty": not 0 < sampling.repetition_penalty < float("inf"),
            "logprobs": sampling.logprobs is not None and not 0 <= sampling.logprobs <= self._vocab_size,
            "logit_bias": any(not 0 <= token < self._vocab_size for token, _ in sampling.logit_bias),
        }
        for name, is_wrong in problems.items():
            if is_wrong:
                raise InvalidRequestError(
                    say("{name} has the value {value!r}.", name=name, value=getattr(sampling, name)),
                    hint=say("See the reference for what is possible."),
                    param=name,
                )

    def _check_labels(self, label_ids: Sequence[int]) -> tuple[int, ...]:
        labels = tuple(label_ids)
        is_choice = len(labels) == len(set(labels)) >= LEAST_LABELS
        if not is_choice or not all(0 <= each < self._vocab_size for each in labels):
            raise InvalidRequestError(
                say("The labels {labels} are not two or more different tokens of the vocabulary.", labels=list(labels)),
                hint=say("Give two or more different token ids."),
                param="labels",
            )
        return labels


def open_stepper(
    options: EngineOptions,
    report: Callable[[float, str], None],
    *,
    environ: MutableMapping[str, str] = os.environ,
) -> PagedStepper:
    """Load, compile, check and warm up, in a process that has not imported OpenVINO yet.

    Raises:
        ConfigError: The options contradict each other or this processor.
        ModelLoadError: The model's files cannot be used.
        InsufficientMemoryError: The model does not fit.
    """
    report(0.0, say("Opening the model's files."))
    artefact = open_artefact(options.model_dir)
    machine = detect_machine()
    room_for = forms_that_fit(artefact, options, machine)
    choices = kv_choices(artefact, options, machine)
    threads = _threads(options, machine)
    environment = plan_environment(machine, threads.value)
    environ.update(environment.value)
    for name, kept in KEPT_KERNELS.items():
        environ.setdefault(name, kept)  # whoever sets it has a reason
    tokenizer = open_tokenizer(artefact.folder)
    forms = open_forms(
        CompileOptions(
            model_xml=artefact.model_xml,
            threads=threads.value,
            kv_precision=choices[0],
            dynamic_quantization=options.dynamic_quantization,
        ),
        prefill=options.prefill_precision,
        decode=options.decode_precision,
        kv_choices=choices,
        room_for=room_for,
        report=report,
    )
    context_tokens = min(options.context_tokens, artefact.spec.max_context_tokens)
    blocks = plan_blocks(
        options,
        context_tokens=context_tokens,
        block_bytes=forms.prefill.layout.block_bytes,
        limit_bytes=machine.memory_limit.value,
        used_bytes=resident_bytes(),
    )
    context_tokens = min(context_tokens, blocks.value * BLOCK_TOKENS)
    notes = {
        "threads": threads.reason,
        "isa": environment.reason,
        "arithmetic": forms.reason,
        "kv_cache": blocks.reason,
        "kv_precision": forms.kv_reason or forms.kv_precision,
    }
    stepper = _joined(options, artefact, tokenizer, forms, blocks.value, context_tokens, threads.value, notes)
    report(0.9, say("Warming up."))
    stepper.warm_up(options.max_batched_tokens)
    give_memory_back()
    forget_file(artefact.model_xml.with_suffix(".bin"))
    report(1.0, say("Ready."))
    return stepper


def _joined(
    options: EngineOptions,
    artefact: Artefact,
    tokenizer: Tokenizer,
    forms: Forms,
    num_blocks: int,
    context_tokens: int,
    threads: int,
    notes: Mapping[str, str],
) -> PagedStepper:
    import openvino

    scheduler = Scheduler(
        SchedulerOptions(
            num_blocks=num_blocks,
            max_running=options.max_running,
            max_batched_tokens=options.max_batched_tokens,
            max_mixed_tokens=mixed_tokens(forms.prompt_tokens_per_s, options.max_batched_tokens),
            prefix_cache=options.prefix_cache,
        )
    )
    runner = Runner(
        forms.prefill,
        forms.decode,
        decode_up_to=forms.decode_up_to,
        num_blocks=num_blocks,
        context_tokens=context_tokens,
        max_tokens=options.max_batched_tokens,
        max_sequences=options.max_running,
    )
    facts = {
        "accepts": "tokens",
        "context_tokens": context_tokens,
        "model_context_tokens": artefact.spec.max_context_tokens,
        "sha256": artefact.sha256,
        "quantization": artefact.scheme.value,
        "version": openvino.__version__.partition("-")[0],
        "max_running": options.max_running,
        "kv_capacity_tokens": scheduler.capacity_tokens,
        "kv_cache_bytes": num_blocks * forms.prefill.layout.block_bytes,
        "logprobs": True,
        "structure": True,
        "threads": threads,
        "notes": dict(notes),
    }
    return PagedStepper(
        runner=runner,
        scheduler=scheduler,
        tokenizer=tokenizer,
        grammars=Grammars(
            artefact.folder / "tokenizer.json", artefact.spec.vocab_size, tuple(artefact.spec.eos_token_ids)
        ),
        artefact=artefact,
        context_tokens=context_tokens,
        facts=facts,
    )


def _threads(options: EngineOptions, machine: Machine) -> Reasoned[int]:
    planned = plan_threads(machine)
    if not options.threads:
        return planned
    usable = machine.usable_cores.value
    if options.threads > usable:
        return replace(
            planned,
            reason=say(
                "The options ask for {asked} threads; more than cores only wait for each other. {reason}",
                asked=options.threads,
                reason=planned.reason,
            ),
        )
    return Reasoned(value=options.threads, reason=say("The options say so."))
