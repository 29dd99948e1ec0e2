"""What to ask: a numbered, repeatable sequence of prompts, and what a prefix cache may find in it.

    warm    warm-up requests and measured ones share the workload's beginning; items repeat as the workload has them
    cold    every prompt is distinct and the run has a beginning of its own, which warm-up requests do not have: at
            first a cache finds nothing, then what this very traffic has left there
    bust    a unique marker stands at the start of every prompt, so a cache never finds anything

Which of the three it was stands in the facts of every result. A server that was asked the same before would find it
again; the salt, which a run draws once and records, is part of every marker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qwenops.bench.options import BenchOptions
from qwenops.generation import Messages, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request as the workload has it."""

    item: str
    """Which item it is: the same text and lengths in every run of this workload and seed, apart from markers."""
    messages: Messages
    sampling: SamplingParams
    prompt_hash: str
    """Of exactly what is sent."""
    arrival_ns: int | None = None
    """When the trace sent it, after the trace's first request and at the wanted speed."""


class Workload(Protocol):
    """A sequence of requests; the same index gives the same request."""

    @property
    def name(self) -> str:
        """As the user named it."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a result must say about it: kind, cache policy, seed, lengths, hash of the content."""
        ...

    @property
    def arrivals_ns(self) -> Sequence[int] | None:
        """When a trace sent its requests, from 0; None where the workload has no times."""
        ...

    def ask(self, index: int) -> Ask:
        """Return the measured request of that number, from 0 without end."""
        ...

    def warmup(self, index: int) -> Ask:
        """Return the warm-up request of that number; it is none of the measured ones."""
        ...


def open_workload(options: BenchOptions, *, salt: str = "") -> Workload:
    """Open the workload that `options.workload` names; files are read whole, once.

    Args:
        options: Which workload, its seed, lengths and cache policy.
        salt: Part of every marker; a run that must not find what an earlier one left in a cache gives its own.

    Raises:
        ConfigError: There is no such workload, or its file is wrong; the message names the file and the line.
    """
    raise NotImplementedError
