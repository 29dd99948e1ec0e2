"""`qwenops calls`: transcripts of calls, from what a call centre has to what a model is trained on, and back."""

import click

from qwenops.cli.help import Tree
from qwenops.text import say

CALLS = {
    "validate": ("qwenops.cli.calls_look:validate", say("Say everything that is wrong with calls and labels.")),
    "stats": ("qwenops.cli.calls_look:stats", say("Say what a set of calls is like.")),
    "redact": ("qwenops.cli.calls_make:redact", say("Take personal data out.")),
    "dedupe": ("qwenops.cli.calls_make:dedupe", say("Find calls that are nearly the same.")),
    "split": ("qwenops.cli.calls_make:split", say("Divide calls for training, validation and test, without leaks.")),
    "synth": ("qwenops.cli.calls_make:synth", say("Make synthetic calls, whose truth is known.")),
    "label": ("qwenops.cli.calls_review:label", say("Make labels of what people said.")),
    "erase": ("qwenops.cli.calls_review:erase", say("Remove everything about a customer.")),
    "trends": ("qwenops.cli.classify_pages:trends", say("Show what calls were about week by week, as a page.")),
    "audit": ("qwenops.cli.calls_review:audit", say("Show who labelled, promoted, saw and erased.")),
}
"""Name to `module:command` and what it does in one line, in the order of the help page."""


@click.group(
    "calls",
    cls=Tree,
    table=CALLS,
    help=say(
        "Prepare transcripts of calls: lines of JSON, CSV, .xlsx, transcripts of speech recognition. A file is known "
        "by its content; what is wrong is said with file, line and field, all at once."
    ),
    examples=(
        ("qwenops calls redact calls.csv --out calls.jsonl", say("From a table to calls without personal data.")),
        ("qwenops calls synth --out demo --calls 2000", say("Something to try everything with.")),
    ),
)
def calls() -> None:
    """Hold the commands."""
