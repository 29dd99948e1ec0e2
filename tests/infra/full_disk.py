"""A training on a disk that runs full in the middle: `python -m tests.infra.full_disk FOLDER HOW`, in its own mounts.

A file system of a few MB is mounted at FOLDER/disk, the command line trains into it, and before the fifth step the
disk is filled: with bytes, or with names. Then there is room again, and the same command goes on. What was said and
what was there in between goes to standard output as JSON.
"""

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenops.classify.train import loop
from qwenops.cli.door import run
from qwenops.command import run as start
from tests.classify.judged import write_files
from tests.classify.made import SOURCE, pairs

OPTIONS = ("--epochs", "2", "--batch", "4", "--threads", "1", "--max-tokens", "192", "--no-probe")
ALWAYS = ("--precision", "f32", "--checkpoint-every", "0", "--model", "random:tiny", "--taxonomy", str(SOURCE))
MOUNT = {"bytes": "size=24m", "names": "size=64m,nr_inodes=24"}
STEP = 5


def fill(disk: Path, how: str) -> list[Path]:
    """Leave no room on a disk; return what fills it."""
    made: list[Path] = []
    with contextlib.suppress(OSError):
        while True:
            made.append(disk / f"ballast-{len(made)}")
            with made[-1].open("wb", buffering=0) as file:
                while how == "bytes":
                    file.write(bytes(2**16))
    return [path for path in made if path.exists()]


def command(argv: Sequence[str], home: Path) -> tuple[int, str]:
    """Run a command line; return its exit code and what it said."""
    said = io.StringIO()
    environ = {"QWENOPS_HOME": str(home), "XDG_CONFIG_HOME": str(home), "LANG": "C.UTF-8"}
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run([*argv], environ)
    return code, said.getvalue()


def main(folder: Path, how: str) -> dict[str, Any]:
    """Train, fill, go on."""
    disk = folder / "disk"
    disk.mkdir()
    start(["mount", "-t", "tmpfs", "-o", MOUNT[how], "tmpfs", str(disk)], timeout_s=10)
    files = write_files(folder / "data", pairs(32, seed=7))
    argv = ["finetune", "train", str(files.calls), "--labels", str(files.labels), "--splits", str(files.splits)]
    argv += [*OPTIONS, *ALWAYS]
    whole = command([*argv, "--out", str(folder / "whole")], folder / "home")
    real, filled = loop.step, list[Path]()

    def step(learner: loop.Learner, batch: Sequence[int], number: int) -> float:
        if number == STEP and not filled:
            filled.extend(fill(disk, how))
        return real(learner, batch, number)

    loop.step = step
    ended = command([*argv, "--out", str(disk / "run")], folder / "home")
    left = sorted(path.name for path in (disk / "run").iterdir())
    kept = json.loads((disk / "run" / "checkpoint" / "state.json").read_text("utf-8"))["standing"]["step"]
    for path in filled:
        path.unlink()
    again = command([*argv, "--out", str(disk / "run")], folder / "home")
    weights = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (disk / "run", folder / "whole")]
    return {
        "whole": whole,
        "filled": len(filled),
        "ended": ended,
        "left": left,
        "kept": kept,
        "again": again,
        "same": weights[0] == weights[1],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))  # noqa: T201 -- the test reads it
