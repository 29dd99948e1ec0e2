"""One measurement from its beginning to its folder: what every command of `qwenops bench` is written with.

async with begin("load", {"": target}, options, clock=clock) as run:
conclusion = finish(run, await load(run))
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from qwenops.bench.calibrate import calibrate
from qwenops.bench.clock import Clock, running_clock
from qwenops.bench.collect.collector import Collector
from qwenops.bench.conclusion import (
    EXIT_INVALID,
    EXIT_MISSED,
    EXIT_UNANSWERED,
    Conclusion,
    Finding,
    Outcome,
    conclusion_data,
)
from qwenops.bench.conclusion import SCHEMA as SUMMARY_SCHEMA
from qwenops.bench.folder import LOCK_FILE, MANIFEST_FILE, RunFolder, read_lines
from qwenops.bench.manifest import new_manifest
from qwenops.bench.measurement import Listen, Run, Snapshot, ignore
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import NS_PER_S
from qwenops.bench.resume import PAST_VALIDITY, Opening, Past, check_workload, mark_gap, open_folder, salt_of
from qwenops.bench.rewind import forgets
from qwenops.bench.spawned import unless_stopped
from qwenops.bench.target import Target
from qwenops.bench.validity import Calibration, ClientWatch, Verdict, bias_sentence, validity_data, validity_of
from qwenops.bench.words import outcome_word, verdict_word
from qwenops.bench.workload import Workload, cache_sentence, open_workload
from qwenops.errors import ConfigError
from qwenops.text import Text, say

__all__ = [
    "Collector",
    "Listen",
    "Opening",
    "Run",
    "Snapshot",
    "add_findings",
    "begin",
    "finish",
    "ignore",
    "validity_data",
]

SEPARATE = frozenset({"openai", "ollama"})
"""Kinds of targets whose model is certainly not computed in this process."""


@asynccontextmanager
async def begin(
    verb: str,
    targets: Mapping[str, Target],
    options: BenchOptions,
    *,
    clock: Clock | None = None,
    listen: Listen = ignore,
    collectors: Sequence[Collector] = (),
    workload: Workload | None = None,
    opening: Opening | None = None,
) -> AsyncIterator[Run]:
    """Open a run's folder, measure the client, watch the host, and give the run out.

    Args:
        verb: The command's name.
        targets: What is measured, by the names that records have; a single target has the empty name.
        options: How.
        clock: Real or virtual; without one that of the loop that runs.
        listen: Is told how it goes.
        collectors: What else is looked at meanwhile.
        workload: What is asked; without one what `options.workload` names.
        opening: Where it is written, and whether it is continued.

    Raises:
        RunFolderError: The folder is in use, damaged, or of a run with other options.
        InsufficientDiskError: There is no room for it.
    """
    clock, opening = clock or running_clock(), opening or Opening()
    async with AsyncExitStack() as stack:
        new = new_manifest(verb, targets, options, clock, opening.command)
        workload = workload or open_workload(options, salt=salt_of(new, opening))  # what is wrong with it is said first
        folder, manifest, past = open_folder(new, options, opening, forgetful=forgets(targets))
        stack.push(partial(_leave_nothing, folder.path, new=past is None))
        stack.callback(folder.close)
        check_workload(manifest, workload.facts)
        quiet = clock.virtual or opening.calibrate_s <= 0
        separate = all(each.kind in SEPARATE for each in targets.values())
        watch = ClientWatch(
            cores=manifest["machine"]["usable_cores"],
            separate=separate,
            calibration=None if quiet else await _calibrated(clock, opening, folder, manifest, over_http=separate),
        )
        run = Run(verb, targets, options, clock=clock, folder=folder, workload=workload, watch=watch, past=past)
        run.stop = opening.stop or run.stop
        stack.callback(run.close)
        _recall(run, manifest, past)
        manifest["workload"] = {"name": workload.name, **workload.facts}
        folder.write_manifest(manifest)
        try:
            async with _looked_at(run, collectors, listen, opening.tick_s):
                yield run
        except BaseException as error:
            run.state = _state_of(error)
            manifest["error"] = f"{type(error).__name__}: {error}"
            raise
        else:
            run.state = "unfinished" if run.state == "running" else run.state
        finally:
            folder.write_manifest(manifest | _ending(run))


def _leave_nothing(path: Path, _kind: Any, error: BaseException | None, _trace: Any, *, new: bool) -> None:
    """Take the folder of a new run away where the command was wrong, before anything was sent."""
    if not new or not isinstance(error, ConfigError) or next(read_lines(path, "segments"), None) is not None:
        return
    with contextlib.suppress(OSError):
        for name in (MANIFEST_FILE, LOCK_FILE, "host.jsonl", "engine.jsonl"):
            (path / name).unlink(missing_ok=True)
        path.rmdir()


def _recall(run: Run, manifest: dict[str, Any], past: Past | None) -> None:
    """Let a run know what its earlier sittings knew."""
    run.noticing.recall(manifest.get("notices", ()))
    if PAST_VALIDITY in manifest:
        run.watch.recall(validity_of(manifest[PAST_VALIDITY]))
    if past is not None:
        mark_gap(run.folder, manifest, past, run.clock)


def finish(run: Run, conclusion: Conclusion) -> Conclusion:
    """Write the summary and the manifest's end; return the conclusion with the verdict on the client in it."""
    validity = run.validity()
    conclusion = _with_failures(run, conclusion)
    conclusion = replace(conclusion, findings=(*conclusion.findings, *run.noticing.findings()))
    if "cache" not in conclusion.data:  # else the command has its own policies, and has said them
        conclusion = replace(
            conclusion,
            sentences=tuple(
                dict.fromkeys((*conclusion.sentences, cache_sentence(run.options.cache, run.options.workload)))
            ),
            data={**conclusion.data, "cache": run.options.cache},
        )
    run.state = "interrupted" if run.interrupted else "done"
    warnings: list[Text] = []
    if run.interrupted:
        warnings.append(
            say("The run was stopped after {seconds:.1f} s; this is what it had measured.", seconds=run.now_ns() / 1e9)
        )
    if validity.verdict is not Verdict.VALID:
        warnings += (
            say("This measurement is {verdict}.", verdict=verdict_word(validity.verdict.value)),
            *validity.reasons,
        )
    if validity.verdict is Verdict.INVALID and conclusion.outcome is not Outcome.DONE:
        warnings.append(
            say("So there is no verdict; it would have been {outcome}.", outcome=outcome_word(conclusion.outcome))
        )
        conclusion = replace(conclusion, outcome=Outcome.INVALID, exit_code=EXIT_INVALID)
    if validity.verdict is Verdict.INVALID and conclusion.exit_code == EXIT_MISSED:
        warnings.append(say("So it does not show that the objective is missed."))
        conclusion = replace(conclusion, exit_code=EXIT_INVALID)
    bias = bias_sentence(validity)
    conclusion = replace(conclusion, sentences=(*warnings, *conclusion.sentences, *(() if bias is None else (bias,))))
    _write_summary(run, conclusion)
    return conclusion


def _with_failures(run: Run, conclusion: Conclusion) -> Conclusion:
    """Say after the result what failed requests were told; a run in which nothing worked is no success."""
    first, rest = conclusion.sentences[:1], conclusion.sentences[1:]
    code = conclusion.exit_code or (EXIT_UNANSWERED if run.unanswered.nothing_worked else 0)
    return replace(conclusion, sentences=(*first, *run.unanswered.sentences(run.moment), *rest), exit_code=code)


def add_findings(run: Run, conclusion: Conclusion, found: Sequence[Finding], **data: Any) -> Conclusion:
    """Add to what `finish` has written what was found in the folder afterwards; return the whole conclusion."""
    conclusion = replace(conclusion, findings=(*conclusion.findings, *found), data={**conclusion.data, **data})
    _write_summary(run, conclusion)
    return conclusion


def _write_summary(run: Run, conclusion: Conclusion) -> None:
    summary = {
        "schema": SUMMARY_SCHEMA,
        "verb": run.verb,
        "state": run.state,
        "validity": validity_data(run.validity()),
        **conclusion_data(conclusion),
    }
    run.folder.write_summary(summary)


async def _calibrated(
    clock: Clock, opening: Opening, folder: RunFolder, manifest: Mapping[str, Any], *, over_http: bool
) -> Calibration | None:
    """Measure the client; None when the run is stopped meanwhile. Whatever goes wrong, the folder says so."""
    opening.announce()
    try:
        work = calibrate(clock, opening.calibrate_s, over_http=over_http)
        return await unless_stopped(opening.stop or asyncio.Event(), work)
    except BaseException as error:
        folder.write_manifest({**manifest, "state": _state_of(error), "error": f"{type(error).__name__}: {error}"})
        raise


@asynccontextmanager
async def _looked_at(run: Run, collectors: Sequence[Collector], listen: Listen, tick_s: float) -> AsyncIterator[None]:
    """Let collectors and listener look at the run until the block is left."""
    async with AsyncExitStack() as stack:
        if not run.clock.virtual:
            # What exists by now lives as long as the run; to look through it again and again would only cause pauses.
            gc.collect()
            gc.freeze()
            stack.callback(gc.unfreeze)
        for collector in collectors:
            sample = partial(run.sample, collector.journal)
            await stack.enter_async_context(collector.watching(run.origin_ns, sample))
        if listen is not ignore:
            telling = asyncio.get_running_loop().create_task(_tell(run, listen, tick_s))
            stack.push_async_callback(_ended, telling)
        yield


async def _tell(run: Run, listen: Listen, tick_s: float) -> None:
    while True:
        await run.clock.sleep_until_ns(run.clock.now_ns() + round(tick_s * NS_PER_S))
        snapshot = run.snapshot()
        if snapshot is not None:
            listen(snapshot)


async def _ended(task: "asyncio.Task[None]") -> None:
    """End a task; what it raised is raised here."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _state_of(error: BaseException) -> str:
    return "interrupted" if isinstance(error, asyncio.CancelledError | KeyboardInterrupt) else "failed"


def _ending(run: Run) -> dict[str, Any]:
    """Return what a manifest says when the run is over."""
    return {
        "state": run.state,
        "ended_wall_ns": run.clock.wall_ns(),
        "elapsed_ns": run.now_ns(),
        "hashes": run.hashes(),
        "validity": validity_data(run.validity()),
        "notices": run.noticing.data(),
    }
