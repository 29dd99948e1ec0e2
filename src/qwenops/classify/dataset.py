"""Calls as tokens, and the order in which training sees them.

    encode  ──>  EncodedCalls  ──>  epoch_batches(seed, epoch)  ──>  shared(rank)  ──>  micro_batches(tokens)

The order is a hash of the seed, the epoch and the calls' ids, so who knows the seed and how many batches are done knows
what comes next: a run that is taken up again needs nothing else. Calls of one batch are of similar length, since what
is padded is computed for nothing; each batch is still one of all lengths' calls over an epoch, dealt out by chance.

One batch is one step of the optimiser. It is computed in as many pieces (micro-batches) as memory asks for, and by as
many processes as there are; neither changes what it is.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qwenops.calls.classes import Taxonomy
from qwenops.calls.problems import Problem, refuse
from qwenops.calls.schema import Call, Label
from qwenops.classify.prompt import prompt_ids
from qwenops.errors import InvalidDataError
from qwenops.models.tokenizer import Tokenizer
from qwenops.text import Report, say

Tokens = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]
Batch = tuple[int, ...]
"""Places of calls."""

POOL_BATCHES = 50
"""So many batches are sorted by length together: more waste less padding, fewer mix better."""
REPORT_EVERY = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedCalls:
    """Calls with their prompts as tokens, their classes as numbers, and how far each label is trusted."""

    ids: tuple[str, ...]
    tokens: Tokens
    """All prompts, one after the other."""
    offsets: Places
    """Where each prompt begins in `tokens`, and where the last one ends."""
    labels: Places
    """The class of each call, as its place among the leaves."""
    weights: npt.NDArray[np.float32]
    """Above 0, at most 1."""

    def __len__(self) -> int:
        """How many calls there are."""
        return len(self.ids)

    @property
    def lengths(self) -> Places:
        """The tokens of each prompt."""
        return np.diff(self.offsets)

    def prompt(self, place: int) -> Tokens:
        """Return the tokens of a prompt."""
        return self.tokens[self.offsets[place] : self.offsets[place + 1]]

    def digest(self, place: int) -> bytes:
        """Return a hash of a prompt's tokens: calls with equal prompts have equal ones."""
        return hashlib.sha256(self.prompt(place).astype("<i4").tobytes()).digest()

    def sha256(self) -> str:
        """Hash everything: ids, prompts, classes and weights, in their order."""
        whole = hashlib.sha256("\n".join(self.ids).encode("utf-8", "surrogatepass"))
        for part, kind in ((self.offsets, "<i8"), (self.tokens, "<i4"), (self.labels, "<i8"), (self.weights, "<f4")):
            whole.update(np.ascontiguousarray(part, dtype=kind).tobytes())
        return whole.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainData:
    """What a model is trained on, and the form in which it is asked."""

    train: EncodedCalls
    val: EncodedCalls
    taxonomy: Taxonomy
    budget_tokens: int
    """The longest prompt."""
    legend: str = ""
    redactions: tuple[str, ...] = ()
    """The versions of what took personal data out of the calls; an empty one where nothing did."""
    sources: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file that the calls and labels came from, by its name."""
    warnings: tuple[Problem, ...] = ()
    """What a person should know about the files, though it keeps nobody from using them."""


def encode(
    items: Iterable[tuple[Call, Label]],
    *,
    taxonomy: Taxonomy,
    tokenizer: Tokenizer,
    budget_tokens: int,
    legend: str = "",
    total: int = 0,
    report: Report = lambda _fraction, _doing: None,
) -> EncodedCalls:
    """Turn labelled calls into tokens.

    Args:
        items: Each call with its label; they are read once.
        taxonomy: What the labels are about.
        tokenizer: Of the model.
        budget_tokens: The longest prompt.
        legend: As `prompt.legend_of` makes it.
        total: How many there are, for the report; 0 when nobody knows.
        report: Is told how far it is.

    Raises:
        InvalidDataError: Labels are of another taxonomy or of no class of it, a call stands there twice, or nobody
            says anything in one; all of them are named.
        ConfigError: The budget leaves no room for a call.
    """
    leaves = {leaf: place for place, leaf in enumerate(taxonomy.leaves)}
    ids: dict[str, None] = {}
    tokens, offsets, labels, weights = array("i"), [0], list[int](), list[float]()
    problems: list[Problem] = []
    for number, (call, label) in enumerate(items):
        wrong = list(_wrong(call, label, taxonomy, leaves, ids))
        problems += wrong
        ids[call.conversation_id] = None
        if wrong:
            continue
        try:
            tokens.extend(prompt_ids(call, tokenizer, budget_tokens=budget_tokens, legend=legend))
        except InvalidDataError as error:
            problems.append(Problem(what=say("{reason}", reason=error.message), conversation_id=call.conversation_id))
            continue
        offsets.append(len(tokens))
        labels.append(leaves[label.primary])
        weights.append(label.weight)
        if number % REPORT_EVERY == 0:
            report(number / total if total else 0.0, say("Reading the calls"))
    refuse(problems, say("Nothing can be learnt from these calls."))
    return EncodedCalls(
        ids=tuple(ids),
        tokens=np.array(tokens, dtype=np.int32),
        offsets=np.array(offsets, dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        weights=np.array(weights, dtype=np.float32),
    )


def _wrong(
    call: Call, label: Label, taxonomy: Taxonomy, leaves: dict[str, int], seen: dict[str, None]
) -> Iterator[Problem]:
    """Yield what keeps a labelled call from being learnt from."""
    name = call.conversation_id
    if name in seen:
        yield Problem(what=say("The call {call} stands there twice.", call=name), conversation_id=name)
    if label.conversation_id != name:
        told = say("The label of {other} came with the call {call}.", other=label.conversation_id, call=name)
        yield Problem(what=told, conversation_id=name)
    if label.taxonomy != taxonomy.ref:
        other = label.taxonomy
        told = say("{call}: the label is about {other}, not about {ref}.", call=name, other=other, ref=taxonomy.ref)
        yield Problem(what=told, field="taxonomy", conversation_id=name)
    elif label.primary not in leaves:
        code = label.primary
        told = say("{call}: {code} is no class without children of {ref}.", call=name, code=code, ref=taxonomy.ref)
        yield Problem(what=told, field="primary", conversation_id=name)
    if not 0 < label.weight <= 1:
        weight = f"{label.weight:g}"
        told = say("{call}: the weight is {weight}, and must be above 0 and at most 1.", call=name, weight=weight)
        yield Problem(what=told, field="weight", conversation_id=name)


def epoch_batches(calls: EncodedCalls, *, batch_calls: int, seed: int, epoch: int) -> list[Batch]:
    """Return the batches of one epoch in their order; the calls of each are of similar length, longest first.

    Every call is in exactly one. The same seed, epoch and ids give the same batches, whatever the order of the file.
    """
    by_chance = sorted(range(len(calls)), key=lambda place: _chance(seed, epoch, calls.ids[place]))
    lengths = calls.lengths
    pool = POOL_BATCHES * batch_calls
    batches: list[Batch] = []
    for start in range(0, len(by_chance), pool):
        similar = sorted(by_chance[start : start + pool], key=lambda place: -int(lengths[place]))
        batches += [tuple(similar[at : at + batch_calls]) for at in range(0, len(similar), batch_calls)]
    return sorted(batches, key=lambda batch: _chance(seed, epoch, f"batch/{calls.ids[batch[0]]}"))


def shared(batch: Sequence[int], rank: int, size: int) -> Batch:
    """Return the calls of a batch that one of `size` processes computes: every so-manieth, so all get all lengths."""
    return tuple(batch[rank::size])


def micro_batches(places: Sequence[int], lengths: Places, budget_tokens: int) -> list[Batch]:
    """Cut calls into pieces that, padded to their longest, have at most so many tokens; longest first.

    A call that is longer than the budget is a piece of its own.
    """
    ordered = sorted(places, key=lambda place: -int(lengths[place]))
    pieces: list[Batch] = []
    piece: list[int] = []
    for place in ordered:
        longest = int(lengths[piece[0]]) if piece else int(lengths[place])
        if piece and (len(piece) + 1) * longest > budget_tokens:
            pieces.append(tuple(piece))
            piece = []
        piece.append(place)
    if piece:
        pieces.append(tuple(piece))
    return pieces


def padded_tokens(pieces: Iterable[Sequence[int]], lengths: Places) -> int:
    """Return how many tokens are computed for these pieces, padding included."""
    return sum(len(piece) * max(int(lengths[place]) for place in piece) for piece in pieces)


def num_batches(num_calls: int, batch_calls: int) -> int:
    """Return how many batches an epoch has."""
    return -(-num_calls // batch_calls)


def _chance(seed: int, epoch: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{epoch}/{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
