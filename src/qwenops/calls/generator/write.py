"""Synthetic calls as a folder: calls, labels, truth, and a manifest that says how they were made.

Calls stream through: memory does not grow with their number. The files appear whole or not at all, the manifest last.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from qwenops.atomic import sync_folder, write_text
from qwenops.calls.generator.generate import Generator, open_generator
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.truth import Synthetic, truth_data
from qwenops.calls.schema import dump
from qwenops.errors import ConfigError
from qwenops.text import Report, say

MANIFEST_SCHEMA = "qwenops.synthetic/1"
CALLS, LABELS, TRUTH, MANIFEST = "calls.jsonl", "labels.jsonl", "truth.jsonl", "manifest.json"
_REPORTED_EVERY = 100


@dataclass(slots=True, kw_only=True)
class _Counts:
    """What was written so far."""

    calls: int = 0
    turns: int = 0
    characters: int = 0
    wrong_labels: int = 0
    leaves: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)

    def take(self, made: Synthetic) -> None:
        """Count one call."""
        self.calls += 1
        self.turns += len(made.call.turns)
        self.characters += sum(len(turn.text) for turn in made.call.turns)
        self.wrong_labels += made.truth.leaf != made.truth.annotated
        self.leaves[made.truth.leaf] += 1
        self.personal.update(span.kind for span in made.truth.pii)


@dataclass(slots=True, kw_only=True)
class _Growing:
    """A file that is being written, beside the place where it will be."""

    out: TextIO
    digest: Any

    def write(self, line: str) -> None:
        """Add a line."""
        text = f"{line}\n"
        self.digest.update(text.encode())
        self.out.write(text)


def write(options: GeneratorOptions, folder: Path, *, report: Report | None = None) -> Path:
    """Make calls and write them into a folder; return its manifest.

    Args:
        options: Which calls.
        folder: Where to; it is made if there is none, and synthetic calls that it holds are replaced.
        report: Is told how far it is.

    Raises:
        ConfigError: An option is not possible, or the folder holds other calls.
    """
    generator = open_generator(options)
    _refuse_others(folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts = _Counts()
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(_whole(folder / name)) for name in (CALLS, LABELS, TRUTH)}
        for index in range(options.calls):
            made = generator.call(index)
            files[CALLS].write(dump(made.call))
            files[LABELS].write(dump(made.label))
            files[TRUTH].write(json.dumps(truth_data(made.truth), ensure_ascii=False, separators=(",", ":")))
            counts.take(made)
            if report is not None and index % _REPORTED_EVERY == 0:
                report(index / options.calls, say("Making calls: {count} of {all}.", count=index, all=options.calls))
    hashes = {name: file.digest.hexdigest() for name, file in files.items()}
    manifest = folder / MANIFEST
    told = json.dumps(_manifest(generator, counts, hashes), ensure_ascii=False, indent=2)
    write_text(manifest, f"{told}\n")
    return manifest


def _refuse_others(folder: Path) -> None:
    """Refuse a folder with calls that were not made here: they may be real, and the only copy.

    Raises:
        ConfigError: It is one.
    """
    held = [name for name in (CALLS, LABELS, TRUTH) if (folder / name).exists()]
    if held and not (folder / MANIFEST).exists():
        raise ConfigError(
            say("{path} is there already, and was not made by this command.", path=str(folder / held[0])),
            hint=say("Name another folder with --out."),
        )


def _manifest(generator: Generator, counts: _Counts, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return what made the calls; equal options on equal data make equal manifests."""
    return {
        "schema": MANIFEST_SCHEMA,
        "synthetic": True,
        "seed": generator.options.seed,
        "options": asdict(generator.options),
        "authors": list(generator.world.packs),
        "taxonomy": generator.world.taxonomy.ref,
        "calls": counts.calls,
        "turns": counts.turns,
        "characters": counts.characters,
        "wrong_labels": counts.wrong_labels,
        "leaves": dict(sorted(counts.leaves.items())),
        "pii": dict(sorted(counts.personal.items())),
        "files": dict(hashes),
        "made_from": generator.world.hashes(),
    }


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[_Growing]:
    """Open a file that takes its place when it is complete, and leaves nothing behind when it is not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as out:
            yield _Growing(out=out, digest=hashlib.sha256())
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
