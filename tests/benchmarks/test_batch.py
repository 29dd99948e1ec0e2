"""The proofs about batches: what they look for would be found, and all of it runs on a few calls."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import batch, recording
from benchmarks.batch import BAD_KINDS, Input, Sample, checked, growth, journalled, judged, moments, spoilt, write_input

MIB = 2**20


def line_of(number: int) -> str:
    turn = {"role": "customer", "text": f"这是第{number}通电话。"}
    return json.dumps(
        {"schema": "qwenops.call/1", "conversation_id": f"c-{number}", "turns": [turn]}, ensure_ascii=False
    )


def written(folder: Path, predicted: Sequence[str], named: Sequence[int], *, severity: str = "error") -> dict[str, Any]:
    """Check a run that predicted these calls and named these lines, of ten calls with two bad lines."""
    given = write_input(folder / "calls.jsonl", map(line_of, range(10)), bad_every=5)
    out = folder / "out.jsonl"
    out.write_text("".join(f'{{"conversation_id":"{each}"}}\n' for each in predicted))
    side = "".join(json.dumps({"line": each, "severity": severity}) + "\n" for each in named)
    (folder / "out.jsonl.rejected.jsonl").write_text(side)
    return checked(given, out)


ALL = tuple(f"c-{number}" for number in range(10))


def test_bad_lines_stand_where_they_are_said_to_stand(tmp_path: Path) -> None:
    given = write_input(tmp_path / "calls.jsonl", map(line_of, range(20)), bad_every=4)
    assert given.bad == dict(zip((5, 10, 15, 20, 25), BAD_KINDS, strict=True))
    assert given.good == {f"c-{number}" for number in range(20)}
    lines = given.path.read_bytes().splitlines()
    assert len(lines) == 25
    good = [line for number, line in enumerate(lines, start=1) if number not in given.bad]
    assert [json.loads(line)["conversation_id"] for line in good] == [f"c-{number}" for number in range(20)]
    assert not write_input(tmp_path / "clean.jsonl", map(line_of, range(3))).bad


def test_each_kind_of_bad_line_is_bad_in_its_own_way() -> None:
    line = line_of(7)
    made = {kind: spoilt(kind, line, 9) for kind in BAD_KINDS}
    assert line.encode().startswith(made["cut"])
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
        json.loads(made["cut"].decode("utf-8", "ignore"))
    for codec in ("utf-8", "gb18030"):
        with pytest.raises(UnicodeDecodeError):
            made["bytes"].decode(codec)
    assert json.loads(made["role"])["turns"][0]["role"] == "nobody"
    assert json.loads(made["silent"])["turns"] == []
    assert {json.loads(made[kind])["conversation_id"] for kind in ("role", "silent")} == {"bad-9"}
    assert made["twice"] == line.encode()
    with pytest.raises(ValueError, match="strange"):
        spoilt("strange", line, 9)


def test_a_run_in_which_nothing_is_amiss_is_right(tmp_path: Path) -> None:
    found = written(tmp_path, ALL, [6, 12])
    assert found["right"]
    assert (found["predicted_once"], found["bad_lines"]) == (10, 2)


@pytest.mark.parametrize(
    ("predicted", "named", "fault"),
    [
        (ALL[1:], (6, 12), "missing"),
        ((*ALL, "c-3"), (6, 12), "more_than_once"),
        ((*ALL, "bad-6"), (6, 12), "strange"),
        (ALL, (6,), "bad_lines_not_named"),
        (ALL, (6, 12, 7), "good_lines_named"),
    ],
)
def test_every_fault_is_seen(tmp_path: Path, predicted: Sequence[str], named: Sequence[int], fault: str) -> None:
    found = written(tmp_path, predicted, named)
    assert not found["right"]
    faults = ("missing", "more_than_once", "strange", "bad_lines_not_named", "good_lines_named")
    assert [name for name in faults if found[name]] == [fault]


def test_a_warning_does_not_name_a_line(tmp_path: Path) -> None:
    assert written(tmp_path, ALL, [6, 12], severity="warning")["bad_lines_not_named"] == {"cut": 1, "bytes": 1}


def test_without_a_side_file_no_line_is_named(tmp_path: Path) -> None:
    given = Input(path=tmp_path, good=frozenset({"a"}), bad={})
    (tmp_path / "out.jsonl").write_text('{"conversation_id":"a"}\n')
    assert checked(given, tmp_path / "out.jsonl")["right"]


def watched(growth_bytes: float, *, count: int = 600, start: float = 300 * MIB) -> list[Sample]:
    """Return samples of a run that grows by so much from its first second to its last, with noise, after a start."""
    draw = random.Random(1)
    filling = [start * min(1.0, 0.2 + number / (0.05 * count)) for number in range(count)]
    return [
        Sample(
            at_s=number * 0.5,
            command=round(filling[number] + growth_bytes * number / count + draw.uniform(-MIB, MIB)),
            engine=0,
        )
        for number in range(count)
    ]


def test_memory_that_fills_at_the_beginning_and_then_stays_is_flat() -> None:
    found = growth(watched(0.0), lambda each: each.command, 100_000)
    assert found["flat"]
    assert abs(found["growth_bytes_per_100000_calls"]["value"]) < 2 * MIB


def test_memory_that_grows_with_every_call_is_not_flat() -> None:
    found = growth(watched(100.0 * MIB), lambda each: each.command, 100_000)
    assert found["flat"] is False
    low, value, high = (found["growth_bytes_per_100000_calls"][name] for name in ("low", "value", "high"))
    assert low <= value <= high
    assert value == pytest.approx(100 * MIB, rel=0.1)


def test_the_growth_of_a_shorter_run_is_carried_on_to_as_many_calls() -> None:
    grown = growth(watched(10.0 * MIB), lambda each: each.command, 10_000)
    assert grown["growth_bytes_per_100000_calls"]["value"] == pytest.approx(100 * MIB, rel=0.2)
    assert grown["flat"] is False


def test_too_short_a_run_says_nothing_about_memory() -> None:
    assert growth(watched(0.0, count=30), lambda each: each.command, 100)["flat"] is None


def test_kills_come_at_any_moment_and_leave_something_to_do() -> None:
    for seed in range(20):
        found = moments(12, 130.0, seed)
        assert len(found) == 12
        assert all(0 <= each <= 20 for each in found)
        assert found == moments(12, 130.0, seed)
    together = [sum(moments(12, 130.0, seed)) for seed in range(200)]
    assert sum(together) / 200 == pytest.approx(120.0, rel=0.1)


def test_half_a_line_of_a_journal_does_not_count(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    assert journalled(journal) == 0
    journal.write_text('{"shard":0,"calls":256}\n{"shard":1,"calls":200}\n{"shard":2,"ca')
    assert journalled(journal) == 456


def test_goals_are_judged_by_what_was_measured() -> None:
    flat = {"right": True, "command": {"flat": True}, "engine": {"flat": True}}
    assert judged({}) == {}
    assert judged({"memory": flat}) == {"each_call_once": True, "flat_memory": True}
    assert not judged({"memory": {**flat, "engine": {"flat": None}}})["flat_memory"]
    assert not judged({"once": {"right": True, "kills": 0}})["each_call_once_after_kills"]
    assert judged({"once": {"right": True, "kills": 3}})["each_call_once_after_kills"]
    fast = {
        batch.TRUE_SHAPE: {"command_to_scorer": {"median": 0.96}},
        batch.TINY: {"command_to_scorer": {"median": 0.5}},
    }
    assert judged({"speed": fast}) == {"as_fast_as_the_scorer": True}
    assert judged({"speed": {batch.TINY: fast[batch.TINY]}}) == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_few_calls_go_through_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWENOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    (tmp_path / "work").mkdir()
    size = ["--calls", "600", "--bad-every", "60", "--kills", "2", "--pairs", "1"]
    speed = ["--speed-model", "random:tiny", "--speed-calls", "60", "--tiny-calls", "60"]
    assert batch.main([*size, *speed, "--folder", str(tmp_path / "work")]) in {0, 3}, "it is too short to be flat"
    results = json.loads((tmp_path / "batch.json").read_text())["results"]
    assert results["memory"]["right"], results["memory"]
    assert results["memory"]["bad_lines"] == 10
    assert results["once"]["right"], results["once"]
    assert results["memory"]["summary"]["classified"] == 600
    assert results["speed"]["random:tiny"]["command_to_scorer"]["median"] > 0
    kinds = Counter(results["once"]["bad_lines_not_named"])
    assert not kinds


def test_calls_beyond_the_distinct_ones_have_ids_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "DISTINCT", 3)
    told = [json.loads(line) for line in batch.synthetic(8)]
    assert len({each["conversation_id"] for each in told}) == 8
    assert [each["turns"] for each in told[3:6]] == [each["turns"] for each in told[:3]]
    assert told[0]["turns"] != told[1]["turns"]
