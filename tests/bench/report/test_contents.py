import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from qwenops.bench.collect.energy import NO_COUNTERS
from qwenops.bench.conclusion import Conclusion, Finding, Outcome, conclusion_data, conclusion_of, crossed
from qwenops.bench.conclusion import Table as Said
from qwenops.bench.folder import RecordedRun, RunFolder, record_data, segment_data
from qwenops.bench.report.contents import report_page, said_table
from qwenops.bench.report.write import write_report
from qwenops.page.document import Block, Cell, Details, Facts, Figure, Notice, Page, Paragraph, Table, Tiles, Tone
from qwenops.page.html import MAX_BYTES, render
from qwenops.page.plot import Chart
from qwenops.text import Text, say, translate_text, translator
from tests.bench.report import runs
from tests.page.reading import read


def titles(blocks: tuple[Block, ...] | list[Block]) -> list[str]:
    found = []
    for block in blocks:
        found.append(
            f"{type(block).__name__}: {getattr(block, 'title', getattr(block, 'text', getattr(block, 'summary', '')))}"
        )
        if isinstance(block, Details):
            found += [f"    {each}" for each in titles(list(block.blocks))]
    return found


def with_manifest(run: RecordedRun, **more: Any) -> RecordedRun:
    return replace(run, manifest={**run.manifest, **more})


def verdict(page: Page) -> Notice:
    first = page.head[0]
    assert isinstance(first, Notice)
    return first


def tile_values(page: Page) -> dict[str, str]:
    tiles = next(block for block in page.head if isinstance(block, Tiles))
    return {tile.name: tile.value for tile in tiles.tiles}


@pytest.mark.parametrize("verb", runs.RUNS)
def test_each_command_has_its_report_in_this_order(verb: str, snapshot: SnapshotAssertion) -> None:
    page = report_page(runs.RUNS[verb]())
    assert {
        "title": page.title,
        "head": titles(list(page.head)),
        **{section.anchor: titles(list(section.blocks)) for section in page.sections},
    } == snapshot


def test_a_first_look_shows_its_figures_at_the_top() -> None:
    run = with_manifest(runs.RUNS["stress"](), verb="quick")
    page = report_page(run)
    values = tile_values(page)
    assert {"First token, median", "Each further token, median", "Whole answer, median", "Tokens written"} <= set(
        values
    )
    tiles = next(block for block in page.head if isinstance(block, Tiles))
    assert {tile.name: tile.detail for tile in tiles.tiles}["First token, median"] == "one caller alone"


def test_what_cannot_be_known_about_energy_is_said_beside_the_machine_and_not_above_the_figures() -> None:
    run = runs.RUNS["load"]()
    said = conclusion_of(run.summary)
    run = replace(run, summary={**run.summary, **conclusion_data(replace(said, findings=(Finding(text=NO_COUNTERS),)))})
    page = report_page(run)
    assert not any(isinstance(block, Notice) and block.text == NO_COUNTERS for block in page.head)
    host = [{"at_ns": 1, "absent": crossed({"energy_j": NO_COUNTERS})}]
    setting = report_page(replace(run, host=host)).sections[-2]
    (machine,) = (block for block in setting.blocks if isinstance(block, Facts) and block.title == "Machine")
    assert ("Energy", NO_COUNTERS) in list(machine.pairs)


def test_the_machine_is_named_by_its_size_and_not_by_what_was_free() -> None:
    run = runs.RUNS["load"]()
    machine = {**run.manifest["machine"], "memory_limit_bytes": 1_000_000_000}
    assert "7.67 GiB" in report_page(with_manifest(run, machine=machine)).subtitle


def test_a_server_that_was_started_here_is_named_by_its_command() -> None:
    run = with_manifest(runs.RUNS["startup"](), targets={})
    run = replace(run, summary={**run.summary, "data": {**run.summary["data"], "command": "llama-server -m a.gguf"}})
    page = report_page(run)
    assert page.title == "Start-up: llama-server -m a.gguf"
    assert page.subtitle.startswith("llama-server -m a.gguf")
    long = {"command": f"/usr/bin/python3 -m qwenops serve random:0.6b --port '{{port}}' {'--x ' * 40}"}
    page = report_page(replace(run, summary={**run.summary, "data": {**run.summary["data"], **long}}))
    assert page.title == "Start-up: qwenops serve random:0.6b --port {port}…"


@pytest.mark.parametrize("verb", runs.RUNS)
def test_the_file_has_no_address_to_fetch_from_and_stays_small(verb: str) -> None:
    html = render(report_page(runs.RUNS[verb]()))
    assert len(html.encode()) <= MAX_BYTES
    assert read(html).addresses == []


def test_a_page_of_many_plots_has_shorter_tables_behind_them_rather_than_no_data() -> None:
    limits = [(f"cpu={cpus},memory={memory}GiB", 0.3 * cpus, 0.03) for cpus in (1, 2) for memory in (1, 2, 4, 8)]
    run = runs.limited_run(limits, (1, 2, 4, 8, 16, 32))
    found = read(render(report_page(run)))
    assert found.num_bytes <= MAX_BYTES
    (raw,) = found.raw.values()
    num = sum(len(driven.records) for driven in run.drivens)
    assert {len(column["is"] if "is" in column else column.get("by") or column["at"]) for column in raw.values()} == {
        num
    }


@pytest.mark.slow
@pytest.mark.proves("C2")
def test_ten_thousand_requests_fit_into_the_page_with_all_their_times() -> None:
    run = runs.load_run(duration_s=12_500.0)
    num = sum(len(driven.records) for driven in run.drivens)
    assert num > 9_800
    found = read(render(report_page(run)))
    assert found.num_bytes <= MAX_BYTES
    (raw,) = found.raw.values()
    assert {len(column["is"] if "is" in column else column.get("by") or column["at"]) for column in raw.values()} == {
        num
    }
    records = sorted((each for driven in run.drivens for each in driven.records), key=lambda each: each.scheduled_ns)
    step = raw["ttft_s"]["step"]
    assert step <= 2e-3
    ends = zip(raw["ttft_s"]["is"], raw["e2e_s"]["is"], strict=True)
    for record, (whole, rest) in zip(records, ends, strict=True):
        if record.last_content_ns is not None and record.sent_ns is not None:
            assert abs((whole + rest) * step - (record.last_content_ns - record.sent_ns) / 1e9) <= step / 2 + 1e-9
        if record.first_content_ns is None or record.sent_ns is None:
            assert whole is None
        else:
            assert abs(whole * step - (record.first_content_ns - record.sent_ns) / 1e9) <= step / 2 + 1e-9


def test_all_is_well_is_said_where_all_is_well() -> None:
    run = runs.load_run(rate=0.2, troubled=False)
    run.manifest["options"].pop("slo")
    found = verdict(report_page(run))
    assert found.tone is Tone.GOOD
    assert found.text.startswith("All ")


def test_the_objective_decides_where_there_is_one() -> None:
    run = runs.load_run()
    found = verdict(report_page(run))
    assert found.tone is Tone.BAD
    assert "ttft p95 < 2s" in found.text
    assert "Met the objective" in tile_values(report_page(run))


def test_the_verdict_is_the_one_that_the_command_gave() -> None:
    run = runs.load_run(rate=0.2, troubled=False)
    conclusion = conclusion_of(run.summary)
    said = {**conclusion.data["verdicts"][0], "decision": "undecided", "attainment": 0.5, "more_requests": 77}
    given = replace(run, summary=conclusion_data(replace(conclusion, data={"verdicts": [said]})))
    page = report_page(given)
    assert "about 77 more requests" in verdict(page).text
    assert tile_values(page)["Met the objective"] == "50 %"
    steps = [{**said, "segment": "users=1"}, {**said, "segment": "users=2"}]
    several = replace(run, summary=conclusion_data(replace(conclusion, data={"verdicts": steps})))
    assert verdict(report_page(several)).text.startswith("All ")


def test_what_was_cut_off_is_judged_with_its_own_time_out() -> None:
    run = runs.load_run(troubled=False)
    times = {}
    for timeout_s in (1.0, 1e6):
        cut = with_manifest(replace(run, summary={}), options={**run.manifest["options"], "timeout_s": timeout_s})
        page = report_page(cut)
        table = next(block for section in page.sections for block in section.blocks if isinstance(block, Table))
        times[timeout_s] = str(table.rows)
    assert times[1.0] != times[1e6]


def test_failures_are_what_a_run_is_about_when_there_is_no_objective() -> None:
    run = runs.load_run()
    run.manifest["options"].pop("slo")
    found = verdict(report_page(run))
    assert found.tone is Tone.WARNING
    assert "failed" in found.text


def test_an_invalid_measurement_says_so_before_anything_else() -> None:
    run = runs.load_run(troubled=False)
    reasons = crossed([say("The client used {share:.0f} % of the CPU.", share=71.0)])
    run = with_manifest(run, validity={"verdict": "INVALID", "reasons": reasons, "figures": {}})
    found = verdict(report_page(run))
    assert (found.tone, found.detail) == (Tone.BAD, "The client used 71 % of the CPU.")
    assert "proves nothing" in found.text


def test_a_suspect_measurement_is_never_shown_as_all_well() -> None:
    run = runs.load_run(rate=0.2, troubled=False)
    run.manifest["options"].pop("slo")
    run = with_manifest(run, validity={"verdict": "SUSPECT", "reasons": [], "figures": {}})
    assert verdict(report_page(run)).tone is Tone.WARNING


def test_a_run_without_a_conclusion_says_that_it_was_cut_off() -> None:
    run = runs.load_run(rate=0.2, troubled=False)
    page = report_page(runs.recorded("load", run.drivens, Conclusion(outcome=Outcome.DONE, sentences=())))
    cut = report_page(type(run)(path=run.path, manifest=run.manifest, drivens=run.drivens))
    assert "cut off" not in str(titles(list(page.head)))
    assert "cut off" in str(titles(list(cut.head)))
    assert verdict(cut).tone is not Tone.GOOD


def test_the_warnings_that_a_summary_repeats_are_shown_once() -> None:
    run = runs.load_run(troubled=False)
    reason = say("Late by {ms:.0f} ms.", ms=9.0)
    validity = {"verdict": "SUSPECT", "reasons": crossed([reason]), "figures": {}}
    said = (say("The run was stopped after {seconds:.1f} s.", seconds=3.0), say("This measurement is SUSPECT."), reason)
    own = say("{num} requests were sent.", num=3)
    summary = {
        **conclusion_data(Conclusion(outcome=Outcome.DONE, sentences=(*said, own))),
        "state": "interrupted",
        "validity": validity,
    }
    page = report_page(type(run)(path=run.path, manifest=run.manifest, drivens=run.drivens, summary=summary))
    shown = titles(list(page.head))
    assert "Paragraph: 3 requests were sent." in shown
    assert not any("stopped after" in each for each in shown)
    assert str(page.head).count("Late by 9 ms.") == 1


def test_too_few_requests_for_a_percentile_are_said_and_not_hidden() -> None:
    run = runs.load_run(duration_s=60.0, troubled=False)
    page = report_page(run)
    table = next(
        block
        for section in page.sections
        for block in section.blocks
        if getattr(block, "title", "").startswith("Percent")
    )
    assert isinstance(table, Table)
    num = len(run.drivens[0].records)
    assert f"n/a ({num} < 299)" in str(table.rows)


def test_findings_and_gaps_are_marked_in_the_plot_where_they_happened() -> None:
    run = runs.load_run()
    page = report_page(run)
    figure = next(block for section in page.sections for block in section.blocks if isinstance(block, Figure))
    assert isinstance(figure.plot, Chart)
    marked = {(span.kind, span.begin, span.end) for span in figure.plot.spans}
    assert ("gap", 150.0, 150.0) in marked
    assert ("finding", 330.0, 402.0) in marked
    assert [rule.title for rule in figure.plot.panels[0].rules] == ["ttft p95 < 2s"]


def test_a_finding_about_the_whole_run_shades_nothing() -> None:
    run = runs.load_run()
    finding = {"text": "Other programs.", "severity": "warning", "from_ns": 0, "to_ns": 600 * runs.S}
    page = report_page(replace(run, summary={**run.summary, "findings": [finding]}))
    figure = next(block for section in page.sections for block in section.blocks if isinstance(block, Figure))
    assert isinstance(figure.plot, Chart)
    assert [span.kind for span in figure.plot.spans] == ["gap"]
    assert "Notice: Other programs." in titles(list(page.head))


def test_times_that_a_command_wrote_are_sorted_as_times() -> None:
    rows = (("916 ms",), ("2.68 s",), (None,), ("n/a (40 < 299)",), ("-7.5%",))
    table = said_table(Said(title="t", headings=("TTFT",), rows=rows))
    cells = [each if isinstance(each, Cell) else Cell(text=each) for (each,) in table.rows]
    assert [each.order for each in cells] == [0.916, 2.68, None, None, -7.5]
    assert table.columns[0].numeric


def test_what_could_not_be_watched_is_said_with_the_reason() -> None:
    run = runs.load_run()
    reasons = {"frequency_hz": "the kernel does not tell it", "energy_j": NO_COUNTERS}
    page = render(report_page(replace(run, host=[{"at_ns": 0, "absent": crossed(reasons)}, *run.host])))
    assert "the kernel does not tell it" in page
    assert str(NO_COUNTERS) in page
    chinese = translate_text(NO_COUNTERS, translator("zh"))
    assert chinese != str(NO_COUNTERS)
    assert chinese in page


def test_an_overload_on_purpose_is_no_bad_news() -> None:
    run = runs.load_run()
    stressed = report_page(with_manifest(run, verb="stress"))
    tiles = next(block for block in stressed.head if isinstance(block, Tiles))
    assert tiles.tiles[0].tone is Tone.PLAIN


def test_what_a_server_says_cannot_become_part_of_the_page() -> None:
    run = runs.load_run()
    run.manifest["targets"][""]["model"] = "<script>alert(1)</script>"
    html = render(report_page(run))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_folder_becomes_a_report_beside_its_journals(tmp_path: Path) -> None:
    run = runs.load_run(duration_s=120.0)
    path = tmp_path / "run"
    folder = RunFolder.create(path, run.manifest)
    (found,) = run.drivens
    folder.add(
        "segments",
        {"event": "began", "number": 0, "at_ns": 0, "first_index": 0, "segment": segment_data(found.segment)},
    )
    for record in found.records:
        folder.add_record(record)
    for sample in run.host:
        folder.add("host", sample)
    ending = {
        "event": "ended",
        "number": 0,
        "at_ns": found.ended_ns,
        "window_ns": found.window_ns,
        "interrupted": False,
    }
    folder.add("segments", ending)
    folder.write_summary(dict(run.summary))
    folder.close()
    with (path / "requests.jsonl").open("a") as torn:
        torn.write(json.dumps(record_data(found.records[0]))[:40])  # killed while it wrote
    report = write_report(path, language="zh")
    assert report == path / "report.html"
    html = report.read_text("utf-8")
    assert html.startswith('<!doctype html>\n<html lang="zh-CN"')
    assert f"{len(found.records)}" in html


def test_a_percentile_that_is_not_known_has_no_riddle_in_its_tile() -> None:
    run = runs.RUNS["load"]()
    few = replace(run.drivens[0], records=[each for each in run.drivens[0].records if each.failure is None][:20])
    tiles = next(block for block in report_page(replace(run, drivens=[few])).head if isinstance(block, Tiles))
    assert {tile.name: tile.detail for tile in tiles.tiles}["First token, median"] == "too few answers for p95"


def test_the_parts_on_the_axis_of_time_are_words_that_can_be_translated() -> None:
    page = report_page(runs.RUNS["stress"]())
    shown = [block for section in page.sections for block in section.blocks if isinstance(block, Figure)]
    figure = next(each for each in shown if each.title.startswith("Latency over time"))
    assert isinstance(figure.plot, Chart)
    assert figure.plot.rules
    assert all(isinstance(rule.title, Text) for rule in figure.plot.rules)


def test_what_rates_leave_out_is_said_beside_them_and_only_once() -> None:
    run = runs.RUNS["stress"]()
    page = report_page(run)
    said = [block.text for section in page.sections for block in section.blocks if isinstance(block, Paragraph)]
    ramps = [each for each in said if isinstance(each, Text) and "ramp" in each]
    assert sum("Rates are taken after the ramp" in each for each in ramps) == 1
    again = conclusion_data(Conclusion(outcome=Outcome.DONE, sentences=tuple(ramps)))
    page = report_page(replace(run, summary={**run.summary, **again}))
    said = [block.text for section in page.sections for block in section.blocks if isinstance(block, Paragraph)]
    assert not any("Rates are taken after the ramp" in each for each in said)
