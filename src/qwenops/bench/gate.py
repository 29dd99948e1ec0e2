"""`bench gate`: is a run worse than a baseline by more than is allowed? For continuous integration. Pure.

Each figure gets a ratio against the baseline with a bootstrap interval: whole runs are drawn when there are several on
a side, and blocks of neighbouring requests within each, because requests that queue behind one another are alike. One
run on each side that asked the same is drawn together with the other, request by request; then nobody knows how much
runs differ, and the result says so.

    REGRESSED (10)      a figure is surely worse by more than the limit; all figures share the error rate
    MISSED (11)         the run's own objective is surely missed
    INCONCLUSIVE (12)   it may be worse by more than the limit, and may be not; or the baseline has what the run lacks
    INVALID (13)        a run on either side disturbed itself, or was not finished
    PASS (0)            no figure is worse by more than the limit, each surely so

A baseline of another machine, workload, load or schema proves nothing about a change, and is refused unless forced.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qwenops.bench.conclusion import (
    EXIT_INCONCLUSIVE,
    EXIT_MISSED,
    EXIT_REGRESSION,
    SCHEMA,
    Cell,
    Conclusion,
    Finding,
    Outcome,
    Table,
)
from qwenops.bench.continuing import how_to_continue
from qwenops.bench.definitions import Better
from qwenops.bench.folder import MANIFEST_FILE, RecordedRun, read_run
from qwenops.bench.objective import Slo, judge
from qwenops.bench.record import Phase
from qwenops.bench.resampling import Part, check_figure, failed_and_sent, figure, paired_logs
from qwenops.bench.segment import Driven
from qwenops.bench.stats import parse_measure
from qwenops.bench.tables import show_measure
from qwenops.bench.words import outcome_word, verdict_word
from qwenops.errors import InvalidRunError, RunFolderError
from qwenops.options import show_number
from qwenops.statistics.samples import binomial_lower, binomial_upper
from qwenops.text import Text, say

_SEED = 20_260_102


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What a run may not be worse by."""

    measures: tuple[str, ...] = ("ttft p50", "ttft p95", "e2e p50", "e2e p95", "tpot p50", "output_tokens_per_s")
    max_regress: float = 0.05
    """As a share of the baseline."""
    max_errors: float = 0.01
    """By how much more of the requests may fail, as a difference of shares."""
    alpha: float = 0.05
    """How often a run that is as good as the limit allows may be called regressed, and how often one that is worse
    may pass."""
    inconclusive: Literal["fail", "pass"] = "fail"
    """What an answer that the data do not give means for the exit status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure of one segment, held against the baseline."""

    segment: str
    measure: str
    better: Better
    baseline: float | None
    candidate: float | None
    ratio: float | None
    low: float | None = None
    """Two-sided bounds of the ratio, at the confidence that one figure alone has."""
    high: float | None = None
    outcome: Outcome | None
    """None: nobody can say anything about it, and nobody could before."""
    note: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """What a gate decided."""

    outcome: Outcome
    exit_code: int
    checks: tuple[Check, ...]
    warnings: tuple[Text, ...]
    max_regress: float


def read_side(path: Path) -> RecordedRun:
    """Read a run's folder, or a summary: a `summary.json` beside its manifest, or one that stands alone.

    Raises:
        RunFolderError: It is neither, or damaged.
    """
    if path.is_dir():
        return read_run(path)
    if (path.parent / MANIFEST_FILE).exists():
        return read_run(path.parent)
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(
            say("{path} is neither a run's folder nor a summary: {reason}.", path=str(path), reason=str(error)),
            hint=say("Give the folder that a `qwenops bench` command made, or its summary.json."),
        ) from error
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        raise RunFolderError(
            say("{path} is no summary of this version ({schema}).", path=str(path), schema=SCHEMA),
            hint=say("Give the folder that a `qwenops bench` command made, or its summary.json."),
        )
    return RecordedRun(path=path, manifest={}, summary=summary)


def check_sides(
    candidates: Sequence[RecordedRun], baselines: Sequence[RecordedRun], *, force: bool
) -> tuple[Text, ...]:
    """Return what has to be said about a comparison of these runs.

    Raises:
        InvalidRunError: A run is INVALID or was not finished; that cannot be forced.
        RunFolderError: They are of different machines, workloads or loads, and nobody forces it.
    """
    said: list[Text] = []
    for each in (*candidates, *baselines):
        said += _believable(each)
    differing = [text for each in (*candidates[1:], *baselines) for text in _differences(candidates[0], each)]
    differing = list(dict.fromkeys(differing))
    if differing and not force:
        raise RunFolderError(differing[0], hint=say("Measure a baseline anew, or compare all the same with --force."))
    said += differing
    said += dict.fromkeys(text for each in (*candidates[1:], *baselines) for text in _targets(candidates[0], each))
    if min(len(candidates), len(baselines)) < 2:  # noqa: PLR2004 -- one run says nothing about runs
        said.append(
            say("One run on a side: how much runs differ from one another is not known, and not in the intervals.")
        )
    return tuple(said)


def gate(
    candidates: Sequence[RecordedRun],
    baselines: Sequence[RecordedRun],
    threshold: Threshold | None = None,
    *,
    slo: Slo | None = None,
    force: bool = False,
) -> Gated:
    """Hold runs against a baseline.

    Raises:
        InvalidRunError: As `check_sides`, or nothing of the baseline was answered.
        RunFolderError: As `check_sides`, or the runs have no segment in common.
        ConfigError: A figure cannot be gated.
    """
    threshold = threshold or Threshold()
    for text in threshold.measures:
        check_figure(text)
    warnings = check_sides(candidates, baselines, force=force)
    segments = [name for name in _common(candidates) if name in _common(baselines)]
    if not segments:
        raise RunFolderError(
            say(
                "The run and the baseline have no part of the same name: {ours} and {theirs}.",
                ours=", ".join(_segments(candidates[0])) or "-",
                theirs=", ".join(_segments(baselines[0])) or "-",
            ),
            hint=say("Measure both with the same command and flags."),
        )
    for name in segments:
        _check_answered(_parts(baselines, name), name)
    alone = threshold.alpha / (len(segments) * len(threshold.measures))
    checks = [
        _check(_parts(candidates, name), _parts(baselines, name), name, text, threshold, alone)
        for name in segments
        for text in threshold.measures
    ]
    checks += [_error_check(_parts(candidates, name), _parts(baselines, name), name, threshold) for name in segments]
    if slo is not None:
        timeout_s = candidates[0].manifest.get("options", {}).get("timeout_s")
        checks += [_slo_check(_parts(candidates, name), name, slo, threshold.alpha, timeout_s) for name in segments]
    checks += [_missing_part(name) for name in _common(baselines) if name not in segments]
    outcome, exit_code = _overall(checks, threshold)
    return Gated(
        outcome=outcome,
        exit_code=exit_code,
        checks=tuple(checks),
        warnings=(*warnings, *_unjudged(candidates, baselines, segments)),
        max_regress=threshold.max_regress,
    )


def gate_conclusion(gated: Gated) -> Conclusion:
    """Return it as every command does."""
    counted = {outcome: sum(each.outcome is outcome for each in gated.checks) for outcome in Outcome}
    sentence = {
        Outcome.PASS: say(
            "PASS: no figure is worse than the baseline by more than {limit:.1%}.", limit=gated.max_regress
        ),
        Outcome.REGRESSED: say(
            "REGRESSED: {number} figures are worse than the baseline by more than {limit:.1%}.",
            number=counted[Outcome.REGRESSED],
            limit=gated.max_regress,
        ),
        Outcome.FAIL: say("MISSED: the run does not meet its objective."),
        Outcome.INCONCLUSIVE: say(
            "INCONCLUSIVE: {number} figures may be worse than allowed, or are missing; measure longer, or repeat the "
            "runs.",
            number=counted[Outcome.INCONCLUSIVE],
        ),
    }[gated.outcome]
    rows = tuple(
        (
            each.segment,
            each.measure,
            show_measure(each.measure, each.baseline),
            show_measure(each.measure, each.candidate),
            *(None if ratio is None else f"{ratio - 1:+.1%}" for ratio in (each.ratio, each.low, each.high)),
            _shown(each),
        )
        for each in gated.checks
    )
    return Conclusion(
        outcome=gated.outcome,
        exit_code=gated.exit_code,
        sentences=(sentence, *(each.note for each in gated.checks if each.note is not None and _is_bad(each))),
        tables=(Table(title=say("The run against its baseline"), headings=_headings(), rows=rows),),
        findings=tuple(Finding(text=each, severity="warning") for each in gated.warnings),
        data={"checks": [_check_data(each) for each in gated.checks], "max_regress": gated.max_regress},
    )


def junit(gated: Gated) -> str:
    """Return the checks as JUnit XML: a regression is a failure, what is not known is skipped or an error."""
    from xml.etree import ElementTree as ET

    bad = {outcome: sum(each.outcome is outcome for each in gated.checks) for outcome in Outcome}
    failing = bad[Outcome.REGRESSED] + bad[Outcome.FAIL]
    unknown_fails = gated.exit_code == EXIT_INCONCLUSIVE
    suite = ET.Element(
        "testsuite",
        name="qwenops bench gate",
        tests=str(len(gated.checks)),
        failures=str(failing),
        errors=str(bad[Outcome.INCONCLUSIVE] if unknown_fails else 0),
        skipped=str(0 if unknown_fails else bad[Outcome.INCONCLUSIVE]),
    )
    for each in gated.checks:
        case = ET.SubElement(suite, "testcase", classname=each.segment, name=each.measure)
        tag = "failure" if each.outcome in {Outcome.REGRESSED, Outcome.FAIL} else ""
        if each.outcome is Outcome.INCONCLUSIVE:
            tag = "error" if unknown_fails else "skipped"
        if tag:
            ET.SubElement(case, tag, message=str(each.note or _shown(each)))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def markdown(gated: Gated, translate: Callable[[str], str] = str) -> str:
    """Return the checks as a Markdown table under the verdict, in the language of `translate`."""
    conclusion = gate_conclusion(gated)
    lines = [f"## {conclusion.sentences[0].translated(translate)}", ""]
    lines += [f"> {each.translated(translate)}" for each in gated.warnings]
    lines += [""] if gated.warnings else []
    table = conclusion.tables[0]
    headings = [each.translated(translate) if isinstance(each, Text) else each for each in table.headings]
    lines += [_markdown_row(headings), _markdown_row(["---"] * len(headings))]
    lines += [_markdown_row([_markdown_cell(cell) for cell in row]) for row in table.rows]
    return "\n".join(lines) + "\n"


def _believable(run: RecordedRun) -> list[Text]:
    validity = run.manifest.get("validity") or run.summary.get("validity") or {}
    verdict, state = validity.get("verdict"), run.manifest.get("state") or run.summary.get("state")
    if verdict == "INVALID":
        raise InvalidRunError(
            say("The run in {path} is INVALID: the client disturbed what it measured.", path=str(run.path)),
            hint=say("Measure again on a quieter machine; `qwenops bench report` shows why."),
        )
    if state != "done":
        raise InvalidRunError(
            say("The run in {path} was not finished (its state is {state}).", path=str(run.path), state=state),
            hint=_how_to_finish(run),
        )
    if verdict != "VALID":
        return [say("The run in {path} is {verdict}.", path=str(run.path), verdict=verdict_word(verdict or "UNKNOWN"))]
    return []


def _how_to_finish(run: RecordedRun) -> Text:
    verb = str(run.manifest.get("verb", ""))
    return how_to_continue(verb, run.path) if verb else say("Measure again.")


def _differences(one: RecordedRun, other: RecordedRun) -> list[Text]:
    """Say in what two runs differ that makes a comparison of their figures meaningless."""
    paths = {"one": str(one.path), "other": str(other.path)}
    said = []
    prints = [each.manifest.get("machine", {}).get("fingerprint") for each in (one, other)]
    if None in prints or prints[0] != prints[1]:
        said.append(
            say(
                "{one} and {other} are not known to be of the same machine ({first} and {second}).",
                first=prints[0],
                second=prints[1],
                **paths,
            )
        )
    if one.manifest.get("schema") != other.manifest.get("schema"):
        said.append(
            say(
                "{one} and {other} have different schemas ({first} and {second}).",
                first=one.manifest.get("schema"),
                second=other.manifest.get("schema"),
                **paths,
            )
        )
    facts = [_workload(each) for each in (one, other)]
    unequal = sorted(name for name in facts[0].keys() | facts[1].keys() if facts[0].get(name) != facts[1].get(name))
    if unequal:
        said.append(say("{one} and {other} have different workloads: {names}.", names=", ".join(unequal), **paths))
    return said


def _targets(one: RecordedRun, other: RecordedRun) -> list[Text]:
    """Say where two runs did not measure the same model, or not the same target: that may be what is to be judged."""
    said = []
    for name, title in (("model", say("model")), ("text", say("target"))):
        first, second = (
            ", ".join(dict.fromkeys(str(each.get(name)) for each in run.manifest.get("targets", {}).values()))
            for run in (one, other)
        )
        if first != second:
            said.append(
                say(
                    "{one} and {other} do not have the same {what}: {first} and {second}.",
                    one=str(one.path),
                    other=str(other.path),
                    what=title,
                    first=first or "-",
                    second=second or "-",
                )
            )
    return said


def _workload(run: RecordedRun) -> dict[str, Any]:
    """Return what was asked and how it was sent; the salt, which is new in each run, is not part of it."""
    facts = {name: each for name, each in run.manifest.get("workload", {}).items() if name != "salt"}
    options = run.manifest.get("options", {})
    return facts | {name: options.get(name) for name in ("rate", "users", "arrivals", "burstiness", "max_tokens")}


def _segments(run: RecordedRun) -> dict[str, Part]:
    """Return the measured parts by name: with their records, or as a summary has them."""
    if run.drivens:
        return {each.segment.name: each for each in run.drivens if each.segment.phase is Phase.MEASURE}
    return {each["segment"]: each for each in run.summary.get("data", {}).get("segments", [])}


def _common(runs: Sequence[RecordedRun]) -> list[str]:
    """Return the measured parts that all runs of a side have."""
    found = [_segments(each) for each in runs]
    return [name for name in found[0] if all(name in each for each in found)]


def _missing_part(name: str) -> Check:
    """Say that the baseline has a part that nothing can be held against."""
    return Check(
        segment=name,
        measure="-",
        better="lower",
        baseline=None,
        candidate=None,
        ratio=None,
        outcome=Outcome.INCONCLUSIVE,
        note=say("{segment}: the baseline has this part and the run has not; it was not judged.", segment=name),
    )


def _unjudged(candidates: Sequence[RecordedRun], baselines: Sequence[RecordedRun], judged: Sequence[str]) -> list[Text]:
    """Name the parts that only some of the runs have; the baseline's own are checks that stay open."""
    known = {*judged, *_common(baselines)}
    left = dict.fromkeys(name for each in (*candidates, *baselines) for name in _segments(each) if name not in known)
    return [say("The part {segment} is not in every run; it was not judged.", segment=name) for name in left]


def _check_answered(baseline: Sequence[Part], name: str) -> None:
    """Refuse a baseline without an answer: nothing can be worse than it."""
    failed, sent = failed_and_sent(baseline)
    if failed == sent:
        raise InvalidRunError(
            say("{segment}: none of the {sent} requests of the baseline was answered.", segment=name, sent=sent),
            hint=say("Measure a baseline on a server that answers."),
        )


def _parts(runs: Sequence[RecordedRun], name: str) -> list[Part]:
    return [found[name] for each in runs if name in (found := _segments(each))]


def _check(
    candidate: Sequence[Part], baseline: Sequence[Part], segment: str, text: str, threshold: Threshold, alone: float
) -> Check:
    """Hold one figure against the baseline; `alone` is its part of the error rate."""
    metric, _ = parse_measure(text)
    ours, theirs = figure(candidate, text, seed=_SEED), figure(baseline, text, seed=_SEED + 1)
    if ours is None or theirs is None:
        return Check(
            segment=segment,
            measure=text,
            better=metric.better,
            baseline=None if theirs is None else theirs.value,
            candidate=None if ours is None else ours.value,
            ratio=None,
            outcome=None if theirs is None else Outcome.INCONCLUSIVE,
            note=say(
                "{segment}: there are too few samples for {measure}; it was not judged.", segment=segment, measure=text
            )
            if theirs is None
            else say(
                "{segment}: the run has too few good answers for {measure}, which the baseline has; it was not judged.",
                segment=segment,
                measure=text,
            ),
        )
    together = paired_logs(candidate, baseline, text, seed=_SEED)
    logs = ours.logs - theirs.logs if together is None else together
    worse = logs if metric.better == "lower" else -logs
    limit = math.log1p(threshold.max_regress)
    outcome = Outcome.INCONCLUSIVE
    if float(np.quantile(worse, 1 - threshold.alpha)) <= limit:
        outcome = Outcome.PASS
    if float(np.quantile(worse, alone)) > limit:
        outcome = Outcome.REGRESSED
    ratio = ours.value / theirs.value
    low, high = (math.exp(float(np.quantile(logs, p))) for p in (threshold.alpha / 2, 1 - threshold.alpha / 2))
    return Check(
        segment=segment,
        measure=text,
        better=metric.better,
        baseline=theirs.value,
        candidate=ours.value,
        ratio=ratio,
        low=low,
        high=high,
        outcome=outcome,
        note=say(
            "{segment}: {measure} is {change:+.1%} against the baseline ({low:+.1%} to {high:+.1%}).",
            segment=segment,
            measure=text,
            change=ratio - 1,
            low=low - 1,
            high=high - 1,
        ),
    )


def _error_check(candidate: Sequence[Part], baseline: Sequence[Part], segment: str, threshold: Threshold) -> Check:
    """Ask whether surely more requests fail; that none fail more cannot be shown by a run of usual length.

    So it passes where no more are seen to fail than may; more that are seen and not proved leave it open.
    """
    failed, sent = failed_and_sent(candidate)
    failed_before, sent_before = failed_and_sent(baseline)
    outcome = Outcome.REGRESSED if not sent else Outcome.INCONCLUSIVE
    if sent and sent_before:
        tail = threshold.alpha / 2
        seen = failed / sent - failed_before / sent_before
        surely = binomial_lower(failed, sent, tail) - binomial_upper(failed_before, sent_before, tail)
        if surely > threshold.max_errors:
            outcome = Outcome.REGRESSED
        elif seen <= threshold.max_errors:
            outcome = Outcome.PASS
    return Check(
        segment=segment,
        measure="errors",
        better="lower",
        baseline=failed_before / sent_before if sent_before else None,
        candidate=failed / sent if sent else None,
        ratio=None,
        outcome=outcome,
        note=say(
            "{segment}: {failed} of {sent} requests failed or were not sent; in the baseline {failed_before} of "
            "{sent_before}.",
            segment=segment,
            failed=failed,
            sent=sent,
            failed_before=failed_before,
            sent_before=sent_before,
        ),
    )


def _slo_check(candidate: Sequence[Part], segment: str, slo: Slo, alpha: float, timeout_s: float | None) -> Check:
    """Judge the run by its own objective."""
    drivens = [each for each in candidate if isinstance(each, Driven)]
    records = [record for each in drivens for record in each.records]
    verdict = judge(records, slo, alpha=alpha, dropped=sum(each.dropped for each in drivens), timeout_s=timeout_s)
    outcome = Outcome.INCONCLUSIVE if verdict.decision is Outcome.UNDECIDED else verdict.decision
    return Check(
        segment=segment,
        measure=slo.text,
        better="higher",
        baseline=None,
        candidate=verdict.attainment,
        ratio=None,
        outcome=outcome,
        note=say(
            "{segment}: the objective '{objective}' is judged {decision}.",
            segment=segment,
            objective=slo.text,
            decision=outcome_word(verdict.decision),
        ),
    )


def _overall(checks: Sequence[Check], threshold: Threshold) -> tuple[Outcome, int]:
    outcomes = {each.outcome for each in checks}
    if Outcome.REGRESSED in outcomes:
        return Outcome.REGRESSED, EXIT_REGRESSION
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL, EXIT_MISSED
    judged = any(each.outcome is Outcome.PASS and each.ratio is not None for each in checks)
    if Outcome.INCONCLUSIVE in outcomes or not judged:
        return Outcome.INCONCLUSIVE, EXIT_INCONCLUSIVE if threshold.inconclusive == "fail" else 0
    return Outcome.PASS, 0


def _is_bad(check: Check) -> bool:
    return check.outcome is not Outcome.PASS


def _shown(check: Check) -> str:
    return "N/A" if check.outcome is None else outcome_word(check.outcome)


def _headings() -> tuple[str, ...]:
    return (
        say("Part"),
        say("Figure"),
        say("Baseline"),
        say("Run"),
        say("Change"),
        say("from"),
        say("to"),
        say("Result"),
    )


def _check_data(check: Check) -> dict[str, Any]:
    names = ("segment", "measure", "better", "baseline", "candidate", "ratio", "low", "high")
    return {name: getattr(check, name) for name in names} | {"outcome": check.outcome}


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    if cell is None:
        return "-"
    return show_number(cell, 4) if isinstance(cell, float) else str(cell).replace("|", "\\|")
