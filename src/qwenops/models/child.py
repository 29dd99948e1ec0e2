"""Work on a model in a process of its own, so that its memory is given back and its libraries never load here.

    parent: follow(argv of `python -m qwenops.models.X`) <── lines of JSON ── child: speak(work)

A line tells how far the child is, or the error that ended it. The child is killed when it takes too long, when
`report` raises, and when this process dies.
"""

import json
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Any

from qwenops import command
from qwenops.crossing import error_of, error_parts, plain, text_of
from qwenops.errors import ModelLoadError, QwenOpsError
from qwenops.text import Report, Text

LAST_LINES = 20
_TEXT = "\0text"
"""The one key of an object that stands for a sentence."""


def follow(
    module: str,
    arguments: Sequence[str],
    report: Report,
    *,
    timeout_s: float,
    late: Callable[[float], QwenOpsError],
    died: Callable[[int, str], QwenOpsError],
) -> None:
    """Run `python -m module arguments` to its end and pass on what it tells.

    Args:
        module: One whose main function is `speak`.
        arguments: What it is given.
        report: Is told how far it is.
        timeout_s: After this many seconds it is killed.
        late: Makes the error for that, out of `timeout_s`.
        died: Makes the error for a child that ended without saying why, out of its status and its last words.

    Raises:
        QwenOpsError: What the work raised, or what `late` or `died` made.
    """
    deadline_s = time.monotonic() + timeout_s
    argv = [sys.executable, "-m", module, *arguments]
    with command.spawn(argv, stdout=command.PIPE, stderr=command.PIPE) as child:
        lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        said: deque[str] = deque(maxlen=LAST_LINES)
        readers = (
            threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True),
            threading.Thread(target=_keep_words, args=(child.stderr, said), daemon=True),
        )
        for reader in readers:
            reader.start()
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise late(timeout_s) from None
            if line is None:
                break
            if "error" in line:
                raise error_of(line["error"], ModelLoadError)
            report(line["progress"], line["doing"])
        status = child.wait(timeout_s=max(1.0, deadline_s - time.monotonic()))
        for reader in readers:
            reader.join(timeout=1.0)
    if status != 0:
        raise died(status, "\n".join(said))


def speak(work: Callable[[Report], object]) -> int:
    """Do the work in this process, the child, and tell the parent how far it is; returns the exit status."""

    def tell(line: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(plain(line, _text_to_json), default=str) + "\n")
        sys.stdout.flush()

    try:
        work(lambda fraction, doing: tell({"progress": fraction, "doing": doing}))
    except QwenOpsError as error:
        tell({"error": error_parts(error)})
        return 1
    return 0


def _read_lines(stream: IO[bytes], lines: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in stream:
        try:
            found = json.loads(line, object_hook=_text_from_json)
        except ValueError:
            continue  # a library that prints
        if isinstance(found, dict) and ("error" in found or "progress" in found):
            lines.put(found)
    lines.put(None)


def _keep_words(stream: IO[bytes], said: deque[str]) -> None:
    for line in stream:
        said.append(line.decode(errors="replace").rstrip())


def _text_to_json(parts: list[Any]) -> dict[str, Any]:
    return {_TEXT: parts}


def _text_from_json(found: dict[str, Any]) -> dict[str, Any] | Text:
    return text_of(found[_TEXT]) if _TEXT in found else found
