"""What turns out about a server while it is measured, and what becomes of the figures."""

from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.conclusion import Conclusion, Outcome, conclusion_of
from qwenops.bench.folder import read_manifest, read_run
from qwenops.bench.noticing import Noticing
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Phase
from qwenops.bench.report.contents import report_page
from qwenops.bench.resume import Opening
from qwenops.bench.run import begin, finish
from qwenops.bench.segment import ClosedLoop, Segment
from qwenops.bench.target import Target
from qwenops.bench.targets import open_target
from qwenops.text import say
from tests.engines.openai_facing import FINE, MODELS
from tests.engines.scripted import Reply, refusing, scripted

WARMUP = Segment(name="warm-up", load=ClosedLoop(users=1, requests=1), phase=Phase.WARMUP)
MEASURE = Segment(name="load", load=ClosedLoop(users=1, requests=3))


class Refusing:
    """Refuses a field from its `first`-th request on, counted from 1."""

    def __init__(self, field: str, first: int) -> None:
        self.field = field
        self.first = first
        self.count = 0

    def __call__(self, body: dict[str, Any]) -> Reply:
        self.count += 1
        if self.count >= self.first and self.field in body:
            return refusing(400, {"error": {"message": f"Unknown parameter: '{self.field}'.", "param": self.field}})
        return Reply(pieces=FINE)


async def measured(server: Refusing, folder: Path, *segments: Segment, **more: Any) -> Path:
    """Measure a server that refuses a field, and return the run's folder."""
    async with scripted(server, gets=MODELS) as served:
        options = BenchOptions(folder=folder, prompt_tokens=16, max_tokens=4, force_length=True, **more)
        target = await open_target(served.url, options, model="m")
        async with begin("load", {"": target}, options, opening=Opening(calibrate_s=0)) as run:
            for segment in segments:
                await run.drive(segment)
            finish(run, Conclusion(outcome=Outcome.DONE, sentences=(say("It is done."),)))
        await target.engine.aclose()
        return run.folder.path


@pytest.mark.parametrize("field", ["ignore_eos", "chat_template_kwargs", "stream_options"])
async def test_what_a_server_refuses_stands_in_the_result(field: str, tmp_path: Path) -> None:
    path = await measured(Refusing(field, 1), tmp_path, WARMUP, MEASURE)
    manifest, found = read_manifest(path), read_run(path)
    (notice,) = manifest["notices"]
    assert (notice["name"], notice["doubtful"]) == (field, False)
    assert 0 < notice["at_ns"] <= found.drivens[0].ended_ns
    assert manifest["validity"]["verdict"] != "SUSPECT" or not any(field in each for each in _reasons(manifest))
    (finding,) = [each for each in conclusion_of(found.summary).findings if field in each.text]
    assert (finding.severity, finding.from_ns) == ("warning", notice["at_ns"])
    assert f"does not know {field}" in str(report_page(found))
    assert [record.tries for each in found.drivens for record in each.records] == [2, 1, 1, 1]


@pytest.mark.parametrize("segments", [(WARMUP, MEASURE), (MEASURE,)])
async def test_what_is_refused_after_the_warm_up_makes_the_run_suspect(
    segments: tuple[Segment, ...], tmp_path: Path
) -> None:
    path = await measured(Refusing("ignore_eos", 3), tmp_path, *segments)
    manifest = read_manifest(path)
    assert manifest["notices"][0]["doubtful"]
    assert manifest["validity"]["verdict"] in {"SUSPECT", "INVALID"}
    assert any("refused" in each for each in _reasons(manifest))


async def test_a_field_that_decides_nothing_makes_no_run_suspect(tmp_path: Path) -> None:
    path = await measured(Refusing("top_k", 3), tmp_path, WARMUP, MEASURE, thinking=True)
    manifest = read_manifest(path)
    assert [each["name"] for each in manifest["notices"]] == ["top_k"]
    assert not any("refused" in each for each in _reasons(manifest))


def _reasons(manifest: dict[str, Any]) -> list[str]:
    return [each["say"][0] for each in manifest["validity"]["reasons"]]


async def test_what_earlier_sittings_noticed_is_kept(tmp_path: Path) -> None:
    path = await measured(Refusing("ignore_eos", 3), tmp_path, MEASURE)
    manifest = read_manifest(path)
    later = Noticing({})
    later.recall(manifest["notices"])
    assert later.data() == manifest["notices"]
    assert len(later.doubts()) == len(later.findings()) == 1


async def test_ollama_says_by_its_first_request_what_it_does_not_know(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        if "messages" not in body:
            return Reply(pieces=[b"{}"], content_type="application/json")
        said = b'{"message": {"role": "assistant", "content": "Hi"}, "done": false}\n{"done": true, "eval_count": 1}\n'
        return Reply(pieces=[said], content_type="application/x-ndjson")

    facts = {"/api/version": {"version": "1"}}
    async with scripted(answer, gets=facts) as served:
        options = BenchOptions(folder=tmp_path, prompt_tokens=16, max_tokens=4, force_length=True)
        target = await _ollama(served.url, options)
        async with begin("load", {"": target}, options, opening=Opening(calibrate_s=0)) as run:
            await run.drive(MEASURE)
        await target.engine.aclose()
    (notice,) = run.noticing.notices
    assert (notice.name, notice.doubtful) == ("ignore_eos", False)


async def _ollama(url: str, options: BenchOptions) -> Target:
    return await open_target(f"ollama:m@{url}", options)
