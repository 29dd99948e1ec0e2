"""Whether a measurement may be believed: the client watches itself while it measures.

A client on the server's own machine takes cores from it; one that is late with its requests or slow to see a chunk
measures itself. What is watched, and the bounds (`Bounds`), are printed with every result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from qwenops.text import Text


class Verdict(StrEnum):
    """How far a run may be believed."""

    VALID = "VALID"
    SUSPECT = "SUSPECT"
    """Something disturbed it; the figures are shown with the reasons."""
    INVALID = "INVALID"
    """It proves nothing, and never becomes a baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """The verdict on a run, with its reasons in words and what was measured about the client."""

    verdict: Verdict = Verdict.VALID
    reasons: tuple[Text, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    """schedule_lag_p50_s, schedule_lag_p99_s, loop_lag_p99_s, client_cpu_share (of the machine), client_cores,
    dropped, achieved_ratio, bias_ttft_s, bias_gap_s, cost_per_chunk_s. One that is unknown is absent."""
