"""How much one computation of a model differs from another: their logits over the same tokens, position by position.

Teacher forced: both read the same text, so one early difference does not hide all later ones. What is compared with
what is up to the caller; both sides are functions from tokens to logits. The result goes into an artefact's manifest.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from qwenops.errors import ConversionError
from qwenops.models.artefact import Artefact, write_manifest
from qwenops.text import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Logits = Callable[[Sequence[int]], "NDArray[np.float32]"]
"""Takes n tokens; returns [n, vocabulary]: row i holds the logits of the token that follows token i."""

_ROWS = 32
"""Positions computed at once: a row of logits takes a megabyte in float64."""

TIE = 1e-3
"""Where the reference's two best logits differ by less than this part of the best, either token is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How near a candidate comes to its reference, over all positions."""

    reference: str
    candidate: str
    num_sequences: int
    num_positions: int
    num_ties: int
    """Positions where they differ, but the reference itself hardly decides; they count as agreed."""
    relative_error: float
    """Length of the difference of all logits over the length of the reference's."""
    top1_agreement: float
    """Share of positions where both prefer the same token."""
    kl_mean: float
    """Mean of KL(reference || candidate) in nats."""
    kl_max: float


def compare(
    reference: Logits,
    candidate: Logits,
    sequences: Iterable[Sequence[int]],
    *,
    names: tuple[str, str],
) -> Parity:
    """Compare two functions from tokens to logits.

    Args:
        reference: What counts as right.
        candidate: What is judged.
        sequences: Texts as tokens; each is read once by both sides.
        names: What reference and candidate are, for whoever reads the result.

    Raises:
        ConversionError: There is nothing to compare, the shapes differ, or a logit is not finite.
    """
    import numpy as np

    sums = _Sums()
    num_sequences = 0
    for token_ids in sequences:
        right, judged = reference(token_ids), candidate(token_ids)
        if right.shape != judged.shape or not np.isfinite(judged).all():
            raise ConversionError(
                say(
                    "The logits of {candidate} have the shape {shape} instead of {expected}, or are not finite.",
                    candidate=names[1],
                    shape=list(judged.shape),
                    expected=list(right.shape),
                )
            )
        num_sequences += 1
        for start in range(0, len(right), _ROWS):
            sums.add(right[start : start + _ROWS].astype(np.float64), judged[start : start + _ROWS].astype(np.float64))
    if not sums.num_positions:
        raise ConversionError(say("There is no text to compare {candidate} on.", candidate=names[1]))
    return Parity(
        reference=names[0],
        candidate=names[1],
        num_sequences=num_sequences,
        num_positions=sums.num_positions,
        num_ties=sums.num_ties,
        relative_error=math.sqrt(sums.difference / sums.squares) if sums.squares else math.inf,
        top1_agreement=sums.num_agreed / sums.num_positions,
        kl_mean=sums.kl_sum / sums.num_positions,
        kl_max=sums.kl_max,
    )


@dataclass(slots=True)
class _Sums:
    """What is added up over the positions."""

    num_positions: int = 0
    num_agreed: int = 0
    num_ties: int = 0
    squares: float = 0.0
    difference: float = 0.0
    kl_sum: float = 0.0
    kl_max: float = 0.0

    def add(self, right: "NDArray[np.float64]", judged: "NDArray[np.float64]") -> None:
        import numpy as np

        self.num_positions += len(right)
        self.difference += float(((judged - right) ** 2).sum())
        self.squares += float((right**2).sum())
        second, best = np.partition(right, -2, axis=1)[:, -2:].T
        tied = best - second < TIE * np.abs(best)
        agreed = right.argmax(axis=1) == judged.argmax(axis=1)
        self.num_ties += int((tied & ~agreed).sum())
        self.num_agreed += int((tied | agreed).sum())
        log_right, log_judged = _log_softmax(right), _log_softmax(judged)
        divergence = np.maximum((np.exp(log_right) * (log_right - log_judged)).sum(axis=1), 0.0)
        self.kl_sum += float(divergence.sum())
        self.kl_max = max(self.kl_max, float(divergence.max()))


def hold(parity: Parity, *, top1_agreement: float = 0.0, relative_error: float = math.inf) -> None:
    """Refuse what differs too much.

    Raises:
        ConversionError: The agreement is below, or the error above, what is asked for.
    """
    if parity.top1_agreement < top1_agreement:
        raise ConversionError(
            say(
                "{candidate} prefers the same token as {reference} at {found:.2%} of {positions} positions; "
                "at least {floor:.0%} is asked for.",
                candidate=parity.candidate,
                reference=parity.reference,
                found=parity.top1_agreement,
                positions=parity.num_positions,
                floor=top1_agreement,
            ),
            hint=say("Choose a scheme with more bits, for example int8 instead of int4."),
        )
    if parity.relative_error > relative_error:
        raise ConversionError(
            say(
                "The logits of {candidate} differ from {reference} by {found:.2e}; at most {limit:.2e} is asked for.",
                candidate=parity.candidate,
                reference=parity.reference,
                found=parity.relative_error,
                limit=relative_error,
            ),
            hint=say("Convert the model again; if that does not help, report it."),
        )


def write_parity(artefact: Artefact, found: Mapping[str, Parity]) -> Artefact:
    """Add results by name to the artefact's manifest, and return the artefact with them."""
    known = artefact.manifest.get("parity", {})
    manifest = {**artefact.manifest, "parity": {**known, **{name: asdict(each) for name, each in found.items()}}}
    write_manifest(artefact.folder, manifest)
    return Artefact(
        folder=artefact.folder,
        spec=artefact.spec,
        scheme=artefact.scheme,
        sha256=artefact.sha256,
        manifest=manifest,
    )


def _log_softmax(rows: "NDArray[np.float64]") -> "NDArray[np.float64]":
    import numpy as np

    shifted = rows - rows.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
