"""`qwenops bench`: how fast a server is, what it can promise, and whether a change made it better."""

import click

from qwenops.cli.help import Tree
from qwenops.text import say

BENCH = {
    "quick": ("qwenops.cli.bench_load:quick", say("A first look at any server: latency, two callers, the report.")),
    "latency": (
        "qwenops.cli.bench_load:latency",
        say("One caller: with a prefix cache and without, thinking off and on."),
    ),
    "load": ("qwenops.cli.bench_load:load", say("A rate, or a number of callers, for a while.")),
    "stress": ("qwenops.cli.bench_limits:stress", say("More and more callers: the knee, and what comes after it.")),
    "soak": ("qwenops.cli.bench_load:soak", say("Hours: does it leak, does it drift?")),
    "slo": ("qwenops.cli.bench_limits:slo", say("The highest rate that keeps an objective.")),
    "compare": ("qwenops.cli.bench_verdict:compare", say("Two targets over the same requests: which is faster?")),
    "noise": ("qwenops.cli.bench_verdict:noise", say("A target against itself: what a comparison here could find.")),
    "gate": ("qwenops.cli.bench_verdict:gate", say("A run against a baseline, for continuous integration.")),
    "startup": ("qwenops.cli.bench_limits:startup", say("From the start of a server to its first token.")),
    "report": ("qwenops.cli.bench_verdict:report", say("Write the HTML page of a run.")),
    "locust": ("qwenops.cli.bench_locust:locust", say("Measure with Locust, also with several workers.")),
    "selftest": ("qwenops.cli.bench_verdict:selftest", say("Measure a server of known speed on this machine.")),
    "import": ("qwenops.cli.bench_verdict:import_run", say("Take over results of vLLM's benchmark or GuideLLM.")),
}
"""Name to `module:command` and what it does in one line, in the order of the help page."""


@click.group(
    "bench",
    cls=Tree,
    table=BENCH,
    help=say(
        "Measure a server: any URL that speaks OpenAI's protocol, Ollama, or a model in this process. Each run leaves "
        "a folder with every request, and one HTML page that needs no network."
    ),
    examples=(
        ("qwenops bench quick http://127.0.0.1:8000", say("A first look, in about two minutes.")),
        ("qwenops bench load http://127.0.0.1:8000 --users 1,2,4,8", say("Speed with more and more callers.")),
    ),
)
def bench() -> None:
    """Hold the commands."""
