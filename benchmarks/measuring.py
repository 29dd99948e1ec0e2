"""The commands of `qwenops bench` against our own server, at the true 0.6B shape; the results and reports are kept.

    python -m benchmarks.measuring [--only serving,capacity] [--model random:0.6b]

Takes about 100 minutes on two cores; nothing else should run meanwhile. A step writes `results/measuring-<step>.json`
(the conclusion and the summary of every part, not the single requests) and `reports/<step>.html`, the report as any run
has it. The weights are random, so answers have their full length and mean nothing; the time they take is real.
"""

import argparse
import asyncio
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recording import write_result
from qwenops.bench.spawned import spawned_server
from qwenops.deploy.demo_speed import server_environ
from qwenops.errors import QwenOpsError

REPORTS = Path(__file__).parent / "reports"
READY_TIMEOUT_S = 300.0
STEP_TIMEOUT_S = 3600.0
VERDICTS = frozenset({0, 3, 10, 11, 12, 13})
"""Exit statuses that are results: passed, unstable, regression, objective missed, inconclusive, invalid."""
MEASURED = frozenset({0, 10, 11, 12})
"""Those of a good measurement; after the others all is written down too, and the end is a failure."""
OBJECTIVE = "ttft p90 < 3s, e2e p90 < 12s, errors < 2%"
"""To prove p95 and 1 % takes some 300 answers at a rate of less than one a second; these take half of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command. `{url}` stands for a server that runs, `{model}` for the model, `{serve}` for a command line."""

    name: str
    arguments: tuple[str, ...]
    serve_options: tuple[str, ...] = ()
    """Of the server that is started for it."""
    runs: tuple[tuple[str, ...], ...] = ()
    """Commands that come first; their folders are called `run-0`, `run-1` and so on."""

    @property
    def needs_server(self) -> bool:
        """Whether a server is started for it."""
        return any("{url}" in each for each in (*self.arguments, *itertools.chain(*self.runs)))

    @property
    def makes_folder(self) -> bool:
        """Whether it leaves a folder with a report."""
        return self.arguments[0] not in {"selftest", "gate"}


STEPS = (
    Step(name="selftest", arguments=("selftest",)),
    Step(name="startup", arguments=("startup", "{serve}", "--starts", "3")),
    Step(name="quick", arguments=("quick", "{url}")),
    Step(name="latency", arguments=("latency", "{url}", "--requests", "20")),
    Step(name="serving", arguments=("load", "{url}", "--users", "1,2,4,8,16", "--duration", "45s", "--cache", "cold")),
    Step(name="rate", arguments=("load", "{url}", "--rate", "0.8", "--duration", "3m", "--slo", OBJECTIVE)),
    Step(name="capacity", arguments=("slo", "{url}", "--slo", OBJECTIVE, "--duration", "12m")),
    Step(
        name="compare",
        arguments=("compare", "openvino:{model}?scheme=int8", "openvino:{model}?scheme=int4"),
    ),
    Step(name="noise", arguments=("noise", "{url}")),
    Step(
        name="stress",
        arguments=(
            "stress",
            "{serve}",
            "--users",
            "1,2,4,8",
            "--duration",
            "30s",
            "--under",
            "cpu=1,memory=4GiB",
            "--under",
            "cpu=2,memory=4GiB",
            "--under",
            "cpu=2,memory=2GiB",
        ),
    ),
    Step(
        name="gate",
        runs=(("load", "{url}", "--users", "4", "--duration", "90s"),) * 2,
        arguments=("gate", "run-1", "--baseline", "run-0", "--max-regress", "10%"),
    ),
    Step(name="locust", arguments=("locust", "{url}", "--users", "4", "--duration", "60s", "--workers", "2")),
    Step(
        name="soak",
        arguments=("soak", "{url}", "--users", "2", "--duration", "20m"),
        # A cache that is full within minutes: until it is, memory grows as it should, and hides a leak.
        serve_options=("--kv-cache", "1GiB"),
    ),
)


PROGRAM = "qwenops"


def environ() -> dict[str, str]:
    """Return an environment in which `qwenops` is that of this installation, so that no path gets into a result."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}


def take(step: Step, words: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Run one step and return what it came to; its report goes to `reports/`."""
    out = folder / step.name
    began_s = time.monotonic()
    for number, each in enumerate(step.runs):
        told(each, words, folder, ("--json", "--out", f"run-{number}"))
    finished = told(step.arguments, words, folder, ("--json", *(["--out", step.name] if step.makes_folder else [])))
    took_s = time.monotonic() - began_s
    if (out / "report.html").is_file():
        REPORTS.mkdir(exist_ok=True)
        shutil.copyfile(out / "report.html", REPORTS / f"{step.name}.html")
    answer = answer_of(finished.stdout)
    return {
        "command": shlex.join(["qwenops", "bench", *step.arguments]),
        "runs_before": [shlex.join(["qwenops", "bench", *each]) for each in step.runs],
        "exit_status": finished.returncode,
        "took_s": round(took_s, 1),
        "answer": answer,
    }


def told(
    arguments: Sequence[str], words: Mapping[str, str], folder: Path, more: Sequence[str]
) -> "subprocess.CompletedProcess[str]":
    """Run one command of `qwenops bench` in `folder`; `words` stand where their names are in braces."""
    filled = list(arguments)
    for name, value in words.items():
        filled = [each.replace(f"{{{name}}}", value) for each in filled]
    argv = [PROGRAM, "bench", *filled, *more]
    return subprocess.run(
        argv, stdout=subprocess.PIPE, text=True, timeout=STEP_TIMEOUT_S, check=False, cwd=folder, env=environ()
    )


def answer_of(said: str) -> dict[str, Any]:
    """Return what a command answered as JSON, or its last words where it ended without an answer."""
    try:
        answer = json.loads(said)
    except ValueError:
        return {"said": said[-2000:]}
    if not isinstance(answer, dict):
        return {"said": said[-2000:]}
    return {name: value for name, value in answer.items() if name not in {"folder", "report"}}


def failure_of(step: Step, found: Mapping[str, Any]) -> str | None:
    """Say why a step's result is no good; None when it is."""
    status = found["exit_status"]
    if status in MEASURED and "said" not in found["answer"]:
        return None
    return f"{step.name}: {'it is a verdict, and a bad one' if status in VERDICTS else 'it failed'} ({status})"


async def measure(step: Step, model: str) -> str | None:
    """Take one step, with a fresh server where it needs one; write its result, and return why it is no good."""
    with tempfile.TemporaryDirectory(prefix="measuring-") as folder:
        home = Path(folder)
        command = " ".join([PROGRAM, "serve", model, "--port", "{port}", *step.serve_options])
        words = {"model": model, "serve": command}
        if step.needs_server:
            env = {**server_environ(os.environ, home), "PATH": environ()["PATH"]}
            async with spawned_server(
                shlex.split(command), url="http://127.0.0.1:{port}", timeout_s=READY_TIMEOUT_S, env=env
            ) as served:
                found = await asyncio.to_thread(take, step, {**words, "url": served.url}, home)
        else:
            found = take(step, words, home)
    write_result(
        f"measuring-{step.name}",
        options={"model": model, "command": found["command"], "serve_options": list(step.serve_options)},
        results=found,
    )
    return failure_of(step, found)


def main(argv: Sequence[str] | None = None) -> int:
    """Take the steps that are asked for, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random:0.6b")
    parser.add_argument("--only", default="", help="names of steps with commas between them")
    asked = parser.parse_args(argv)
    wanted = set(filter(None, asked.only.split(",")))
    unknown = wanted - {each.name for each in STEPS}
    if unknown:
        parser.error(f"there is no step {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in STEPS)}")
    failures: list[str] = []
    for step in STEPS:
        if not wanted or step.name in wanted:
            print(f"== {step.name}", flush=True)
            try:
                failure = asyncio.run(measure(step, asked.model))
            except (QwenOpsError, subprocess.TimeoutExpired) as error:
                failure = f"{step.name}: {error}"
            if failure is not None:
                print(failure, file=sys.stderr, flush=True)
                failures.append(failure)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
