"""The door of the command line: chooses the language, runs the command, and turns what went wrong into an exit code.

0 ok, 1 failed, 2 usage or configuration, 3 gate not met, 4 part missing, 130 interrupted.
"""

import gettext
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
from click.exceptions import NoArgsIsHelpError

from qwenops.cli.root import root
from qwenops.cli.terminal import NAME, Terminal
from qwenops.errors import ConfigError, QwenOpsError
from qwenops.text import CATALOGUES, DOMAIN, Language, choose_language, say

INTERRUPTED = 130
COMPLETE = "_QWENOPS_COMPLETE"
"""Set by the script of `qwenops completion` when a shell asks what could follow."""


def run(argv: Sequence[str], environ: Mapping[str, str] | None = None, *, argv0: str = NAME) -> int:
    """Run one command line and return its exit code; nothing is raised. `argv0` is how the program was called."""
    environ = os.environ if environ is None else environ
    argv = language_first(argv)
    own = list(argv[: argv.index("--")] if "--" in argv else argv)
    terminal = Terminal(environ=environ, language=choose_language(asked_language(own), environ), argv0=argv0)
    with spoken(terminal.language):
        try:
            return _run(list(argv), terminal, as_json="--json" in own, verbose="-vv" in own)
        except BrokenPipeError:
            # Whoever read the output has seen enough. Python would complain again while it closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def _run(argv: list[str], terminal: Terminal, *, as_json: bool, verbose: bool) -> int:
    try:
        return _invoke(argv, terminal)
    except (click.Abort, EOFError, KeyboardInterrupt):
        terminal.tell(say("Interrupted."))
        return INTERRUPTED
    except NoArgsIsHelpError as asked:
        terminal.show(asked.format_message())
        return 0
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 -- the door: nothing may leave it
        failure = as_our_error(error)
        if failure is not error and not isinstance(error, click.ClickException):
            verbose = True
        if verbose:
            _print_traceback()
        terminal.fail(failure, as_json=as_json)
        return failure.exit_code


def _invoke(argv: list[str], terminal: Terminal) -> int:
    """Parse and run; `click.Command.main` is left out because it ends the process when a pipe is closed."""
    asked = terminal.environ.get(COMPLETE)
    if asked:
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, NAME, COMPLETE, asked)
    try:
        with root.make_context(NAME, argv, obj=terminal) as ctx:
            code = root.invoke(ctx)
    except click.exceptions.Exit as left:
        code = left.exit_code
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def as_our_error(error: Exception) -> QwenOpsError:
    """Return an error of ours for anything that was raised: a wrong command line, or a defect."""
    if isinstance(error, QwenOpsError):
        return error
    if isinstance(error, click.UsageError):
        return usage_error(error)
    if isinstance(error, click.ClickException):
        return QwenOpsError(error.format_message())
    return QwenOpsError(
        say("{kind}: {reason}", kind=type(error).__name__, reason=error),
        hint=say("This is a defect of qwenops; please report the lines above."),
    )


def usage_error(error: click.UsageError) -> ConfigError:
    """Return click's complaint as one of our errors: the sentence, and how to get help as its hint."""
    path = error.ctx.command_path if error.ctx else "qwenops"
    return ConfigError(error.format_message(), hint=say("`{command} --help` shows what is possible.", command=path))


def asked_language(argv: Sequence[str]) -> str:
    """Return what `--lang` says; it is wanted before anything is parsed, since parsing may print."""
    for here, following in zip(argv, [*argv, ""][1:], strict=True):
        if here == "--lang":
            return following
        if here.startswith("--lang="):
            return here.partition("=")[2]
    return ""


def language_first(argv: Sequence[str]) -> list[str]:
    """Return the command line with `--lang` before the command, wherever it was typed."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    for number, word in enumerate(own):
        end = number + 2 if word == "--lang" else number + 1 if word.startswith("--lang=") else 0
        if 0 < end <= len(own):
            return [*argv[number:end], *argv[:number], *argv[end:]]
    return list(argv)


@contextmanager
def spoken(language: Language) -> Iterator[None]:
    """Let click's own words come from our catalogue."""
    before = (gettext.textdomain(), os.environ.get("LANGUAGE"))
    gettext.bindtextdomain(DOMAIN, CATALOGUES)
    gettext.textdomain(DOMAIN)
    os.environ["LANGUAGE"] = language
    try:
        yield
    finally:
        gettext.textdomain(before[0])
        if before[1] is None:
            del os.environ["LANGUAGE"]
        else:
            os.environ["LANGUAGE"] = before[1]


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()
