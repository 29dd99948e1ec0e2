"""Steppers for tests of the worker: real processes that behave well, or badly in one exact way.

The first token of a prompt says what happens when it is stepped; see `Deed`.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from qwenops.engines.options import EngineOptions
from qwenops.engines.steploop import Scores
from qwenops.errors import (
    InsufficientMemoryError,
    InvalidRequestError,
    ModelLoadError,
    PromptTooLongError,
    QwenOpsError,
)
from qwenops.generation import Chunk, FinishReason, GenerationRequest, Tokens, Usage
from qwenops.text import Report, say


class Deed(IntEnum):
    """What the stepper does at the third step of a request whose prompt begins with this token."""

    ANSWER = 0
    KILL_ITSELF = 1
    FREEZE = 2
    RAISE = 3
    SEGFAULT = 4
    SEND_GARBAGE = 5
    FAIL_ONE = 6
    EXIT = 7
    RUN_OUT_OF_MEMORY = 8
    SPEAK_WRONGLY = 9


class Counting:
    """Answers with numbers: token k is k, and its text is `k `."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._requests: dict[str, tuple[GenerationRequest, int]] = {}
        self._scorings: dict[str, tuple[list[Tokens], list[int], list[tuple[float, ...]]]] = {}
        self._steps = 0

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._scorings)

    def facts(self) -> dict[str, Any]:
        return {"accepts": "tokens", "context_tokens": 100_000, "max_running": 7, "quantization": "none", "new": 1}

    def submit(self, request: GenerationRequest) -> None:
        assert isinstance(request.prompt, Tokens)
        if len(request.prompt.ids) > 50_000:
            raise PromptTooLongError(say("The prompt has {tokens} tokens.", tokens=len(request.prompt.ids)))
        if request.model == "unexpected":
            raise ZeroDivisionError(request.id)
        self._requests[request.id] = (request, 0)

    def submit_score(self, name: str, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> None:
        if len(label_ids) < 2:
            raise InvalidRequestError("Too few labels.", param="labels")
        self._scorings[name] = (list(prompts), list(label_ids), [])

    def cancel(self, name: str) -> None:
        self._requests.pop(name, None)
        self._scorings.pop(name, None)

    def step(self) -> list[tuple[str, Chunk | Scores | QwenOpsError]]:
        self._steps += 1
        if self._options.model_name == "slow":
            time.sleep(0.02)
        return [*((name, self._one(name)) for name in list(self._requests)), *self._scored()]

    def _scored(self) -> Iterator[tuple[str, Scores]]:
        """Score one prompt of each call."""
        for name, (prompts, labels, found) in list(self._scorings.items()):
            prompt = prompts[len(found)]
            if prompt.ids[0] == Deed.KILL_ITSELF:
                do(Deed.KILL_ITSELF)
            found.append(tuple(len(prompt.ids) + label for label in labels))
            if len(found) == len(prompts):
                del self._scorings[name]
                yield name, tuple(found)

    def _one(self, name: str) -> Chunk | QwenOpsError:
        request, count = self._requests[name]
        assert isinstance(request.prompt, Tokens)
        deed = request.prompt.ids[0]
        if count == 2 and deed != Deed.ANSWER:
            do(Deed(deed))
            if deed == Deed.FAIL_ONE:
                del self._requests[name]
                return InvalidRequestError("This one only.", param="prompt")
        count += 1
        self._requests[name] = (request, count)
        last = count == request.sampling.max_tokens
        if last:
            del self._requests[name]
        return Chunk(
            text=f"{count} ",
            token_ids=(count,),
            finish_reason=FinishReason.LENGTH if last else None,
            usage=Usage(prompt_tokens=len(request.prompt.ids), completion_tokens=count) if last else None,
        )

    def stats(self) -> dict[str, Any]:
        return {
            "running": len(self._requests) + len(self._scorings),
            "waiting": 0,
            "preemptions": self._steps,
            "new": 1,
        }

    def close(self) -> None:
        if self._options.model_dir != Path():
            (self._options.model_dir / "closed").touch()


def do(deed: Deed) -> None:
    """Behave badly in one exact way."""
    match deed:
        case Deed.KILL_ITSELF:
            os.kill(os.getpid(), signal.SIGKILL)
        case Deed.FREEZE:
            time.sleep(1000)
        case Deed.RAISE:
            raise ZeroDivisionError("nobody expected this")
        case Deed.SEGFAULT:
            ctypes.string_at(0)
        case Deed.SEND_GARBAGE:
            os.write(_socket(), b"\xff" * 100)
        case Deed.SPEAK_WRONGLY:
            os.write(_socket(), b"\x00\x00\x00\x09\x94\xa4step\x01\x91\x03\xc0"[:13])
        case Deed.EXIT:
            os.write(2, b"the disk is on fire\n")
            os._exit(3)
        case Deed.RUN_OUT_OF_MEMORY:
            raise MemoryError
        case _:
            pass


def _socket() -> int:
    """Return the descriptor of the socket to the API process."""
    for each in Path("/proc/self/fd").iterdir():
        if each.is_symlink() and str(each.readlink()).startswith("socket:"):
            return int(each.name)
    raise AssertionError("no socket")


def open_counting(options: EngineOptions, report: Report) -> Counting:
    """Open as the model's name says."""
    report(0.25, "Reading.")
    match options.model_name:
        case "fails":
            raise ModelLoadError(say("The file {name} is damaged.", name="x.bin"), hint=say("Pull it again."))
        case "raises":
            raise ZeroDivisionError("at load")
        case "needs memory":
            raise InsufficientMemoryError(say("Too big."), needed_bytes=8, available_bytes=4)
        case "never loads":
            time.sleep(1000)
        case "dies":
            do(Deed.SEGFAULT)
        case "dies once":
            flag = options.model_dir / "died"
            if flag.exists():
                do(Deed.EXIT)
            flag.touch()
        case "loads slowly":
            time.sleep(0.3)
            report(0.75, say("Warming up."))
            time.sleep(0.3)
    return Counting(options)
