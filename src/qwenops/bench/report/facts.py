"""On what, with what and how it was measured; what the words mean; and how to measure it again."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwenops.bench.conclusion import Outcome, uncrossed
from qwenops.bench.definitions import METRICS
from qwenops.bench.folder import RecordedRun
from qwenops.bench.objective import SloVerdict
from qwenops.bench.record import Failure
from qwenops.bench.report.figures import NONE, percent, quantity, seconds, size
from qwenops.bench.report.grouped import Group
from qwenops.bench.stats import Summary
from qwenops.page.document import Block, Cell, Code, Column, Details, Facts, Table, Tone
from qwenops.page.ticks import number
from qwenops.text import Text, say

_SHOWN_MESSAGES = 3
_SHORT = 40
"""Characters of a command in a title."""
_OWN = frozenset(
    {
        "schema",
        "verb",
        "command",
        "validity",
        "options",
        "machine",
        "versions",
        "workload",
        "targets",
        "gaps",
        "began",
        "notices",
    }
)
CACHE: Mapping[str, Text] = {
    "warm": say("warm: a prefix cache may find the shared beginning"),
    "cold": say("cold: a prefix cache finds nothing at first"),
    "bust": say("bust: a prefix cache never finds anything"),
}


def began(manifest: Mapping[str, Any]) -> str:
    """Return when the run began, in the machine's view of the world's time; empty when unknown."""
    wall_ns = manifest.get("began_wall_ns")
    return _readable("began_wall_ns", wall_ns) if wall_ns else ""


def machine_line(manifest: Mapping[str, Any]) -> Text | str:
    """Return the machine in a few words; empty when unknown."""
    machine = manifest.get("machine") or {}
    if not machine.get("processor"):
        return ""
    cores, memory = machine.get("usable_cores"), machine.get("memory_total_bytes")
    parts = [str(machine["processor"]), f"{number(cores)} CPU" if cores else "", size(memory) if memory else ""]
    return ", ".join(each for each in parts if each)


def launched(run: RecordedRun) -> list[str]:
    """Return the command of the server that the run itself started; nothing where it started none."""
    command = run.summary.get("data", {}).get("command")
    return [str(command).replace("'{port}'", "{port}")] if command else []


def short_command(command: str) -> str:
    """Return what a command starts, as a title may call it."""
    words = command.replace("'{port}'", "{port}").split()
    if words[1:2] == ["-m"] and Path(words[0]).name.startswith("python"):
        words = words[2:]
    name = " ".join([Path(words[0]).name, *words[1:]]) if words else ""
    return name if len(name) <= _SHORT else f"{name[: _SHORT - 1].rstrip()}…"


def _energy(run: RecordedRun) -> dict[str, Any]:
    """Return why nothing is known about energy; nothing where it is known, or was not looked at."""
    reason = uncrossed(run.host[0].get("absent", {}).get("energy_j")) if run.host else None
    return {"energy": reason} if reason else {}


def setting_blocks(run: RecordedRun) -> list[Block]:
    """Return the machine, the versions, the workload and the options."""
    manifest = run.manifest
    blocks: list[Block] = []
    parts = (
        (say("What was measured"), {"targets": manifest.get("targets"), **_rest(manifest)}),
        (say("Workload"), manifest.get("workload")),
        (say("Machine"), {**(manifest.get("machine") or {}), **_energy(run)}),
        (say("Versions"), manifest.get("versions")),
    )
    for title, part in parts:
        if pairs := _pairs(part):
            blocks.append(Facts(title=title, pairs=pairs))
    if pairs := _pairs(manifest.get("options")):
        blocks.append(Details(summary=say("All options"), blocks=[Facts(title=say("Options"), pairs=pairs)]))
    return blocks


NAMES: Mapping[str, Text] = {
    "targets.text": say("Target"),
    "targets.kind": say("Kind of target"),
    "targets.url": say("Address"),
    "targets.model": say("Model"),
    "targets.engine.engine": say("Engine"),
    "began": say("Began"),
    "began_wall_ns": say("Began"),
    "ended_wall_ns": say("Ended"),
    "elapsed_ns": say("Took"),
    "state": say("State"),
    "seed": say("Seed"),
    "salt": say("Salt of the prompts"),
    "name": say("Name"),
    "kind": say("Kind"),
    "cache": say("Prefix cache"),
    "processor": say("Processor"),
    "architecture": say("Architecture"),
    "isa": say("Instruction sets"),
    "cpus": say("CPUs"),
    "usable_cores": say("Usable cores"),
    "physical_cores": say("Physical cores"),
    "cpu_quota": say("CPU limit"),
    "last_cache_bytes": say("Last-level cache"),
    "memory_total_bytes": say("Memory"),
    "memory_limit_bytes": say("Memory that could be used when it began"),
    "memory_available_bytes": say("Available memory"),
    "swap_total_bytes": say("Swap"),
    "kernel": say("Kernel"),
    "system": say("System"),
    "container": say("Container"),
    "fingerprint": say("Fingerprint"),
    "virtual": say("Virtual time"),
    "hashes.schedule": say("Fingerprint of the schedule"),
    "hashes.prompts": say("Fingerprint of the prompts"),
    "huge_pages": say("Huge pages"),
    "cgroup_layout": say("Control groups"),
    "numa_nodes": say("NUMA nodes"),
    "content_hash": say("Fingerprint of the content"),
    "length_error_ratio": say("How far lengths may be off"),
    "estimated_prompt_tokens.least": say("Tokens of the shortest prompt, estimated"),
    "estimated_prompt_tokens.median": say("Tokens of a prompt, median, estimated"),
    "estimated_prompt_tokens.most": say("Tokens of the longest prompt, estimated"),
    "max_tokens": say("Longest answer, in tokens"),
    "force_length": say("Answers forced to that length"),
    "thinking": say("Thinking"),
    "temperature": say("Temperature"),
    "energy": say("Energy"),
}
"""What the facts are called that most readers look for; the others keep the names of the manifest."""


def _rest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in _OWN}


def _pairs(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Return a tree of facts as pairs of a dotted name and a readable value."""
    match value:
        case None | "":
            return []
        case Mapping():
            inner = ((f"{name}.{key}" if name and key else name or str(key), each) for key, each in value.items())
            return [pair for key, each in inner for pair in _pairs(each, key)]
        case list() | tuple() if any(isinstance(each, Mapping) for each in value):
            return [pair for number_, each in enumerate(value, 1) for pair in _pairs(each, f"{name}.{number_}")]
        case _:
            return [(NAMES.get(name, name), _readable(name, value))]


def _readable(name: str, value: Any) -> str:  # noqa: PLR0911 -- one way out for each kind of value
    last = name.rsplit(".", 1)[-1]
    match value:
        case bool():
            return say("yes") if value else say("no")
        case list() | tuple():
            return " ".join(str(uncrossed(each)) for each in value)
        case int() | float() if last.endswith("_bytes"):
            return size(value)
        case int() if last.endswith("wall_ns"):
            return datetime.fromtimestamp(value / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        case int() if last == "elapsed_ns":
            return seconds(value / 1e9)
        case int() | float() if last.endswith("_s"):
            return seconds(float(value))
        case int() | float() if last.endswith("_share"):
            return percent(value)
        case float():
            return number(value)
        case str() if last == "cache" and value in CACHE:
            return CACHE[value]
        case _:
            return str(uncrossed(value))


def validity_table(figures: Mapping[str, float]) -> Table | None:
    """Return what the client measured about itself."""
    titles = {
        "schedule_lag_p50_s": say("Lateness of a request, median"),
        "schedule_lag_p99_s": say("Lateness of a request, 99 %"),
        "loop_lag_p99_s": say("Lateness of the event loop, 99 %"),
        "loop_lag_max_s": say("Longest stall of the event loop"),
        "client_faults": say("Requests that this machine could not send"),
        "client_cpu_share": say("Share of the machine's CPU that the client used"),
        "client_cores": say("Cores that the client used"),
        "dropped": say("Requests that the client did not send"),
        "achieved_ratio": say("Requests sent, as a share of those due"),
        "bias_ttft_s": say("What the client adds to a time to first token"),
        "bias_gap_s": say("What the client adds to a gap"),
        "cost_per_chunk_s": say("CPU time of the client for each chunk"),
    }
    rows: list[list[Cell | str]] = []
    for name, value in figures.items():
        if name == "bias_over_http":
            continue
        share = name.endswith(("_share", "_ratio"))
        text = seconds(value) if name.endswith("_s") else percent(value) if share else number(value)
        rows.append([titles.get(name, name), Cell(text=text, order=value)])
    columns = [Column(title=say("Figure")), Column(title=say("Value"), numeric=True)]
    return Table(title=say("How the client watched itself"), columns=columns, rows=rows) if rows else None


def unseen(run: RecordedRun) -> Details | None:
    """Return what could not be watched on this machine, and why; None where all could."""
    pairs = {
        str(name): uncrossed(reason)
        for sample in (*run.host, *run.engine)
        for name, reason in (sample.get("absent") or {}).items()
    }
    if not pairs:
        return None
    facts = Facts(title=say("Not known, and why"), pairs=list(pairs.items()))
    return Details(summary=say("What could not be watched"), blocks=[facts])


def failure_table(groups: Sequence[Group]) -> Table | None:
    """Return the failures by kind, with what they said; None where there are none."""
    records = [record for group in groups for record in group.records if record.failure is not None]
    summaries = [each for group in groups for each in group.summaries]
    asked = sum(each.counts.sent for each in summaries)
    if not records and not any(each.counts.failures for each in summaries):
        return None
    rows: list[list[Cell | str]] = []
    for failure in Failure:
        mine = [record for record in records if record.failure is failure]
        number = sum(each.counts.failures.get(failure.value, 0) for each in summaries)
        if not number and not mine:
            continue
        number = number or len(mine)
        messages: dict[str, int] = {}
        for record in mine:
            messages[record.message] = messages.get(record.message, 0) + 1
        said = sorted(messages, key=lambda each: -messages[each])[:_SHOWN_MESSAGES]
        rows.append(
            [
                Cell(text=KINDS[failure], detail=f"`{failure}`"),
                Cell(text=f"{number:,}", order=number),
                Cell(text=percent(number / max(asked, 1)), order=number),
                "; ".join(each for each in said if each),
            ]
        )
    columns = [Column(title=say("Failure")), Column(title=say("Requests"), numeric=True)]
    columns += [Column(title=say("Share"), numeric=True), Column(title=say("What was said"))]
    return Table(title=say("Failed requests by kind"), columns=columns, rows=rows)


KINDS: Mapping[Failure, Text] = {
    Failure.CLIENT: say("This machine had nothing left to connect with"),
    Failure.CONNECT: say("No connection"),
    Failure.TIMEOUT: say("Took longer than allowed"),
    Failure.REJECTED: say("The server found the request wrong"),
    Failure.SHED: say("The server chose not to answer (busy)"),
    Failure.FAILED: say("The server failed"),
    Failure.CUT: say("The answer broke off"),
    Failure.MALFORMED: say("The answer was not what the protocol allows"),
    Failure.EMPTY: say("The answer was empty"),
    Failure.INTERRUPTED: say("The run was stopped meanwhile"),
}


def definition_table(names: Collection[str]) -> Table:
    """Return what every shown metric means."""
    rows = [
        [Cell(text=METRICS[name].title, detail=f"`{name}`"), METRICS[name].definition, METRICS[name].unit]
        for name in METRICS
        if name in names
    ]
    columns = [Column(title=say("Metric")), Column(title=say("Definition")), Column(title=say("Unit"))]
    return Table(title=say("What the figures mean"), columns=columns, rows=rows, sortable=False)


def objective_table(judged: SloVerdict) -> Table:
    """Return what the requests say about each promise."""
    said = {Outcome.PASS: say("met"), Outcome.FAIL: say("missed"), Outcome.UNDECIDED: say("undecided")}
    tones = {Outcome.PASS: Tone.GOOD, Outcome.FAIL: Tone.BAD, Outcome.UNDECIDED: Tone.WARNING}
    rows: list[list[Cell | str]] = [
        [
            f"`{each.clause.text}`",
            Cell(text=said[each.decision], tone=tones[each.decision]),
            Cell(text=f"{each.misses:,} / {each.n:,}", order=each.miss_share),
            Cell(
                text=percent(each.miss_share),
                order=each.miss_share,
                detail=say("{low} to {high}", low=percent(each.low), high=percent(each.high)),
            ),
            Cell(text=percent(each.clause.allowed), order=each.clause.allowed),
            "" if each.more_requests == 0 else NONE if each.more_requests is None else f"{each.more_requests:,}",
        ]
        for each in judged.clauses
    ]
    columns = [Column(title=say("Promise")), Column(title=say("Verdict"))]
    titles = (say("Requests that miss it"), say("Share"), say("Allowed"), say("More requests to decide"))
    columns += [Column(title=title, numeric=True) for title in titles]
    return Table(
        title=say("The objective"),
        columns=columns,
        rows=rows,
        note=say(
            "The small figures are one-sided 95 % bounds of the true share; a promise is met when the upper one is."
        ),
    )


def rate_facts(summary: Summary) -> Facts:
    """Return the figures that a run has one of."""
    units = {"output_tokens_per_s": "chunks/s"} if summary.counts_chunks else {}
    pairs = [
        (METRICS[name].title, quantity(value, units.get(name, METRICS[name].unit)))
        for name, value in summary.rates.items()
        if value is not None
    ]
    return Facts(title=say("Rates and shares"), pairs=pairs)


def again(run: RecordedRun) -> Code | None:
    """Return the command that measures the same again; None where it is not known."""
    command = run.manifest.get("command")
    if not command:
        return None
    line = command if isinstance(command, str) else shlex.join(str(each) for each in command)
    return Code(title=say("Measure it again"), text=line)
