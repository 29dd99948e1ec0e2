"""What runs inside an engine's own process: a `Stepper`, and the loop that feeds it and sends what it makes.

One thread does everything, so nothing competes with the computation. Between two steps the loop takes what has arrived
without waiting; without work it sleeps in `recv` and costs nothing. All pieces of one step leave in one frame, and the
frame's step number is the sign of life that the other side watches: native code that hangs sends none.

Messages in: `open`, `generate`, `cancel`, `score`, `ping`, `close`. Messages out: `loading`, `ready`, `failed` (it
could not be opened), `step`, `scored`, `dying` (a step raised what nobody expected).
"""

import contextlib
import dataclasses
import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from qwenops.engines.options import EngineOptions
from qwenops.engines.wire import FrameReader, Parts, error_to_wire, frame, piece_to_wire, request_from_wire, worded
from qwenops.errors import EngineCrashedError, EngineError, InsufficientMemoryError, ModelLoadError, QwenOpsError
from qwenops.generation import Chunk, GenerationRequest, Tokens
from qwenops.text import Report, say

STATS_EVERY_S = 0.25
_RECEIVE_BYTES = 1 << 18

Scores = tuple[tuple[float, ...], ...]
"""For each prompt of a call, the probabilities of the labels."""

Event = tuple[str, Chunk | Scores | QwenOpsError]
"""By the name of its request: a piece of the answer, the scores of a call that is complete, or why there are none."""


class Stepper(Protocol):
    """A native engine inside its own process. One thread calls it; it never waits for anything but its computation."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return the fields of `EngineInfo` that do not change, without `health`."""
        ...

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; raise a typed error when it can never be answered."""
        ...

    def submit_score(self, name: str, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> None:
        """Queue prompts whose next token is scored; raise a typed error when that can never be done."""
        ...

    def cancel(self, name: str) -> None:
        """Forget a request or a call for scores and free all it held; an unknown name is no error."""
        ...

    def step(self) -> Sequence[Event]:
        """Compute once; return the new pieces by request, and the scores of each call that is complete.

        A failure is the last piece of its request.
        """
        ...

    def stats(self) -> Mapping[str, Any]:
        """Return the fields of `EngineHealth` that are known here."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


OpenStepper = Callable[[EngineOptions, Report], Stepper]


class Link:
    """Our end of the socket: takes messages with or without waiting, sends and waits until it is sent."""

    def __init__(self, end: socket.socket) -> None:
        """Use a connected stream socket."""
        self._socket = end
        self._reader = FrameReader()

    def send(self, kind: str, *parts: Any) -> None:
        """Send one message; a reader that is too slow stops us, so that nothing piles up.

        Raises:
            EOFError: The other side is gone.
        """
        data = frame(kind, *parts)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise EOFError from error

    def receive(self, *, wait: bool) -> list[Parts]:
        """Return what has arrived; with `wait`, at least one message.

        Raises:
            EOFError: The other side is gone.
        """
        messages: list[Parts] = []
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, 0 if wait and not messages else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            except OSError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            messages += self._reader.feed(data)


class StepLoop:
    """Runs one stepper until the other side says `close` or is gone."""

    def __init__(self, link: Link, stepper: Stepper, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing runs yet."""
        self._link = link
        self._stepper = stepper
        self._clock = clock
        self._pieces: list[Parts] = []
        self._scores: set[str] = set()
        """Calls for scores that are not answered yet."""
        self._num_steps = 0
        self._stats_due_s = 0.0
        self._closing = False

    def run(self, early: Sequence[Parts] = ()) -> None:
        """Work until the end; `early` are messages that have been received already."""
        for message in early:
            self._take(message)
        while not self._closing:
            for message in self._link.receive(wait=not self._stepper.has_work):
                self._take(message)
            if self._closing:
                return
            if self._stepper.has_work:
                self._step()
            elif self._pieces:
                self._mark()

    def _take(self, message: Parts) -> None:
        match message:
            case ["generate", request]:
                self._submit(request)
            case ["cancel", str(name)]:
                self._stepper.cancel(name)
                self._scores.discard(name)
                self._stats_due_s = 0.0
                if not self._stepper.has_work:
                    self._mark()
            case ["score", str(name), list(prompts), list(label_ids)]:
                self._submit_score(name, prompts, label_ids)
            case ["ping"]:
                self._stats_due_s = 0.0
                self._mark()
            case ["close"]:
                self._closing = True
            case _:
                raise EngineError(say("An unknown message arrived: {kind!r}.", kind=message[0]))

    def _submit(self, parts: Parts) -> None:
        request = request_from_wire(parts)
        try:
            self._stepper.submit(request)
        except QwenOpsError as error:
            self._pieces.append(piece_to_wire(request.id, error))
        except Exception as error:  # noqa: BLE001 -- the door: one bad request must not end the others
            self._pieces.append(piece_to_wire(request.id, _unexpected(error)))

    def _submit_score(self, name: str, prompts: list[Parts], label_ids: list[int]) -> None:
        try:
            self._stepper.submit_score(name, [Tokens(ids=tuple(ids)) for ids in prompts], label_ids)
        except QwenOpsError as error:
            self._send_scores(name, error)
        except Exception as error:  # noqa: BLE001 -- the door: one bad request must not end the others
            self._send_scores(name, _unexpected(error))
        else:
            self._scores.add(name)

    def _step(self) -> None:
        made = self._stepper.step()
        self._num_steps += 1
        for name, piece in made:
            if isinstance(piece, tuple) or name in self._scores:
                self._send_scores(name, piece)
            else:
                self._pieces.append(piece_to_wire(name, piece))
        self._mark()

    def _send_scores(self, name: str, found: Chunk | Scores | QwenOpsError) -> None:
        self._scores.discard(name)
        if isinstance(found, QwenOpsError):
            self._link.send("scored", name, None, error_to_wire(found))
        elif isinstance(found, tuple):
            self._link.send("scored", name, [list(each) for each in found], None)

    def _mark(self) -> None:
        """Send what was made, the number of the step, and now and then how we are."""
        now_s = self._clock()
        stats = None
        if now_s >= self._stats_due_s or not self._stepper.has_work:
            stats = {"memory_bytes": resident_bytes(), **self._stepper.stats()}
            self._stats_due_s = now_s + STATS_EVERY_S
        pieces, self._pieces = self._pieces, []
        self._link.send("step", self._num_steps, pieces, stats)


def resident_bytes(root: Path = Path("/proc")) -> int:
    """Return the memory of this process that is in RAM; 0 where it cannot be known."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((root / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def serve(link: Link) -> int:
    """Open the stepper that the first message names, run it, and return an exit status."""
    message, *early = link.receive(wait=True)
    stepper = _opened(link, message)
    if stepper is None:
        return 1
    try:
        StepLoop(link, stepper).run(early)
    except MemoryError as error:
        link.send("dying", error_to_wire(_out_of_memory(error)))
        return 1
    except EOFError:
        return 1
    except QwenOpsError as error:
        link.send("dying", error_to_wire(error))
        return 1
    except Exception as error:  # noqa: BLE001 -- the door: whatever a step raises must be told before the end
        link.send("dying", error_to_wire(_unexpected(error, EngineCrashedError)))
        return 1
    finally:
        stepper.close()
    return 0


def _opened(link: Link, message: Parts) -> Stepper | None:
    """Open the stepper; a failure is told to the other side."""

    def report(progress: float, doing: str) -> None:
        link.send("loading", progress, worded(doing))

    try:
        _, name, given = message
        module, _, function = name.partition(":")
        started_s = time.monotonic()
        open_stepper: OpenStepper = getattr(import_module(module), function)
        stepper = open_stepper(EngineOptions(**given), report)
        facts = {"load_s": time.monotonic() - started_s, **stepper.facts()}
    except QwenOpsError as error:
        link.send("failed", error_to_wire(error))
    except MemoryError as error:
        link.send("failed", error_to_wire(_out_of_memory(error)))
    except Exception as error:  # noqa: BLE001 -- the door: a native library may raise anything at a damaged file
        link.send("failed", error_to_wire(_unexpected(error, ModelLoadError)))
    else:
        link.send("ready", worded(facts), {"memory_bytes": resident_bytes(), **stepper.stats()})
        return stepper
    return None


def options_to_wire(options: EngineOptions) -> dict[str, Any]:
    """Return the options as plain data."""
    return {each.name: getattr(options, each.name) for each in dataclasses.fields(options)}


def _unexpected(error: Exception, kind: type[QwenOpsError] = EngineError) -> QwenOpsError:
    """Turn what nobody expected into a typed error; the traceback goes to standard error."""
    traceback.print_exception(error, file=sys.stderr)
    return kind(
        say("The engine failed: {error}.", error=f"{type(error).__name__}: {error}"),
        hint=say("The log of the server has the details."),
    )


def _out_of_memory(error: MemoryError) -> InsufficientMemoryError:
    traceback.print_exception(error, file=sys.stderr)
    return InsufficientMemoryError(
        say("The engine ran out of memory."),
        needed_bytes=0,
        available_bytes=0,
        hint=say("Lower max_running or kv_cache_bytes, choose a smaller model, or give it more memory."),
    )


def main(arguments: Sequence[str]) -> int:
    """Run as an engine's process over the socket whose descriptor is the only argument."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    # Whoever stops the server signals the whole group; the server decides when its engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(arguments[0])) as end:
        try:
            return serve(Link(end))
        except EOFError:
            return 1
