"""Write the reference pages from the code: commands, options, errors, metrics, HTTP API, measured quantities.

python -m tools.generate_reference            # write docs/reference/*.md and docs/zh/reference/*.md
python -m tools.generate_reference --check    # change nothing; exit 1 when a page is out of date
"""

import argparse
import asyncio
import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from qwenops.cli.root import root
from qwenops.cli.terminal import Terminal
from qwenops.config import all_options
from qwenops.errors import QwenOpsError, error_classes
from qwenops.observe.metrics import Metrics
from qwenops.observe.options import LogOptions
from qwenops.options import possible_values, show_value
from qwenops.serve.auth import KEYS_FILE_VARIABLE, KEYS_VARIABLE, KeyRing
from qwenops.serve.openapi import complete
from qwenops.serve.options import ServeOptions
from qwenops.serve.schemas import IGNORED_FIELDS, REFUSED_FIELDS
from qwenops.serve.site import Farewell, build_site
from qwenops.text import Language
from tools.definitions_page import definitions_parts, table

FOLDER = Path(__file__).parent.parent / "docs"
WIDTH = 88
MANY = 10**9
NOTE = "<!-- Written by tools/generate_reference.py; change the code instead. -->"


OTHER_VARIABLES = (
    ("QWENOPS_HOME", "Folder of the models, the keys and the run files, instead of the user's own folders."),
    ("QWENOPS_CONFIG", "Configuration file, as `--config` names it."),
    ("QWENOPS_LANG", "Language of what the command line prints, `en` or `zh`; else that of the locale."),
    (KEYS_FILE_VARIABLE, "File with API keys, one a line; for containers, beside `serve.keys.file`."),
    (KEYS_VARIABLE, "API keys themselves, in the same form."),
    ("HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH", "As Hugging Face's own tools read them, where `[hub]` has its default."),
    ("MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN", "The same for ModelScope."),
    ("NO_COLOR", "When it is set, nothing is printed in colour."),
)


def commands() -> Iterator[tuple[str, click.Context]]:
    """Yield every command with a context of its own, groups before their commands."""
    top = click.Context(root, info_name="qwenops", obj=Terminal(environ={}), help_option_names=["-h", "--help"])
    waiting = [top]
    while waiting:
        ctx = waiting.pop(0)
        yield ctx.command_path, ctx
        if isinstance(ctx.command, click.Group):
            for name in ctx.command.list_commands(ctx):
                command = ctx.command.get_command(ctx, name)
                if command is not None:
                    waiting.append(click.Context(command, info_name=name, parent=ctx))


def help_of(ctx: click.Context) -> str:
    """Return a help page as a terminal of a fixed width would show it."""
    formatter = ctx.command.context_class.formatter_class(width=WIDTH)
    ctx.command.format_help(ctx, formatter)
    return formatter.getvalue().rstrip("\n")


def cli_page() -> str:
    """Return the page of all commands."""
    parts = [
        NOTE,
        "# Commands",
        (
            "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 gate not met, 4 a part is missing, "
            "130 interrupted; `bench gate` and `bench slo` also 10 regression, 11 objective missed, 12 inconclusive, "
            "13 a run that proves nothing. With `--json`, data (or an error) is one JSON document on standard output; "
            "its `schema` names its form and version. Progress, remarks and errors go to standard error."
        ),
    ]
    for path, ctx in sorted(commands(), key=lambda item: item[0]):
        parts += [f"## `{path}`", f"```text\n{help_of(ctx)}\n```"]
    return "\n\n".join(parts)


def options_page() -> str:
    """Return the page of all options."""
    parts = [
        NOTE,
        "# Options",
        (
            "Each option is a key of `qwenops.toml`, an environment variable and, where one is named, a flag. Flags go "
            "before variables, variables before the file. A running server takes new values of *live* options over. "
            "Durations are written `30s`, `10m`, `1h30m`, sizes `4GiB`; `qwenops config show` says what is in force "
            "and where it came from. The file is `--config`, else `QWENOPS_CONFIG`, else `./qwenops.toml`, else "
            "`~/.config/qwenops/qwenops.toml`. Secrets are read from the variable, or from the file that the variable "
            "with `_FILE` at its end names."
        ),
    ]
    by_section: dict[str, list[tuple[str, ...]]] = {}
    for each in all_options():
        spec = each.spec
        default = "" if spec.secret else show_value(each.default, spec)
        row = (
            f"`{each.path[-1]}`",
            f"`{default}`" if default else "",
            possible_values(each.type, spec),
            spec.help + (" *Live.*" if spec.live else "") + (" *Secret.*" if spec.secret else ""),
            f"`{each.variable}`" + (f" `{each.flag}`" if each.flag else ""),
        )
        by_section.setdefault(each.section, []).append(row)
    for section, rows in by_section.items():
        parts += [f"## `[{section}]`", table(("key", "default", "possible", "meaning", "variable and flag"), rows)]
    parts += [
        "## Other variables",
        table(("variable", "meaning"), [(f"`{name}`", what) for name, what in OTHER_VARIABLES]),
    ]
    return "\n\n".join(parts)


def errors_page() -> str:
    """Return the page of all errors."""
    rows = [
        (f"`{name}`", f"`{error.code}`", str(error.http_status), str(error.exit_code), first_line(error))
        for name, error in sorted(error_classes().items())
        if error.__module__ == QwenOpsError.__module__
    ]
    return "\n\n".join(
        (
            NOTE,
            "# Errors",
            (
                "Every error has a message (what happened, and what was possible) and a hint (what to do). The API "
                "answers with the code and the HTTP status, the command line ends with the exit code."
            ),
            table(("error", "code", "HTTP", "exit code", "meaning"), rows),
        )
    )


def first_line(error: type[QwenOpsError]) -> str:
    """Return the first line of a docstring."""
    return (error.__doc__ or "").strip().splitlines()[0]


def metrics_page() -> str:
    """Return the page of all metrics."""
    rows = [
        (f"`{each.name}`", each.kind, each.unit, ", ".join(f"`{label}`" for label in each.labels), each.help)
        for each in sorted(Metrics().declared, key=lambda each: each.name)
    ]
    return "\n\n".join(
        (NOTE, "# Metrics", "Served on `/metrics`.", table(("name", "kind", "unit", "labels", "meaning"), rows))
    )


def api_page() -> str:
    """Return the page of all HTTP routes, from the server's own description."""
    document = asyncio.run(api_description())
    shapes = document["components"]["schemas"]
    parts = [
        NOTE,
        "# HTTP API",
        (
            "A running server describes itself at `/openapi.json` (OpenAPI 3.1). Every error has the shape of "
            "`ErrorReply`: OpenAI's, with a `hint` beside the message; `X-Request-Id` names the request in the log. "
            "Errors are told in Chinese to those whose `Accept-Language` prefers it. With `stream` an answer comes as "
            "server-sent events; one that fails after its beginning ends with an event of the type `error` and "
            "without `[DONE]`. An unknown field is refused with the nearest known one."
        ),
        "## Routes",
        table(("route", "meaning", "answers"), list(api_routes(document))),
    ]
    for name in ("InferenceRequest", "ChatRequest", "CompletionRequest", "InferenceReply", "ModelInfoReply"):
        parts += [f"## `{name}`", table(("field", "type", "meaning"), list(api_fields(shapes[name])))]
    parts += [
        "## Fields of OpenAI without effect",
        table(("field", "why"), [(f"`{name}`", why) for name, why in IGNORED_FIELDS.items()]),
        "## Fields of OpenAI that are refused",
        table(("field", "in its place"), [(f"`{name}`", why) for name, why in REFUSED_FIELDS.items()]),
    ]
    return "\n\n".join(parts)


async def api_description() -> dict[str, Any]:
    """Return what a server without keys and without an engine says of itself."""
    site = build_site(ServeOptions(log=LogOptions(destination="off")), KeyRing())
    if not isinstance(site.app, Farewell):
        raise TypeError(site.app)
    return complete(site.app.app)


def api_routes(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each route."""
    for path, operations in sorted(document["paths"].items()):
        for method, operation in operations.items():
            statuses = ", ".join(sorted(operation["responses"]))
            yield f"`{method.upper()} {path}`", operation.get("summary", ""), statuses


def api_fields(shape: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each field of a body."""
    required = set() if shape["title"].endswith("Reply") else set(shape.get("required", ()))
    for name, field in shape["properties"].items():
        said = field.get("description", "")
        yield f"`{name}`", api_type(field), f"**Required.** {said}".strip() if name in required else said


def api_type(field: dict[str, Any]) -> str:
    """Say in a few words what a field may hold."""
    choices = field.get("anyOf") or field.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(api_type(each) for each in choices if each.get("type") != "null"))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    word = str(field.get("$ref", "").rpartition("/")[2] or field.get("type", "any"))
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and abs(low) < MANY:
        word += f" {low:,} to {high:,}" if high is not None and high < MANY else f" from {low:,}"
    return word


def definitions_page(language: Language) -> str:
    """Return the page of what `qwenops bench` measures, in a language."""
    return "\n\n".join((NOTE, *definitions_parts(language)))


PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": cli_page,
    "reference/options.md": options_page,
    "reference/errors.md": errors_page,
    "reference/metrics.md": metrics_page,
    "reference/api.md": api_page,
    "reference/definitions.md": lambda: definitions_page("en"),
    "zh/reference/definitions.md": lambda: definitions_page("zh"),
}
"""By its place within the documentation."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write or compare the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(argv)
    code = 0
    for name, page in PAGES.items():
        path, text = FOLDER / name, page() + "\n"
        before = path.read_text("utf-8") if path.exists() else ""
        if options.check and before != text:
            sys.stdout.writelines(
                difflib.unified_diff(before.splitlines(keepends=True), text.splitlines(keepends=True), name, "code")
            )
            code = 1
        elif not options.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
