import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from qwenops.calls.readers import Entry, Format, Reading, open_calls
from qwenops.calls.schema import Call
from qwenops.classify.batch import TRIES, Judged, SoFar, classify_all, portions
from qwenops.classify.prediction import Prediction, parse_prediction
from qwenops.classify.score import Prepared
from qwenops.classify.shards import Seen
from qwenops.errors import EngineCrashedError, InvalidDataError
from tests.classify.batching import SIZE, HashJudge, classify, prediction_of, write_calls
from tests.quiet import quiet_tries


def predictions(path: Path) -> list[Prediction]:
    return [parse_prediction(line) for line in path.read_text("utf-8").splitlines()]


def rejected(out: Path) -> list[dict[str, object]]:
    path = out.with_name(f"{out.name}.rejected.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_every_call_is_classified_once_and_in_the_order_of_the_file(tmp_path: Path) -> None:
    source, out = write_calls(tmp_path / "calls.jsonl", 100), tmp_path / "filed.jsonl"
    summary = classify(source, out, HashJudge())
    assert predictions(out) == [prediction_of(f"c-{number:06d}") for number in range(100)]
    assert (summary.classified, summary.passed_over, summary.rejected, summary.tokens) == (100, 0, 0, 300)
    assert summary.decisions == Counter(each.decision.value for each in predictions(out))
    assert rejected(out) == []


def test_a_second_sitting_passes_over_what_is_done_and_takes_what_came_since(tmp_path: Path) -> None:
    source, out = write_calls(tmp_path / "calls.jsonl", 40), tmp_path / "filed.jsonl"
    classify(source, out, HashJudge())
    write_calls(source, 10, first=40)
    judge = HashJudge()
    summary = classify(source, out, judge)
    assert judge.judged == [f"c-{number:06d}" for number in range(40, 50)]
    assert (summary.classified, summary.passed_over) == (10, 40)
    assert [each.conversation_id for each in predictions(out)] == [f"c-{number:06d}" for number in range(50)]


def test_bad_lines_doubles_and_silent_calls_are_in_the_side_file_with_their_reasons(tmp_path: Path) -> None:
    source, out = write_calls(tmp_path / "calls.jsonl", 5), tmp_path / "filed.jsonl"
    with source.open("a", encoding="utf-8") as more:
        more.write("no json\n")
        more.write('{"schema":"qwenops.call/1","conversation_id":"silent","turns":[]}\n')
        more.write('{"schema":"qwenops.call/1","turns":[{"role":"nobody","text":"x"}]}\n')
    write_calls(source, 1)
    write_calls(source, 2, first=5)
    summary = classify(source, out, HashJudge())
    assert summary.classified == 7
    by_line: dict[object, list[str]] = {}
    for each in rejected(out):
        by_line.setdefault(each["line"], []).append(str(each["problem"]))
    assert set(by_line) == {6, 7, 8, 9}
    assert by_line[7] == ["Nobody says anything."]
    assert len(by_line[8]) == 2, "every field that is wrong is named"
    assert f"{source}:1" in by_line[9][0]
    assert summary.rejected == sum(map(len, by_line.values()))
    again = classify(source, out, HashJudge())
    assert (again.classified, again.rejected) == (0, summary.rejected)
    assert len(rejected(out)) == summary.rejected


def run_and_kill(source: Path, out: Path, after_s: float) -> bool:
    """Start a batch, kill it a while after it has done something, and say whether it had not ended by itself."""
    journal = out.with_name(f"{out.name}.parts") / "journal.jsonl"
    before = journal.stat().st_size if journal.exists() else 0
    argv = [sys.executable, "-m", "tests.classify.batching", str(source), str(out), "0.02"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and (journal.stat().st_size if journal.exists() else 0) <= before:
            time.sleep(0.005)
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return True
        assert process.returncode == 0
        return False


@pytest.mark.slow
def test_killed_again_and_again_it_still_classifies_each_call_exactly_once(tmp_path: Path) -> None:
    source, out = write_calls(tmp_path / "calls.jsonl", 1200), tmp_path / "filed.jsonl"
    dice, kills = random.Random(7), 0
    while run_and_kill(source, out, dice.uniform(0.05, 0.4)):
        kills += 1
        if out.exists():  # killed between its last two breaths: the file appears when all is done
            break
    assert kills >= 3
    assert predictions(out) == [prediction_of(f"c-{number:06d}") for number in range(1200)]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["torn journal", "lost line", "changed shard", "stray shard"])
def test_whatever_a_crash_leaves_behind_no_call_is_lost_or_doubled(tmp_path: Path, damage: str) -> None:
    source, out = write_calls(tmp_path / "calls.jsonl", 100), tmp_path / "filed.jsonl"
    classify(source, out, HashJudge())
    parts = tmp_path / "filed.jsonl.parts"
    journal, shards = parts / "journal.jsonl", sorted((parts / "shards").iterdir())
    if damage == "torn journal":
        journal.write_bytes(journal.read_bytes()[:-7])
    elif damage == "lost line":
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-2]))
    elif damage == "changed shard":
        shards[2].write_bytes(shards[2].read_bytes()[:-20])
    else:
        (parts / "shards" / "000099.jsonl").write_bytes(shards[0].read_bytes())
    judge = HashJudge()
    classify(source, out, judge)
    found = Counter(each.conversation_id for each in predictions(out))
    assert found == Counter(f"c-{number:06d}" for number in range(100))
    anew = {"torn journal": 4, "lost line": SIZE + 4, "changed shard": SIZE, "stray shard": 0}
    assert len(judge.judged) == anew[damage]


@pytest.fixture
def seen() -> Iterator[Seen]:
    with contextlib.closing(Seen()) as found:
        yield found


def unheard(_fraction: float, _doing: str) -> None:
    """Nobody listens."""


DEAD = "The engine died."


async def test_an_engine_that_dies_gets_the_same_calls_again_after_a_pause(tmp_path: Path, seen: Seen) -> None:
    class Dying(HashJudge):
        deaths = 2

        async def judge(self, prepared: Prepared) -> list[Prediction]:
            if self.deaths:
                self.deaths -= 1
                raise EngineCrashedError(DEAD)
            return await super().judge(prepared)

    source = write_calls(tmp_path / "calls.jsonl", 20)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    judge, so_far, done = Dying(), SoFar(), list[Judged]()
    waiting = portions(open_calls(source), judge, seen, size=SIZE, so_far=so_far)
    summary = await classify_all(waiting, judge, done.append, so_far=so_far, report=unheard, sleep=pause)
    assert summary.classified == 20
    assert pauses == [1.0, 2.0]
    assert judge.judged == [f"c-{number:06d}" for number in range(20)]


async def test_an_engine_that_dies_each_time_ends_the_batch_and_what_was_done_is_kept(
    tmp_path: Path, seen: Seen
) -> None:
    class Poisoned(HashJudge):
        tries = 0

        async def judge(self, prepared: Prepared) -> list[Prediction]:
            if any(call.conversation_id == "c-000020" for call in prepared.calls):
                self.tries += 1
                raise EngineCrashedError(DEAD)
            return await super().judge(prepared)

    async def pause(_seconds: float) -> None:
        await asyncio.sleep(0)

    source = write_calls(tmp_path / "calls.jsonl", 40)
    judge, so_far, done = Poisoned(), SoFar(), list[Judged]()
    waiting = portions(open_calls(source), judge, seen, size=SIZE, so_far=so_far)
    with pytest.raises(EngineCrashedError):
        await classify_all(waiting, judge, done.append, so_far=so_far, report=unheard, sleep=pause)
    assert judge.tries == TRIES
    assert [len(each.predictions) for each in done] == [SIZE]


async def test_a_file_that_cannot_be_read_on_keeps_what_came_before(tmp_path: Path, seen: Seen) -> None:
    def breaking() -> Iterator[Entry]:
        yield from open_calls(write_calls(tmp_path / "calls.jsonl", SIZE))
        raise InvalidDataError("The disk went away.")

    judge, so_far, done = HashJudge(), SoFar(), list[Judged]()
    reading: Reading[Entry] = Reading(breaking(), Format.CALLS, "calls.jsonl")
    waiting = portions(reading, judge, seen, size=SIZE, so_far=so_far)
    with pytest.raises(InvalidDataError, match="went away"):
        await classify_all(waiting, judge, done.append, so_far=so_far, report=unheard)
    assert [len(each.predictions) for each in done] == [SIZE]


async def test_the_next_portion_is_read_and_the_last_one_written_while_one_is_judged(
    tmp_path: Path, seen: Seen
) -> None:
    pause_s = 0.05

    class Slow(HashJudge):
        def prepare(self, calls: Sequence[Call]) -> Prepared:
            time.sleep(pause_s)
            return super().prepare(calls)

    source = write_calls(tmp_path / "calls.jsonl", 20 * SIZE)
    judge, so_far = Slow(pause_s), SoFar()
    waiting = portions(open_calls(source), judge, seen, size=SIZE, so_far=so_far)
    began_s = time.perf_counter()
    await classify_all(waiting, judge, lambda _judged: time.sleep(pause_s), so_far=so_far, report=unheard)
    assert time.perf_counter() - began_s < 2 * 20 * pause_s, "one after the other it would be three times as long"


@pytest.mark.slow
def test_the_batch_is_as_fast_as_what_judges_within_five_percent(tmp_path: Path) -> None:
    num_portions, size, pause_s = 20, 64, 0.25
    source = write_calls(tmp_path / "calls.jsonl", num_portions * size)
    elapsed_s: list[float] = []
    for number in quiet_tries(4):
        summary = classify(source, tmp_path / f"filed-{number}.jsonl", HashJudge(pause_s), size=size)
        elapsed_s.append(summary.elapsed_s)
        if summary.elapsed_s <= 1.05 * num_portions * pause_s:
            return
    raise AssertionError(elapsed_s)


def test_the_progress_says_how_many_how_fast_and_how_long_it_will_take(tmp_path: Path) -> None:
    told: list[str] = []
    source = write_calls(tmp_path / "calls.jsonl", 20_000)
    classify(source, tmp_path / "out.jsonl", HashJudge(0.001), size=512, told=told)
    assert any("a second, about" in each for each in told)
    assert told[-1].startswith("20000 calls classified")
    assert "left" not in told[-1]


MEASURE = """
import sys, resource
from pathlib import Path
from tests.classify.batching import HashJudge, classify

classify(Path(sys.argv[1]), Path(sys.argv[2]), HashJudge(), size=256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_hundred_thousand_calls_take_no_more_memory_than_ten_thousand(tmp_path: Path) -> None:
    peaks = []
    for count in (10_000, 100_000):
        source = write_calls(tmp_path / f"calls-{count}.jsonl", count)
        out = tmp_path / f"filed-{count}.jsonl"
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(source), str(out)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) * 1024)
        with out.open("rb") as lines:
            assert sum(1 for _ in lines) == count
    assert peaks[1] - peaks[0] < 24 * 2**20
