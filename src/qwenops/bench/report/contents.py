"""From a recorded run to the page about it: what is read in which order."""

import re
from collections.abc import Mapping, Sequence

from qwenops.bench.conclusion import Conclusion, conclusion_of
from qwenops.bench.conclusion import Table as Said
from qwenops.bench.folder import RecordedRun
from qwenops.bench.objective import Slo, SloVerdict, judge, parse_slo, verdict_of
from qwenops.bench.report import distributions, facts, head, timeline
from qwenops.bench.report.figures import NONE
from qwenops.bench.report.grouped import Group, groups_of, merged
from qwenops.bench.report.raw import raw_data
from qwenops.bench.report.verbs import verb_blocks
from qwenops.bench.stats import Summary
from qwenops.bench.tables import ramp_sentences
from qwenops.bench.words import part_word
from qwenops.errors import ConfigError
from qwenops.page.document import Block, Cell, Column, Details, Notice, Page, Paragraph, Section, Table, Tone
from qwenops.page.plot import Rule
from qwenops.page.ticks import number
from qwenops.text import Text, say

MOST_TABLES = 6
"""Parts whose percentiles are listed one by one."""
_ONE_LOAD = frozenset({"load", "locust", "soak"})
"""Commands that can be asked for an objective and measure under one load."""
TITLES: Mapping[str, Text] = {
    "quick": say("Quick test"),
    "latency": say("Latency"),
    "load": say("Load test"),
    "stress": say("Stress test"),
    "soak": say("Endurance test"),
    "slo": say("Objective"),
    "compare": say("Comparison"),
    "noise": say("Noise"),
    "gate": say("Gate"),
    "startup": say("Start-up"),
    "locust": say("Load by Locust"),
}


def report_page(run: RecordedRun) -> Page:
    """Return the page about a run."""
    slo = objective(run)
    bounds = slo.met if slo and slo.bounds else None
    conclusion = conclusion_of(run.summary) if "outcome" in run.summary else None
    groups = groups_of(run, bounds)
    summaries = [merged(group, bounds) for group in groups]
    rules = limits(slo)
    judged = _judged(run, conclusion, groups, slo)
    sections = [
        _result(run, conclusion, judged),
        _when(run, conclusion, rules),
        _latencies(groups, summaries, rules, conclusion.sentences if conclusion else ()),
        _failed(groups),
        _setting(run),
        _meaning(summaries),
    ]
    return Page(
        title=_title(run),
        subtitle=_subtitle(run),
        head=head.head_of(
            head.Judged(
                run=run,
                conclusion=conclusion,
                summary=overall(groups, summaries, slo),
                slo=judged,
                alike=len(groups) == 1,
                parts=summaries,
            )
        ),
        sections=[section for section in sections if section.blocks],
        footer=say(
            "Made by `qwenops bench report` from the run's folder. Nothing in this page is fetched from anywhere."
        ),
    )


def objective(run: RecordedRun) -> Slo | None:
    """Return the objective that the run was given; None where there is none, or one that this version cannot read."""
    text = run.manifest.get("options", {}).get("slo")
    try:
        return parse_slo(text) if text else None
    except ConfigError:
        return None


def limits(slo: Slo | None) -> dict[str, list[Rule]]:
    """Return the objective's limits by the metric whose plots show them."""
    rules: dict[str, list[Rule]] = {}
    for clause in slo.clauses if slo else ():
        if clause.bound is not None:
            shown = clause.bound.metric.removesuffix("_response")
            rules.setdefault(shown, []).append(Rule(value=clause.bound.limit_s, title=clause.text))
    return rules


def overall(groups: Sequence[Group], summaries: Sequence[Summary], slo: Slo | None) -> Summary | None:
    """Return one summary over everything that was measured; None where nothing was."""
    if not groups:
        return None
    if len(groups) == 1:
        return summaries[0]
    drivens = [driven for group in groups for driven in group.drivens]
    return merged(Group(name="", drivens=drivens, summaries=()), slo.met if slo and slo.bounds else None)


def _judged(
    run: RecordedRun, conclusion: Conclusion | None, groups: Sequence[Group], slo: Slo | None
) -> SloVerdict | None:
    """Return what the command judged of its one load; a ladder of loads has no one answer.

    What recorded no verdict is judged here, as the command would have: what was cut off before, and a long run.
    """
    if slo is None:
        return None
    data = conclusion.data if conclusion else {}
    recorded = [each for each in (data.get("verdict"), *(data.get("verdicts") or ())) if each]
    if recorded:
        return verdict_of(recorded[0], slo) if len(recorded) == 1 else None
    if len(groups) != 1 or (conclusion is not None and run.manifest.get("verb") not in _ONE_LOAD):
        return None
    dropped = sum(driven.dropped for driven in groups[0].drivens)
    return judge(groups[0].records, slo, dropped=dropped, timeout_s=run.manifest.get("options", {}).get("timeout_s"))


def _title(run: RecordedRun) -> Text:
    verb = str(run.manifest.get("verb", ""))
    targets = list(run.manifest.get("targets", {}).values())
    models = list(dict.fromkeys(str(each.get("model") or each.get("text")) for each in targets))
    models = models or [facts.short_command(each) for each in facts.launched(run)]
    title = TITLES.get(verb, verb)
    return say("{verb}: {models}", verb=title, models=" / ".join(models)) if models else say("{verb}", verb=title)


def _subtitle(run: RecordedRun) -> str:
    targets = list(run.manifest.get("targets", {}).values())
    texts = " / ".join(dict.fromkeys(str(each.get("text")) for each in targets) or facts.launched(run))
    began = facts.began(run.manifest)
    return " · ".join(each for each in (texts, began, facts.machine_line(run.manifest)) if each)


def _result(run: RecordedRun, conclusion: Conclusion | None, judged: SloVerdict | None) -> Section:
    blocks: list[Block] = []
    if run.every > 1:
        blocks.append(
            Notice(
                tone=Tone.NOTE,
                text=say(
                    "So many requests are not drawn one by one: plots and lists of single requests show one of "
                    "{every}, figures and tables are of all.",
                    every=run.every,
                ),
            )
        )
    if judged is not None:
        blocks.append(facts.objective_table(judged))
    if conclusion is not None:
        blocks += verb_blocks(run, conclusion)
        tables: list[Block] = [said_table(each) for each in conclusion.tables if each.rows]
        same = run.manifest.get("verb") in head.COUNTED and tables
        blocks += [Details(summary=say("As the command printed it"), blocks=tables)] if same else tables
    return Section(title=say("Result"), anchor="result", blocks=blocks)


def said_table(table: Said) -> Table:
    """Return a table of a conclusion as one of the page."""
    columns = [
        Column(title=heading, numeric=any(_order(row[place]) is not None for row in table.rows))
        for place, heading in enumerate(table.headings)
    ]
    rows = [[_said_cell(each) for each in row] for row in table.rows]
    return Table(title=table.title, columns=columns, rows=rows)


def _said_cell(value: str | float | None) -> Cell | str:
    match value:
        case None:
            return NONE
        case int() | float():
            return Cell(text=number(value), order=float(value))
        case _:
            return Cell(text=value, order=_order(value))


def _order(value: str | float | None) -> float | None:
    """Return what a cell is sorted by where it begins with a number, times in seconds."""
    if not isinstance(value, str):
        return value
    found = _NUMBER.match(value)
    return float(found[1]) * _UNITS.get(found[2] or "", 1.0) if found else None


_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)(?: (ms|s|min|h)|%|$)")
_UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def _when(run: RecordedRun, conclusion: Conclusion | None, rules: Mapping[str, Sequence[Rule]]) -> Section:
    figures = (
        timeline.latency_figure(run, conclusion.findings if conclusion else (), rules),
        timeline.load_figure(run),
    )
    blocks: list[Block] = [figure for figure in figures if figure is not None]
    return Section(
        title=say("Over time"), anchor="time", blocks=[*blocks, *timeline.host_missing(run)] if blocks else []
    )


def _latencies(
    groups: Sequence[Group], summaries: Sequence[Summary], rules: Mapping[str, Sequence[Rule]], said: Sequence[str]
) -> Section:
    blocks: list[Block] = []
    if len(groups) > 1:
        blocks.append(distributions.part_table(groups, summaries))
    tables: list[Block] = [
        distributions.percentile_table(summary, say("Percentiles, {part}", part=part_word(group.name)))
        for group, summary in list(zip(groups, summaries, strict=True))[:MOST_TABLES]
    ]
    blocks += tables if len(tables) <= 1 else [Details(summary=say("All percentiles of each part"), blocks=tables)]
    if len(summaries) == 1:
        blocks.append(facts.rate_facts(summaries[0]))
    blocks += [Paragraph(text=each) for each in ramp_sentences(summaries) if each not in said]
    blocks += distributions.distribution_blocks(groups, rules)
    return Section(title=say("Latencies"), anchor="latencies", blocks=blocks)


def _failed(groups: Sequence[Group]) -> Section:
    table = facts.failure_table(groups)
    return Section(title=say("Failures"), anchor="failures", blocks=[table] if table else [])


def _setting(run: RecordedRun) -> Section:
    watched = facts.validity_table(head.validity_of(run)["figures"])
    blocks = [facts.again(run), *facts.setting_blocks(run), watched, facts.unseen(run), raw_data(run)]
    return Section(title=say("How it was measured"), anchor="setting", blocks=[each for each in blocks if each])


def _meaning(summaries: Sequence[Summary]) -> Section:
    names = {name for summary in summaries for name in (*summary.distributions, *summary.rates)}
    blocks = [facts.definition_table(names)] if names else []
    return Section(title=say("What the words mean"), anchor="words", blocks=blocks)
