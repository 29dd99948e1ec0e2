"""Checkpoints to artefacts: one pass over the weights, each tensor checked, nothing held that is not needed.

Tensors go into a scratch file (`packing`); the graph is then built over that file, and OpenVINO writes model and
weights. `convert` works in this process; `convert_in_child` starts `python -m qwenops.models.convert`, so that the
memory is given back and the caller never loads OpenVINO.
"""

import hashlib
import shutil
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qwenops import __version__
from qwenops.errors import ConversionError, DeadlineError
from qwenops.models.artefact import (
    FORMAT,
    OPTIONAL_FILES,
    Artefact,
    open_artefact,
    write_manifest,
)
from qwenops.models.checkpoint import Checkpoint, file_sha256, open_checkpoint
from qwenops.models.child import follow, speak
from qwenops.models.compress import layout_of
from qwenops.models.folders import new_folder
from qwenops.models.graph import build_model
from qwenops.models.packing import Packed, open_packed, pack_tensors, save_model
from qwenops.models.spec import Scheme
from qwenops.text import Report, say

SPARE_BYTES = 1 << 26
"""Room for the graph, the tokenizer and the manifest."""

_PACKED_SHARE = 0.8
"""Of the time; then the files are written and hashed."""


def convert(source: Path, target: Path, scheme: Scheme, report: Report, *, threads: int = 2) -> Artefact:
    """Convert the checkpoint in `source` into an artefact at `target`, which is replaced if it exists.

    Raises:
        ModelLoadError: The checkpoint is damaged or of another architecture.
        ConversionError: A packed tensor differs from its source by more than its format allows.
        InsufficientDiskError: There is no room for the result.
    """
    checkpoint = open_checkpoint(source)
    # The weights lie in the scratch file and in the result for a moment.
    needed_bytes = 2 * checkpoint.spec.weight_bytes(scheme) + SPARE_BYTES
    with (
        new_folder(target, needed_bytes=needed_bytes) as folder,
        ThreadPoolExecutor(max_workers=threads, thread_name_prefix="convert") as pool,
    ):
        hashes = pool.submit(checkpoint.sha256)
        scratch = folder / "weights.scratch"
        packed = _pack_all(checkpoint, scheme, scratch, pool, report)
        report(_PACKED_SHARE, say("Writing the model"))
        weights = open_packed(scratch, packed)  # the graph shares its memory
        save_model(build_model(checkpoint.spec, weights), folder, scratch)
        scratch.unlink()
        copy_files(source, folder, ("config.json", *OPTIONAL_FILES))
        report(0.95, say("Hashing the files"))
        write_manifest(folder, _manifest(scheme, packed, hashes.result(), folder))
    report(1.0, say("Converted"))
    return open_artefact(target)


def copy_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy those of the files that are there."""
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def hashes_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of each file in a folder, by name."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())}


def _pack_all(
    checkpoint: Checkpoint, scheme: Scheme, scratch: Path, pool: ThreadPoolExecutor, report: Report
) -> list[Packed]:
    wanted = [(tensor, layout_of(tensor, scheme)) for tensor in checkpoint.spec.tensors()]
    total = sum(tensor.num_elements for tensor, _ in wanted)
    done = 0
    found = []
    with scratch.open("wb") as sink:
        for each in pack_tensors(checkpoint, wanted, sink, pool):
            found.append(each)
            done += each.tensor.num_elements
            report(
                _PACKED_SHARE * done / total,
                say("Packing the weights as {scheme}: {name}", scheme=scheme.value, name=each.tensor.name),
            )
    return found


def _manifest(scheme: Scheme, packed: Iterable[Packed], source: Mapping[str, str], folder: Path) -> dict[str, Any]:
    import openvino as ov

    tensors = [each.facts for each in packed]
    return {
        "format": FORMAT,
        "scheme": scheme.value,
        "made_with": {"qwenops": __version__, "openvino": ov.get_version()},
        "source": {"sha256": source_sha256(source), "files": dict(source)},
        "worst_relative_error": max(each["relative_error"] for each in tensors),
        "files": hashes_of(folder),
        "tensors": tensors,
    }


def source_sha256(files: Mapping[str, str]) -> str:
    """Return the hash that names a checkpoint: its weight file's own, or one over those of all shards."""
    weights = {name: digest for name, digest in sorted(files.items()) if name.endswith(".safetensors")}
    if len(weights) == 1:
        return next(iter(weights.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in weights.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def convert_in_child(source: Path, target: Path, scheme: Scheme, report: Report, timeout_s: float = 1800.0) -> Artefact:
    """Convert in a process of its own; it is killed after `timeout_s`, and dies with this process.

    Raises:
        DeadlineError: It took longer than `timeout_s`.
        ConversionError: The process died, for example because memory ran out.
        QwenOpsError: What `convert` raises.
    """
    follow(
        "qwenops.models.convert",
        [str(source), str(target), scheme.value],
        report,
        timeout_s=timeout_s,
        late=took_too_long,
        died=died,
    )
    return open_artefact(target)


def took_too_long(timeout_s: float) -> DeadlineError:
    """Make the error for a conversion that was ended."""
    return DeadlineError(
        say("Converting took longer than {seconds:g} s and was ended.", seconds=timeout_s),
        hint=say("Give it more time, or look whether the disk is slow."),
    )


def died(status: int, words: str) -> ConversionError:
    """Make the error for a conversion that ended without saying why."""
    return ConversionError(
        say("The converting process died with status {status}: {words}", status=status, words=words),
        hint=say("A killed process (-9) usually means that memory ran out; 3 GiB are enough for 0.6B."),
    )


def _main(argv: list[str]) -> int:
    source, target, scheme = argv
    return speak(lambda report: convert(Path(source), Path(target), Scheme(scheme), report))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
