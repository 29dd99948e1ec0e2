"""Every command of `qwenops bench` against our own server, at the true 0.6B shape; the results and reports are kept.

    python -m benchmarks.measuring [--only serving,capacity] [--model random:0.6b]

Takes about 75 minutes on two cores; nothing else should run meanwhile. Each step writes `results/measuring-<step>.json`
(the conclusion and the summary of every part, not the single requests) and `reports/<step>.html`, the report as any run
has it. The weights are random, so answers have their full length and mean nothing; the time they take is real.
"""

import argparse
import asyncio
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
from qwenops.deploy.demo import server_environ

REPORTS = Path(__file__).parent / "reports"
READY_TIMEOUT_S = 300.0
STEP_TIMEOUT_S = 3600.0
VERDICTS = frozenset({0, 10, 11, 12})
"""Exit statuses that are results: passed, regression, objective missed, inconclusive."""
OBJECTIVE = "ttft p95 < 3s, e2e p95 < 12s, errors < 1%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command. `{url}` stands for a server that runs, `{model}` for the model, `{serve}` for a command line."""

    name: str
    arguments: tuple[str, ...]

    @property
    def needs_server(self) -> bool:
        """Whether a server is started for it."""
        return any("{url}" in each for each in self.arguments)


STEPS = (
    Step(name="selftest", arguments=("selftest",)),
    Step(name="startup", arguments=("startup", "{serve}", "--starts", "3")),
    Step(name="quick", arguments=("quick", "{url}")),
    Step(name="latency", arguments=("latency", "{url}", "--requests", "30")),
    Step(name="serving", arguments=("load", "{url}", "--users", "1,2,4,8,16", "--duration", "45s")),
    Step(name="rate", arguments=("load", "{url}", "--rate", "0.8", "--duration", "3m", "--slo", OBJECTIVE)),
    Step(name="capacity", arguments=("slo", "{url}", "--slo", OBJECTIVE, "--duration", "8m")),
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
            "20s",
            "--under",
            "cpu=1,memory=4GiB",
            "--under",
            "cpu=2,memory=4GiB",
            "--under",
            "cpu=1,memory=2GiB",
            "--under",
            "cpu=2,memory=2GiB",
        ),
    ),
    Step(name="locust", arguments=("locust", "{url}", "--users", "4", "--duration", "60s", "--workers", "2")),
    Step(name="soak", arguments=("soak", "{url}", "--users", "2", "--duration", "20m")),
)


def program() -> str:
    """Return the command of this installation."""
    return str(Path(sys.executable).with_name("qwenops"))


def take(step: Step, words: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Run one step and return what it came to; its report goes to `reports/`."""
    out = folder / step.name
    arguments = list(step.arguments)
    for name, value in words.items():
        arguments = [each.replace(f"{{{name}}}", value) for each in arguments]
    has_folder = step.arguments[0] != "selftest"
    argv = [program(), "bench", *arguments, "--json", *(["--out", step.name] if has_folder else [])]
    shown = ["qwenops", "bench", *step.arguments]
    began_s = time.monotonic()
    finished = subprocess.run(
        argv, stdout=subprocess.PIPE, text=True, timeout=STEP_TIMEOUT_S, check=False, cwd=folder, env=os.environ
    )
    took_s = time.monotonic() - began_s
    if finished.returncode not in VERDICTS:
        raise SystemExit(f"{step.name}: ended with {finished.returncode}\n{finished.stdout[-2000:]}")
    if (out / "report.html").is_file():
        REPORTS.mkdir(exist_ok=True)
        shutil.copyfile(out / "report.html", REPORTS / f"{step.name}.html")
    answer = json.loads(finished.stdout)
    answer.pop("folder", None)
    answer.pop("report", None)
    return {
        "command": shlex.join(shown),
        "exit_status": finished.returncode,
        "took_s": round(took_s, 1),
        "answer": answer,
    }


async def measure(step: Step, model: str) -> None:
    """Take one step, with a fresh server where it needs one, and write its result."""
    with tempfile.TemporaryDirectory(prefix="measuring-") as folder:
        home = Path(folder)
        command = f"{program()} serve {model} --port {{port}}"
        words = {"model": model, "serve": command}
        if step.needs_server:
            environ = server_environ(os.environ, home)
            async with spawned_server(
                shlex.split(command), url="http://127.0.0.1:{port}", timeout_s=READY_TIMEOUT_S, env=environ
            ) as served:
                found = await asyncio.to_thread(take, step, {**words, "url": served.url}, home)
        else:
            found = take(step, words, home)
    write_result(f"measuring-{step.name}", options={"model": model, "command": found["command"]}, results=found)


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
    for step in STEPS:
        if not wanted or step.name in wanted:
            print(f"== {step.name}", flush=True)
            asyncio.run(measure(step, asked.model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
