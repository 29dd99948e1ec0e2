"""What a trained model says of a part of the calls, computed once by the model that training saved, and kept.

    logits/test-9f86d081884c.npz    ids, logits [calls, classes], and what it took to compute them

The name holds a hash of the adapter and of the calls as tokens, so what is read again is what would be computed again.
Other thresholds and other reports cost nothing then, and nobody has a reason to look at the test calls more than once.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from qwenops.atomic import whole_file
from qwenops.calls.split import Part
from qwenops.classify.dataset import EncodedCalls
from qwenops.errors import ModelLoadError, TrainingError
from qwenops.models.artefact import MANIFEST
from qwenops.models.checkpoint import file_sha256
from qwenops.models.folders import DISK_FULL, disk_full
from qwenops.options import format_seconds
from qwenops.text import Report, say

if TYPE_CHECKING:
    from qwenops.classify.train.adapter import AdapterFolder
    from qwenops.classify.train.reload import Reloaded
    from qwenops.models.spec import Precision

FOLDER = "logits"
"""What the folder is called beside the adapter."""
MICRO_TOKENS = 2048
MOST_AWAY = 0.05
"""The logits of the made-up calls may differ by so much, as a part of their size, from what they were when they were
saved: as much as bf16 on another processor explains."""
_HASH_CHARS = 12

Logits = npt.NDArray[np.float32]
Told = Callable[[float], None]
Score = Callable[[EncodedCalls, Told], Logits]
"""Computes the logits of calls; is told whom to tell the fraction that is done."""
OpenScore = Callable[["AdapterFolder", Path, Report], Score]
"""Loads a trained model: the adapter, and the folder of the checkpoint that it was trained on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartLogits:
    """What a model says of the calls of a part."""

    ids: tuple[str, ...]
    logits: Logits
    """Shape (calls, classes)."""
    seconds: float
    """What computing took, without loading the model."""
    tokens: int
    threads: int
    """How many computed; 0 where a GPU did."""


def adapter_sha256(adapter: "AdapterFolder") -> str:
    """Return a hash of everything in an adapter's folder: its manifest names the hash of every file."""
    return file_sha256(adapter.folder / MANIFEST)


def part_logits(
    adapter: "AdapterFolder",
    part: Part,
    calls: EncodedCalls,
    *,
    score: Callable[[], Score],
    report: Report,
    clock: Callable[[], float] = time.monotonic,
) -> PartLogits:
    """Return the logits of a part: those that were kept, else computed now and kept beside the adapter.

    Args:
        adapter: The trained model.
        part: What the calls are for.
        calls: They, encoded as the model was trained.
        score: Loads the model and returns what computes; called only where something has to be computed.
        report: Is told how far it is, and how long it will take.
        clock: Seconds from any point.

    Raises:
        ModelLoadError: The adapter does not say what it said when it was saved.
        TrainingError: A logit is no number.
        InsufficientDiskError: There is no room to keep them.
    """
    name = hashlib.sha256(f"{adapter_sha256(adapter)}\n{calls.sha256()}".encode()).hexdigest()[:_HASH_CHARS]
    path = adapter.folder.absolute().parent / FOLDER / f"{part.value}-{name}.npz"
    kept = read_logits(path)
    if kept is not None and kept.ids == calls.ids and kept.logits.shape == (len(calls), len(adapter.leaves)):
        return kept
    compute = score()
    began_s = clock()
    logits = compute(calls, partial(_tell, part, len(calls), began_s, clock, report))
    elapsed_s = clock() - began_s
    if not np.isfinite(logits).all():
        wrong = tuple(calls.ids[row] for row in np.flatnonzero(~np.isfinite(logits).all(axis=1)))
        raise TrainingError(
            say("The model gives no number for {count} calls, the first is {call}.", count=len(wrong), call=wrong[0]),
            hint=say("Train it again with a lower learning rate, or in --precision f32."),
            conversation_ids=wrong,
        )
    found = PartLogits(
        ids=calls.ids,
        logits=logits.astype(np.float32),
        seconds=elapsed_s,
        tokens=int(calls.lengths.sum()),
        threads=_threads(),
    )
    write_logits(path, found)
    return found


def write_logits(path: Path, found: PartLogits) -> None:
    """Keep logits, whole or not at all.

    Raises:
        InsufficientDiskError: There is no room.
    """
    facts = json.dumps({"seconds": found.seconds, "tokens": found.tokens, "threads": found.threads})
    try:
        with whole_file(path, mode=0o600) as out:
            np.savez_compressed(
                out, ids=np.array(found.ids), logits=found.logits, facts=np.array(facts), allow_pickle=False
            )
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(path.parent, found.logits.nbytes) from error
        raise


def read_logits(path: Path) -> PartLogits | None:
    """Return logits that were kept; None where there are none, or none that can be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as numbers:
            facts: dict[str, Any] = json.loads(str(numbers["facts"]))
            return PartLogits(
                ids=tuple(str(each) for each in numbers["ids"]),
                logits=numbers["logits"].astype(np.float32),
                seconds=float(facts["seconds"]),
                tokens=int(facts["tokens"]),
                threads=int(facts["threads"]),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None  # it is computed anew and written over


def open_torch(adapter: "AdapterFolder", base: Path, report: Report) -> Score:
    """Load the model with torch, in the arithmetic in which it was trained.

    Raises:
        MissingPartError: torch, transformers or peft is not installed.
        ModelLoadError: The checkpoint is not the one that the adapter was trained on, or the two together do not say
            of made-up calls what they said when the adapter was saved.
    """
    from qwenops.classify.train.deciding import check_installed, choose_device, choose_threads
    from qwenops.classify.train.options import TrainOptions
    from qwenops.classify.train.reload import reload

    check_installed()
    import torch

    options = TrainOptions()
    torch.set_num_threads(choose_threads(options, 1))
    precision: Precision = "bf16" if adapter.manifest.get("decided", {}).get("precision") == "bf16" else "f32"
    with torch.random.fork_rng(devices=[]):
        loaded = reload(adapter, base, precision=precision, device=choose_device(options.device, 0), report=report)
    away = loaded.golden_error()
    if not away <= MOST_AWAY:
        raise ModelLoadError(
            say(
                "The model gives other logits for made-up calls than when it was saved: they differ by {away:.0%}.",
                away=away,
            ),
            hint=say("Install the versions of torch, transformers and peft that its manifest names, or train again."),
        )
    return partial(_computed, loaded)


def _computed(loaded: "Reloaded", calls: EncodedCalls, told: Told) -> Logits:
    from qwenops.classify.train.scoring import logits_of
    from qwenops.classify.train.states import source_of
    from qwenops.classify.train.world import World

    source = source_of(calls, loaded.body, first_layer=0)
    return logits_of(source, loaded.head, micro_tokens=MICRO_TOKENS, world=World(), heard=told)


def _tell(part: Part, total: int, began_s: float, clock: Callable[[], float], report: Report, fraction: float) -> None:
    """Say how far scoring is and how long it will still take."""
    left_s = (clock() - began_s) * (1 - fraction) / max(fraction, 1e-9)
    report(
        fraction,
        say(
            "Scoring the calls of {part}: {done} of {total}, about {left} left",
            part=part.value,
            done=round(fraction * total),
            total=total,
            left=format_seconds(float(round(left_s))),
        ),
    )


def _threads() -> int:
    """Return how many threads torch computes with; 0 on a GPU."""
    try:
        import torch
    except ImportError:  # something else computed
        return 0
    return 0 if torch.cuda.is_available() else torch.get_num_threads()
