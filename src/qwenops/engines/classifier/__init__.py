"""The classifier's engine: our prefill-only graph, which says how probable each label is and nothing else.

It runs in a process of its own, like every native engine; here is the door to it. It is not in the table of engines
that serve conversations, because it cannot write.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from qwenops.engines.classifier.batching import plan
from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import EngineInfo
from qwenops.engines.worker import WorkerEngine, open_worker
from qwenops.generation import Tokens

REQUIRES = ("openvino",)
"""Packages that must be installed."""

BATCH_TOKENS = 2048
"""Of one batch: enough to keep the multipliers busy, and still answered within a second or two."""


async def open_engine(options: EngineOptions) -> WorkerEngine:
    """Start the engine's process; the model loads in the background (`ready` waits for it)."""
    return await open_worker("qwenops.engines.classifier.stepper:open_stepper", options, name="classifier")


async def open_scorer(folder: Path, options: EngineOptions | None = None) -> "Scorer":
    """Start a classifier's model and wait until it is ready.

    Args:
        folder: The model, as `export` writes it.
        options: How to run it; without them, batches are as large as is good for throughput.

    Raises:
        ModelLoadError: The model's files cannot be used.
        InsufficientMemoryError: The model does not fit.
    """
    wanted = options or EngineOptions(max_batched_tokens=BATCH_TOKENS)
    engine = await open_engine(replace(wanted, model_dir=folder))
    try:
        await engine.ready()
    except BaseException:
        await engine.aclose()
        raise
    return Scorer(engine, batch_tokens=wanted.max_batched_tokens)


class Scorer:
    """A `LabelScorer` that hands the engine prompts of similar length at a time.

    Args:
        engine: The engine, ready; it is closed with this.
        batch_tokens: Most tokens of a batch, padding included.
    """

    def __init__(self, engine: WorkerEngine, *, batch_tokens: int) -> None:
        """Take the engine over."""
        self.engine = engine
        self._batch_tokens = batch_tokens

    @property
    def info(self) -> EngineInfo:
        """What runs, and how it is doing. Never blocks."""
        return self.engine.info

    async def score(self, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> list[tuple[float, ...]]:
        """Return, for each prompt, the probabilities of `label_ids`, which sum to 1.

        Raises:
            InvalidRequestError: A label is none of the model's, or a prompt does not begin as its prompts do.
            PromptTooLongError: A prompt does not fit.
            EngineUnavailableError: The engine is restarting, failed or closed.
            EngineCrashedError: The engine died or froze while it worked on them.
        """
        found: dict[int, tuple[float, ...]] = {}
        for batch in plan([len(prompt.ids) for prompt in prompts], self._batch_tokens):
            scores = await self.engine.score([prompts[each] for each in batch], label_ids)
            found.update(zip(batch, scores, strict=True))
        return [found[each] for each in range(len(prompts))]

    async def aclose(self) -> None:
        """Give everything back. A second call does nothing."""
        await self.engine.aclose()

    async def __aenter__(self) -> Self:
        """Return this."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()
