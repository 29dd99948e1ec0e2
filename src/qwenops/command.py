"""The only place where another program is started.

    finished = run(["ss", "-ltn"], timeout_s=5.0)
    with spawn([sys.executable, "-m", "qwenops.engines.worker"], pass_fds=(fd,)) as child: ...

What holds for every program started here:

* it is an argv list and never goes through a shell, so `shown(argv)` and a dry run are exactly what would run (but for
  the secrets of a command that others typed: `masked(argv)`);
* it leads a session of its own, so a time-out or `kill()` ends it with all that it started, and Ctrl-C reaches only us;
* it dies with this process, however that dies (see `_GUARD`), and so do programs that it starts through this module;
* nothing of its process group outlives it, and it is reaped as soon as its end is seen;
* a secret travels by environment or standard input, wrapped in `Secret`. Command lines are readable by every user of
  the machine, so an argument that holds a secret is refused, and errors show secrets as `***`.
"""

import contextlib
import os
import queue
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self, cast

from qwenops.errors import CommandError, DeadlineError, QwenOpsError
from qwenops.text import Text, say

DEVNULL = subprocess.DEVNULL
PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT

MAX_OUTPUT_BYTES = 32 * 1024**2
"""Of standard output, after which `run` gives up; of standard error only the last part of this size is kept."""

_TAIL_CHARACTERS = 2000
_POLL_S = 0.05
_REAP_S = 10.0
"""After a kill; only a process that the kernel cannot end, for example on a dead network disk, takes longer."""
_MASK = "***"

_LOOKS_SECRET = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^--?(?:[a-z0-9]+[-_])*(?:password|passwd|secret|api[-_]?key|(?:access|auth|bearer)[-_]?token)=.+",
        r"\bbearer\s+\S{8,}",
        r"^[a-z][a-z0-9+.-]*://[^/@\s:]+:[^/@\s]+@",
        r"\bhf_[A-Za-z0-9]{30,}",
        r"\bsk-[A-Za-z0-9_-]{20,}",
    )
)

_SURE = 8
"""Characters of a secret that is looked for in other words, too; a shorter one may stand there by chance."""
_HELD = r"(?:[a-z0-9]+[-_])*(?:password|passwd|pass|secret|key|apikey|token|credentials?)"
_SECRET_FLAG = re.compile(rf"^(?:--?{_HELD}|-hft)$", re.IGNORECASE)
_SECRET_SETTING = re.compile(rf"^(?:--?)?{_HELD}=(.+)", re.IGNORECASE | re.DOTALL)
_SECRET_WITHIN = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bbearer\s+([^\s'\"]{4,})",
        r"://[^/@\s:]+:([^/@\s]+)@",
        r"\b(hf_[A-Za-z0-9]{30,})",
        r"\b(sk-[A-Za-z0-9_-]{16,})",
    )
)

# PR_SET_PDEATHSIG asks the kernel to kill a process when its parent dies, but only the process itself can ask. Doing
# it between fork and exec in this process (`preexec_fn`) can deadlock, because other threads may hold locks at the
# fork. So a tiny interpreter is started in the program's place: it asks, and then becomes the program (same pid).
# - The parent may have died before the question was asked; then the parent's pid has changed already, and it ends.
# - "Parent" means the thread that forked, not the process: see `_Starter`.
# - Python ignores two signals and may set LC_CTYPE in the C locale; both would be inherited, so both are put back.
# - A program with set-uid bits or file capabilities loses the request at exec; that is the kernel's rule.
_GUARD = """
import ctypes, os, signal, sys
_, parent, keep_ctype, path, *argv = sys.argv
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != int(parent):
    os._exit(137)
for each in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(each, signal.SIG_DFL)
if keep_ctype != "1":
    os.environ.pop("LC_CTYPE", None)
try:
    os.execv(path, argv)
except OSError as error:
    os.write(2, f"{path}: {error.strerror}\\n".encode())
    os._exit(126)
"""

Argument = str | os.PathLike[str]
Stream = int | IO[bytes] | None


class Secret:
    """A text that is not shown: its `repr` and `str` are `***`; only `reveal()` gives it out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Wrap `text`."""
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        """Show nothing of it."""
        return f"Secret({_MASK})"

    def __str__(self) -> str:
        """Show nothing of it."""
        return _MASK


Environment = Mapping[str, str | Secret | None]
"""Variables set on top of this process's own; None takes one away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a program ended and what it said."""

    argv: tuple[str, ...]
    returncode: int
    """Negative when a signal ended it; 0 in a dry run."""
    stdout: str = ""
    stderr: str = ""
    """The last `MAX_OUTPUT_BYTES` of it at most."""


def shown(argv: Sequence[Argument]) -> str:
    """Write a command as one would type it into a shell; its secrets are `***`."""
    return shlex.join(masked(os.fspath(each) for each in argv))


def masked(argv: Iterable[str]) -> list[str]:
    """Return the words of a command with `***` for its secrets: a word may be a whole command itself."""
    words = list(argv)
    long = {secret for secret in secrets_in(words) if len(secret) >= _SURE}
    return [
        _MASK if follows else hide(word, {*secrets_in([word]), *long})
        for word, follows in zip(words, _follow(words), strict=True)
    ]


def secrets_in(argv: Iterable[str]) -> tuple[str, ...]:
    """Return what looks like a secret in a command: after `--api-key` and its like, in `HF_TOKEN=`, a bearer."""
    words, found = list(argv), dict[str, None]()
    for word, follows in zip(words, _follow(words), strict=True):
        if follows:
            found[word] = None
            continue
        if (setting := _SECRET_SETTING.search(word)) is not None and not any(map(str.isspace, setting[0])):
            found[setting[1]] = None
        for pattern in _SECRET_WITHIN:
            found.update(dict.fromkeys(pattern.findall(word)))
        if any(map(str.isspace, word)):
            with contextlib.suppress(ValueError):
                inner = shlex.split(word)
                found.update(dict.fromkeys(secrets_in(inner) if inner != [word] else ()))
    return tuple(found)


def hide(text: str, secrets: Collection[str]) -> str:
    """Return a text with `***` in the place of each secret that stands in it as a word of its own."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    return text


def _follow(words: Sequence[str]) -> list[bool]:
    """Say of each word whether it is the value of a flag before it that takes a secret."""
    flags = [False, *(_SECRET_FLAG.match(word) is not None for word in words)]
    return [flag and not word.startswith("--") for flag, word in zip(flags, words, strict=False)]


def run(
    argv: Sequence[Argument],
    *,
    timeout_s: float,
    env: Environment | None = None,
    cwd: Path | None = None,
    input_text: str | Secret | None = None,
    ok_codes: Collection[int] | None = (0,),
    dry_run: bool = False,
) -> Finished:
    """Run a program to its end and return what it said.

    Args:
        argv: The program and its arguments.
        timeout_s: After this many seconds it is killed with all that it started.
        env: Variables on top of this process's own.
        cwd: Where it runs.
        input_text: What it reads from standard input; nothing by default.
        ok_codes: Exit statuses that are no failure; None accepts every one, also an end by a signal.
        dry_run: Check the arguments, start nothing, and return the argv that would have run.

    Raises:
        CommandError: The program is missing, ended with another status, said too much, or its arguments are refused.
        DeadlineError: It took longer than `timeout_s`.
    """
    secrets = _secrets(env, input_text)
    words = _checked(argv, secrets)
    if dry_run:
        return Finished(argv=words, returncode=0)
    text = input_text.reveal() if isinstance(input_text, Secret) else input_text
    with spawn(words, env=env, cwd=cwd, stdin=DEVNULL if text is None else PIPE, stdout=PIPE, stderr=PIPE) as child:
        talk = _Talk(child, (text or "").encode())
        try:
            talk.hold(time.monotonic() + timeout_s)
            returncode = child.wait(timeout_s=_REAP_S)
        finally:
            talk.close()
    stdout, stderr = talk.texts()
    if talk.failure is not None:
        raise talk.failure(words[0], timeout_s, _masked(stderr, secrets))
    if ok_codes is not None and returncode not in ok_codes:
        raise _failed(words, returncode, _masked(stderr or stdout, secrets))
    return Finished(argv=words, returncode=returncode, stdout=stdout, stderr=stderr)


def spawn(
    argv: Sequence[Argument],
    *,
    pass_fds: Sequence[int] = (),
    env: Environment | None = None,
    cwd: Path | None = None,
    stdin: Stream = DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
) -> "Spawned":
    """Start a program and return at once. Use the result as a context manager, or `wait` for it, so that it is reaped.

    A stream is a file, a descriptor, `DEVNULL`, `PIPE`, or None for this process's own.

    Raises:
        CommandError: The program is missing or cannot be executed, or its arguments are refused.
    """
    secrets = _secrets(env, None)
    words = _checked(argv, secrets)
    environment = _environment(env)
    path = _found(words[0], cwd, environment)
    guarded = [path, *words[1:]]
    executable: str | None = path
    if sys.platform == "linux":
        keep_ctype = "1" if "LC_CTYPE" in environment else "0"
        guarded = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), keep_ctype, path, *words]
        executable = None

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            guarded,
            executable=executable,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )

    try:
        return Spawned(words, _starter().call(start))
    except (OSError, ValueError) as error:
        raise CommandError(
            say("Could not start {program}: {reason}.", program=words[0], reason=_masked(str(error), secrets)),
            hint=say("Check that the folder it should run in exists and that this user may start programs there."),
        ) from error


class Spawned:
    """A program that was started. Leaving its `with` block kills and reaps it."""

    def __init__(self, argv: tuple[str, ...], process: subprocess.Popen[bytes]) -> None:
        """Take over a process that leads its own group."""
        self.argv = argv
        self._process = process
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes] | None:
        """Where to write, when it was started with `stdin=PIPE`."""
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes] | None:
        """Where to read, when it was started with `stdout=PIPE`."""
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        """Where to read, when it was started with `stderr=PIPE`."""
        return self._process.stderr

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        with self._lock:
            if self._process.returncode is None and self._has_ended():
                # The dead leader still holds its number, so the group's id cannot belong to anybody else yet.
                self._signal_group(signal.SIGKILL)
                self._process.wait()
            return self._process.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return the exit status.

        Raises:
            DeadlineError: It still runs after `timeout_s`.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = 0.001
        while (returncode := self.poll()) is None:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise DeadlineError(
                    say("{program} still runs after {seconds:g} s.", program=self.argv[0], seconds=timeout_s)
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _POLL_S)
        return returncode

    def terminate(self) -> None:
        """Ask it to end (SIGTERM to the program itself, which looks after what it started)."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything in its process group at once."""
        with self._lock:
            if self._process.returncode is None:
                self._signal_group(signal.SIGKILL)

    def stop(self, *, grace_s: float) -> int:
        """Ask it to end, kill it after `grace_s`, and return the exit status."""
        self.terminate()
        try:
            return self.wait(timeout_s=grace_s)
        except DeadlineError:
            self.kill()
            return self.wait(timeout_s=_REAP_S)

    def __enter__(self) -> Self:
        """Give it out."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill and reap it, and close the ends of its pipes."""
        self.kill()
        self.wait(timeout_s=_REAP_S)
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _has_ended(self) -> bool:
        """Look without reaping."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _signal_group(self, number: signal.Signals) -> None:
        # On some systems a group of nothing but the dead leader answers PermissionError.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


@dataclass(slots=True)
class _Talk:
    """Feeds a program and collects what it says, within bounds of time and size."""

    child: Spawned
    unsent: bytes
    failure: Callable[[str, float, str], QwenOpsError] | None = None
    said: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def hold(self, deadline_s: float) -> None:
        """Talk until the program has ended or said everything, or a bound is broken; then it is killed."""
        for name, stream in (("stdin", self.child.stdin), ("stdout", self.child.stdout), ("stderr", self.child.stderr)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self.selector.register(stream, selectors.EVENT_WRITE if name == "stdin" else selectors.EVENT_READ, name)
        while self.failure is None and self.selector.get_map():
            ready = self.selector.select(timeout=_POLL_S)
            for key, _ in ready:
                self._turn(key)
            if not ready and self.child.poll() is not None:
                break  # something that left its group still holds the pipe; the program itself has ended
            if time.monotonic() >= deadline_s:
                self.failure = _too_slow
        while self.failure is None and self.child.poll() is None:
            time.sleep(0.001)
            if time.monotonic() >= deadline_s:
                self.failure = _too_slow
        if self.failure is not None:
            self.child.kill()
            self.child.wait(timeout_s=_REAP_S)

    def _turn(self, key: selectors.SelectorKey) -> None:
        name: str = key.data
        stream = cast("IO[bytes]", key.fileobj)
        try:
            if name == "stdin":
                self.unsent = self.unsent[os.write(stream.fileno(), self.unsent[:65536]) :]
                ended = not self.unsent
            else:
                piece = os.read(stream.fileno(), 65536)
                self.said[name] += piece
                ended = not piece
        except BrokenPipeError:
            ended = True
        except BlockingIOError:
            return
        if len(self.said["stdout"]) > MAX_OUTPUT_BYTES:
            self.failure = _too_much
        if len(self.said["stderr"]) > 2 * MAX_OUTPUT_BYTES:
            del self.said["stderr"][:-MAX_OUTPUT_BYTES]
        if ended:
            self.selector.unregister(stream)
            if name == "stdin":
                stream.close()

    def texts(self) -> tuple[str, str]:
        """Return what it said on standard output and error."""
        return (
            self.said["stdout"].decode(errors="replace"),
            self.said["stderr"][-MAX_OUTPUT_BYTES:].decode(errors="replace"),
        )

    def close(self) -> None:
        """Give the selector back."""
        self.selector.close()


class _Starter:
    """One thread that starts all programs and never ends.

    The kernel sends the death signal when the *thread* that forked ends. A program started from a short-lived thread
    (a pool's, `asyncio.to_thread`) would be killed with that thread, so every start happens here.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="qwenops-start", daemon=True).start()

    def call(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Call `start` in the thread, and return or raise what it does."""
        done: queue.SimpleQueue[subprocess.Popen[bytes] | BaseException] = queue.SimpleQueue()

        def work() -> None:
            try:
                done.put(start())
            except BaseException as error:  # noqa: BLE001 -- raised again in the thread that asked
                done.put(error)

        self._waiting.put(work)
        outcome = done.get()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _work(self) -> None:
        while True:
            self._waiting.get()()


_starters: list[_Starter] = []
_starters_lock = threading.Lock()


def _starter() -> _Starter:
    """Return this process's starter; threads do not survive a fork, so a forked process makes a new one."""
    with _starters_lock:
        if not _starters or _starters[-1].pid != os.getpid():
            _starters[:] = [_Starter()]
        return _starters[-1]


def _secrets(env: Environment | None, input_text: str | Secret | None) -> tuple[str, ...]:
    """Collect the texts that must not be shown."""
    given = [*(env or {}).values(), input_text]
    return tuple(each.reveal() for each in given if isinstance(each, Secret) and each.reveal())


def _masked(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _MASK)
    return text


def _tail(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _TAIL_CHARACTERS else "…" + text[-_TAIL_CHARACTERS:]


def _checked(argv: Sequence[Argument], secrets: Collection[str]) -> tuple[str, ...]:
    """Return the argv as texts; refuse what would show a secret to every user of the machine."""
    if not argv:
        raise CommandError(say("There is no program to run: the command is empty."))
    for place, each in enumerate(argv):
        word = each.reveal() if isinstance(each, Secret) else os.fspath(each)
        if (
            isinstance(each, Secret)
            or any(secret in word for secret in secrets)
            or any(pattern.search(word) for pattern in _LOOKS_SECRET)
        ):
            raise CommandError(
                say(
                    "Argument {place} of {program} looks like a secret; every user of this machine can read it there.",
                    place=place,
                    program=str(argv[0]),
                ),
                hint=say("Pass it in the environment or on standard input."),
            )
        if "\0" in word:
            raise CommandError(
                say("Argument {place} of {program} contains a zero byte.", place=place, program=repr(str(argv[0])))
            )
    return tuple(os.fspath(each) for each in argv)


def _environment(env: Environment | None) -> dict[str, str]:
    environment = dict(os.environ)
    for name, value in (env or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value.reveal() if isinstance(value, Secret) else value
    return environment


def _found(program: str, cwd: Path | None, environment: Mapping[str, str]) -> str:
    """Return the absolute path of a program, looked up as the new process would."""
    if os.sep in program:
        candidate = str(Path(cwd or ".").absolute() / program)
        path = candidate if os.access(candidate, os.X_OK) and Path(candidate).is_file() else None
    else:
        path = shutil.which(program, path=environment.get("PATH", os.defpath))
    if path is None:
        raise CommandError(
            say("The program {program} is not here, or may not be executed.", program=repr(program)),
            hint=say("Install it, or put its folder into PATH."),
        )
    return os.path.abspath(path)  # noqa: PTH100 -- resolving links would change what a program thinks it is


def _failed(argv: tuple[str, ...], returncode: int, said: str) -> CommandError:
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = str(-returncode)
        happened = say("{program} was ended by {signal}", program=argv[0], signal=name)
    else:
        happened = say("{program} ended with status {status}", program=argv[0], status=returncode)
    return CommandError(
        _with_words(happened, said),
        hint=say("The whole command: {command}", command=shown(argv)),
        returncode=returncode,
        stderr=said,
    )


def _too_slow(program: str, timeout_s: float, said: str) -> QwenOpsError:
    happened = say("{program} took longer than {seconds:g} s and was ended", program=program, seconds=timeout_s)
    return DeadlineError(_with_words(happened, said))


def _too_much(program: str, _timeout_s: float, said: str) -> QwenOpsError:
    limit_mib = MAX_OUTPUT_BYTES // 1024**2
    happened = say("{program} said more than {limit_mib} MiB and was ended", program=program, limit_mib=limit_mib)
    return CommandError(_with_words(happened, said), stderr=said)


def _with_words(happened: Text, said: str) -> Text:
    """Make a sentence of what happened, with the program's last words where it had any."""
    words = _tail(said)
    return (
        say("{happened}: {words}", happened=happened, words=words) if words else say("{happened}.", happened=happened)
    )
