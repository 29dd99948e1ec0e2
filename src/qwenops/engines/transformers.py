"""The reference: the original checkpoint in torch and float32, one sequence after the other, with nothing clever.

It exists to compare with, in tests and wherever numbers of another engine are in doubt; it is slow on purpose. It is a
`Stepper` like any native engine and runs in the same kind of watched process. It needs the `train` extra.
"""

import importlib.util
import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.engines.options import EngineOptions
from qwenops.engines.steploop import Scores
from qwenops.engines.stopping import StopStrings
from qwenops.engines.worker import WorkerEngine, open_worker
from qwenops.errors import InvalidRequestError, MissingPartError, ModelLoadError, PromptTooLongError, QwenOpsError
from qwenops.generation import Chunk, FinishReason, GenerationRequest, SamplingParams, TokenLogprob, Tokens, Usage
from qwenops.hardware import detect_machine, plan_threads
from qwenops.models.checkpoint import open_checkpoint
from qwenops.models.spec import ModelSpec
from qwenops.models.tokenizer import Detokenizer, Tokenizer, open_tokenizer
from qwenops.text import Report, say

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


REQUIRES = ("torch", "transformers")
"""Packages that must be installed."""


async def open_engine(options: EngineOptions) -> WorkerEngine:
    """Start the reference engine's process; `options.model_dir` is a checkpoint as it was published.

    Raises:
        MissingPartError: torch or transformers is not installed.
    """
    check_installed()
    return await open_worker("qwenops.engines.transformers:open_stepper", options, name="transformers")


def check_installed() -> None:
    """Raise MissingPartError unless torch and transformers can be imported."""
    missing = [name for name in REQUIRES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPartError(
            say("The reference engine needs {missing}, which is not installed.", missing=" and ".join(missing)),
            hint=say("Install the train extra: pip install 'qwenops[train]'."),
        )


def open_stepper(options: EngineOptions, report: Report) -> "ReferenceStepper":
    """Load the checkpoint and its tokenizer."""
    check_installed()
    import torch

    torch.set_num_threads(options.threads or plan_threads(detect_machine()).value)
    spec = open_checkpoint(options.model_dir).spec
    report(0.1, say("Reading the tokenizer."))
    tokenizer = open_tokenizer(options.model_dir)
    report(0.3, say("Reading the weights."))
    return ReferenceStepper(load_model(options.model_dir), tokenizer, spec, options)


def load_model(folder: Path, weights: "Iterable[tuple[str, NDArray[np.float32]]] | None" = None) -> Any:
    """Load a checkpoint as a transformers model in float32.

    Args:
        folder: The checkpoint: config.json and safetensors.
        weights: Tensors by the checkpoint's names that take the place of its own, for example dequantised ones.

    Raises:
        ModelLoadError: The files cannot be used.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, attn_implementation="eager"
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelLoadError(
            say("transformers cannot load {folder}: {error}.", folder=str(folder), error=str(error)),
            hint=say("Give it the checkpoint as it was published, not a converted model."),
        ) from error
    if weights is not None:
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, values in weights:
                parameters[name].copy_(torch.from_numpy(values))
    return model.eval()


def teacher_forced_logits(model: Any, token_ids: Sequence[int]) -> "NDArray[np.float32]":
    """Return the logits after each token of a sequence: [len(token_ids), vocabulary]."""
    import torch

    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.tensor([list(token_ids)])).logits[0].float().numpy()
    return logits


@dataclass(slots=True)
class _Sequence:
    """One request while it is answered."""

    request: GenerationRequest
    prompt: tuple[int, ...]
    stops: StopStrings
    text: Detokenizer
    generator: "torch.Generator"
    ids: list[int] = field(default_factory=list)
    cache: Any = None


@dataclass(slots=True)
class _Scoring:
    """One call for scores while it is answered."""

    prompts: list[tuple[int, ...]]
    labels: list[int]
    found: list[tuple[float, ...]] = field(default_factory=list)


class ReferenceStepper:
    """Computes one token of each running sequence per step."""

    def __init__(self, model: Any, tokenizer: Tokenizer, spec: ModelSpec, options: EngineOptions) -> None:
        """Take over a loaded model."""
        self._model = model
        self._tokenizer = tokenizer
        self._spec = spec
        self._options = options
        self._context_tokens = min(options.context_tokens, spec.max_context_tokens)
        self._eos = frozenset(spec.eos_token_ids) | frozenset(tokenizer.eos_token_ids)
        self._sequences: dict[str, _Sequence] = {}
        self._scorings: dict[str, _Scoring] = {}

    @property
    def has_work(self) -> bool:
        """Whether any request is not answered yet."""
        return bool(self._sequences or self._scorings)

    def facts(self) -> dict[str, Any]:
        """Describe the engine."""
        import torch
        import transformers

        return {
            "accepts": "tokens",
            "context_tokens": self._context_tokens,
            "model_context_tokens": self._spec.max_context_tokens,
            "quantization": "f32",
            "version": transformers.__version__,
            "max_running": self._options.max_running,
            "logprobs": True,
            "threads": torch.get_num_threads(),
        }

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request."""
        import torch

        if not isinstance(request.prompt, Tokens):
            raise InvalidRequestError(say("This engine takes tokens, not messages."), param="prompt")
        if request.sampling.structure is not None:
            raise InvalidRequestError(
                say("The reference engine answers freely only."),
                hint=say("Use the engine openvino."),
                param="structure",
            )
        if request.sampling.max_tokens < 1:
            raise InvalidRequestError(say("max_tokens is below 1."), param="max_tokens")
        self._check_prompt(request.prompt)
        sampling = request.sampling
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        self._sequences[request.id] = _Sequence(
            request=request,
            prompt=request.prompt.ids,
            stops=StopStrings(sampling.stop, include=sampling.include_stop),
            text=Detokenizer(self._tokenizer),
            generator=torch.Generator().manual_seed(seed % 2**63),
        )

    def submit_score(self, name: str, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> None:
        """Queue prompts whose labels are scored."""
        labels = list(label_ids)
        if len(set(labels)) < 2 or not all(0 <= label < self._spec.vocab_size for label in labels):  # noqa: PLR2004 -- a choice
            raise InvalidRequestError(
                say("The labels {labels} are not two or more tokens of the vocabulary.", labels=labels),
                hint=say("Give two or more different token ids."),
                param="labels",
            )
        for prompt in prompts:
            self._check_prompt(prompt)
        self._scorings[name] = _Scoring(prompts=[prompt.ids for prompt in prompts], labels=labels)

    def cancel(self, name: str) -> None:
        """Forget a request or a call for scores."""
        self._sequences.pop(name, None)
        self._scorings.pop(name, None)

    def step(self) -> list[tuple[str, Chunk | Scores | QwenOpsError]]:
        """Compute the next token of each running sequence and the next prompt of each call for scores."""
        running = list(self._sequences.items())[: self._options.max_running]
        events: list[tuple[str, Chunk | Scores | QwenOpsError]] = [
            (name, self._next(name, sequence)) for name, sequence in running
        ]
        for name, scoring in list(self._scorings.items()):
            if len(scoring.found) < len(scoring.prompts):
                scoring.found.append(self._score(scoring))
            if len(scoring.found) == len(scoring.prompts):
                del self._scorings[name]
                events.append((name, tuple(scoring.found)))
        return events

    def _score(self, scoring: _Scoring) -> tuple[float, ...]:
        """Return the softmax over the labels' logits after the next prompt."""
        import torch

        prompt = scoring.prompts[len(scoring.found)]
        with torch.inference_mode():
            logits = self._model(torch.tensor([prompt]), logits_to_keep=1).logits[0, -1]
            return tuple(torch.softmax(logits[scoring.labels].double(), dim=0).tolist())

    def stats(self) -> dict[str, Any]:
        """Count what runs and waits."""
        running = min(len(self._sequences), self._options.max_running)
        return {"running": running, "waiting": len(self._sequences) - running}

    def close(self) -> None:
        """Drop the model."""
        self._sequences.clear()
        self._scorings.clear()
        self._model = None

    def _check_prompt(self, prompt: Tokens) -> None:
        if not prompt.ids:
            raise InvalidRequestError(say("The prompt is empty."), hint=say("Send at least one token."), param="prompt")
        if not all(0 <= token < self._spec.vocab_size for token in prompt.ids):
            raise InvalidRequestError(
                say("The prompt holds a token outside the vocabulary of {size}.", size=self._spec.vocab_size),
                param="prompt",
            )
        if len(prompt.ids) >= self._context_tokens:
            raise PromptTooLongError(
                say(
                    "The prompt has {tokens} tokens; prompt and answer together may have {limit}.",
                    tokens=len(prompt.ids),
                    limit=self._context_tokens,
                ),
                hint=say("Shorten the prompt."),
                param="prompt",
            )

    def _next(self, name: str, sequence: _Sequence) -> Chunk:
        """Compute one token and say what it means for the answer."""
        import torch

        new = sequence.ids[-1:] or sequence.prompt
        with torch.inference_mode():
            output = self._model(
                torch.tensor([list(new)]), past_key_values=sequence.cache, use_cache=True, logits_to_keep=1
            )
            sequence.cache = output.past_key_values
            logits = output.logits[0, -1]
            token = _choose(logits, sequence)
        sequence.ids.append(token)
        sampling = sequence.request.sampling
        ended = token in self._eos and not sampling.ignore_eos
        text = "" if ended else sequence.stops.push(sequence.text.push([token]))
        reason: FinishReason | None = None
        if ended or sequence.stops.found is not None:
            reason = FinishReason.STOP
        elif len(sequence.ids) >= min(sampling.max_tokens, self._context_tokens - len(sequence.prompt)):
            reason = FinishReason.LENGTH
        usage = None
        if reason is not None:
            if sequence.stops.found is None:
                text += sequence.stops.push(sequence.text.finish()) + sequence.stops.finish()
            usage = Usage(prompt_tokens=len(sequence.prompt), completion_tokens=len(sequence.ids))
            del self._sequences[name]
        return Chunk(
            text=text,
            token_ids=(token,),
            logprobs=self._logprobs(logits, token, sampling.logprobs),
            finish_reason=reason,
            usage=usage,
        )

    def _logprobs(self, logits: "torch.Tensor", token: int, wanted: int | None) -> tuple[TokenLogprob, ...]:
        if wanted is None:
            return ()
        logs = logits.double().log_softmax(dim=0)
        top = tuple(self._logprob(each, logs) for each in logs.topk(wanted).indices.tolist()) if wanted else ()
        chosen = self._logprob(token, logs)
        return (TokenLogprob(token_id=token, raw=chosen.raw, logprob=chosen.logprob, top=top),)

    def _logprob(self, token: int, logs: "torch.Tensor") -> TokenLogprob:
        return TokenLogprob(token_id=token, raw=self._tokenizer.token_bytes(token), logprob=float(logs[token]))


def _choose(logits: "torch.Tensor", sequence: _Sequence) -> int:
    """Choose the next token; penalties and bias, then temperature, top-k, top-p, min-p."""
    import torch

    sampling = sequence.request.sampling
    scores = _adjusted(logits.double(), sequence, sampling)
    if sampling.temperature == 0:
        return int(scores.argmax())
    scores, ids = (scores / sampling.temperature).sort(descending=True, stable=True)
    kept = torch.ones_like(scores, dtype=torch.bool)
    if sampling.top_k > 0:
        kept[sampling.top_k :] = False
    probabilities = scores.masked_fill(~kept, -math.inf).softmax(dim=0)
    if sampling.top_p < 1:
        kept &= probabilities.cumsum(dim=0) - probabilities < sampling.top_p
        kept[0] = True
    if sampling.min_p > 0:
        kept &= probabilities >= sampling.min_p * probabilities[0]
    drawn = torch.multinomial(probabilities * kept, 1, generator=sequence.generator)
    return int(ids[drawn])


def _adjusted(scores: "torch.Tensor", sequence: _Sequence, sampling: SamplingParams) -> "torch.Tensor":
    import torch

    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({*sequence.prompt, *sequence.ids}))
        values = scores[seen]
        scores[seen] = torch.where(
            values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty
        )
    if sequence.ids and (sampling.presence_penalty or sampling.frequency_penalty):
        counts = torch.bincount(torch.tensor(sequence.ids), minlength=len(scores))
        scores -= sampling.presence_penalty * (counts > 0) + sampling.frequency_penalty * counts
    for token, bias in sampling.logit_bias:
        scores[token] += bias
    return scores
