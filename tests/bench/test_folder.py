"""A run's folder is whole whatever happens to its writer and to its disk."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.bench.folder import (
    SCHEMA,
    RunFolder,
    last_seen_ns,
    read_lines,
    read_manifest,
    read_records,
    read_run,
    record_data,
    record_of,
    segment_data,
    segment_of,
)
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.segment import ClosedLoop, OpenLoop, Segment
from qwenops.errors import InsufficientDiskError, RunFolderError
from tests.bench.driving import S

MANIFEST: dict[str, Any] = {"schema": SCHEMA, "verb": "load"}
WRITER = """
import itertools, sys
from pathlib import Path
from qwenops.bench.folder import RunFolder
from tests.bench.test_folder import MANIFEST, record
folder = RunFolder.create(Path(sys.argv[1]), MANIFEST)
for index in itertools.count():
    folder.add_record(record(index, message="x" * 3000))
"""


def record(index: int, **more: Any) -> RequestRecord:
    given: dict[str, Any] = {
        "segment": "load",
        "phase": Phase.MEASURE,
        "item": f"item-{index}",
        "prompt_hash": "h",
        "scheduled_ns": index * S,
        "sent_ns": index * S,
        "ended_ns": index * S + 5,
    }
    return RequestRecord(index=index, **(given | more))


def began(number: int, first_index: int, segment: Segment, at_ns: int = 0) -> dict[str, Any]:
    return {
        "event": "began",
        "number": number,
        "at_ns": at_ns,
        "target": "",
        "first_index": first_index,
        "segment": segment_data(segment),
    }


def ended(number: int, *, at_ns: int, interrupted: bool = False) -> dict[str, Any]:
    return {"event": "ended", "number": number, "at_ns": at_ns, "window_ns": 7, "interrupted": interrupted}


@given(
    st.builds(
        RequestRecord,
        index=st.integers(0, 10**9),
        segment=st.text(max_size=8),
        phase=st.sampled_from(Phase),
        item=st.text(max_size=8),
        prompt_hash=st.text(max_size=8),
        user=st.none() | st.integers(0, 9),
        scheduled_ns=st.integers(0, 2**62),
        sent_ns=st.none() | st.integers(0, 2**62),
        first_content_ns=st.none() | st.integers(0, 2**62),
        chunk_gaps_us=st.lists(st.integers(0, 10**7), max_size=4).map(tuple),
        completion_tokens=st.none() | st.integers(0, 99),
        token_source=st.none() | st.sampled_from(["server", "tokenizer", "estimate"]),
        failure=st.none() | st.sampled_from(Failure),
        message=st.text(max_size=8),
        retry_after_s=st.none() | st.floats(0, 300),
        reported=st.dictionaries(st.text(max_size=4), st.floats(0, 9), max_size=2),
        answer=st.none() | st.text(alphabet=st.characters(), max_size=8),
    )
)
def test_a_record_is_read_as_it_was_written(written: RequestRecord) -> None:
    assert record_of(json.loads(json.dumps(record_data(written)))) == written


def test_what_a_newer_version_added_to_a_record_is_left_out() -> None:
    assert record_of({**record_data(record(3)), "phase": "measure", "colour": "blue"}) == record(3)


@pytest.mark.parametrize(
    "segment",
    [
        Segment(name="a", load=OpenLoop(offsets_ns=(0, 5, 9)), duration_s=3.0, max_in_flight=4),
        Segment(name="b", load=ClosedLoop(users=3, requests=9, think_s=0.5), phase=Phase.WARMUP, first_item=7),
    ],
)
def test_a_segment_is_read_as_it_was_written(segment: Segment) -> None:
    assert segment_of(json.loads(json.dumps(segment_data(segment)))) == segment


def test_a_run_is_read_segment_by_segment(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", MANIFEST)
    open_loop = Segment(name="load", load=OpenLoop(offsets_ns=(0, 1, 2)))
    folder.add("segments", began(0, 0, open_loop))
    for index in (1, 0):
        folder.add_record(record(index))
    folder.add("segments", {"event": "dropped", "number": 0, "position": 2, "at_ns": 5})
    folder.add("segments", ended(0, at_ns=9))
    folder.add("segments", began(1, 3, Segment(name="users=2", load=ClosedLoop(users=2)), at_ns=10))
    folder.add_record(record(3, ended_ns=44))
    folder.add("host", {"at_ns": 50, "cpu": 1.0})
    folder.write_summary({"outcome": "done"})
    folder.close()

    found = read_run(folder.path)
    first, second = found.drivens
    assert (first.segment, first.window_ns, first.ended_ns, first.dropped) == (open_loop, 7, 9, 1)
    assert [each.index for each in first.records] == [0, 1]
    assert not first.interrupted
    assert [each.index for each in second.records] == [3]
    assert (second.interrupted, second.began_ns, second.ended_ns, second.window_ns) == (True, 10, 50, 40)
    assert (list(found.host), found.summary) == ([{"at_ns": 50, "cpu": 1.0}], {"outcome": "done"})
    assert sorted(each.name for each in folder.path.iterdir() if not each.name.startswith(".")) == [
        "host.jsonl",
        "manifest.json",
        "requests.jsonl",
        "segments.jsonl",
        "summary.json",
    ]


@pytest.mark.parametrize(
    "torn", [b'{"index":9', b'{"index":9,"a"}\n', b"\x00\x00\x00\n", b"\xff", b"[1]\n", b"x" * 200_000]
)
def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path, torn: bytes) -> None:
    with_one = RunFolder.create(tmp_path / "run", MANIFEST)
    with_one.add("segments", began(0, 0, Segment(name="load", load=ClosedLoop(users=1))))
    with_one.add_record(record(4))
    with_one.close()
    journal = with_one.path / "requests.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)

    assert [each.index for each in read_records(with_one.path)] == [4]
    assert last_seen_ns(with_one.path) == 4 * S + 5
    again = RunFolder.open(with_one.path)
    again.add_record(record(5))
    again.close()
    assert journal.read_bytes().startswith(whole)
    assert [each.index for each in read_run(with_one.path).drivens[0].records] == [4, 5]


def test_a_damaged_line_in_the_middle_is_an_error_and_says_where(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", MANIFEST)
    folder.add_record(record(1))
    folder.close()
    journal = folder.path / "requests.jsonl"
    journal.write_bytes(b"half\n" + journal.read_bytes())
    with pytest.raises(RunFolderError, match=r"Line 1 of .*requests\.jsonl is damaged"):
        list(read_records(folder.path))


def test_an_interrupted_request_that_was_sent_again_counts_once(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", MANIFEST)
    for each in (
        record(0),
        record(1, failure=Failure.INTERRUPTED),
        record(2, failure=Failure.INTERRUPTED),
        record(1),
        record(2, failure=Failure.INTERRUPTED, message="again"),
    ):
        folder.add_record(each)
    folder.close()
    assert list(read_records(folder.path)) == [
        record(0),
        record(1),
        record(2, failure=Failure.INTERRUPTED, message="again"),
    ]


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", MANIFEST)
    with pytest.raises(RunFolderError, match="Another process is writing"):
        RunFolder.open(folder.path)
    assert read_manifest(folder.path) == MANIFEST
    folder.close()
    RunFolder.open(folder.path).close()
    with pytest.raises(RunFolderError, match="There is a run in"):
        RunFolder.create(folder.path, MANIFEST)


def test_a_folder_that_is_no_run_or_a_newer_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="There is no run in"):
        RunFolder.open(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": "qwenops.run/2"}))
    with pytest.raises(RunFolderError, match=r"qwenops\.run/2"):
        read_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_run(tmp_path)


@pytest.mark.parametrize(("verb", "hint"), [("load", "bench load --resume"), ("startup", "cannot be continued")])
def test_how_to_continue_is_said_only_where_that_is_possible(tmp_path: Path, verb: str, hint: str) -> None:
    RunFolder.create(tmp_path / "run", MANIFEST | {"verb": verb}).close()
    with pytest.raises(RunFolderError, match="already") as caught:
        RunFolder.create(tmp_path / "run", MANIFEST)
    assert hint in caught.value.hint


def test_half_a_character_can_be_written(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", MANIFEST)
    folder.add_record(record(0, answer="好\ud83d"))
    folder.close()
    assert [each.answer for each in read_records(folder.path)] == ["好\ud83d"]


def start_writer(path: Path, **more: Any) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-c", WRITER, str(path)]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2], **more)


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_lines_and_its_lock_free(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with start_writer(path) as writer:
        until = time.monotonic() + 60
        while not (path / "requests.jsonl").exists() or (path / "requests.jsonl").stat().st_size < 1_000_000:
            assert time.monotonic() < until
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
    indices = [each.index for each in read_records(path)]
    assert indices == list(range(len(indices)))
    assert len(indices) > 300
    RunFolder.open(path).close()
    assert [each.index for each in read_records(path)] == indices


@pytest.mark.slow
def test_a_file_that_may_not_grow_stops_the_writer_with_a_whole_journal(tmp_path: Path) -> None:
    """The kernel cuts the write in the middle of a line, as it does on a full disk."""
    path, limit = tmp_path / "run", 1_000_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with start_writer(path, preexec_fn=limited) as writer:
        _, said = writer.communicate(timeout=60)
    assert b"InsufficientDiskError: The disk under" in said
    assert limit - 4000 < (path / "requests.jsonl").stat().st_size <= limit
    assert len(list(read_lines(path, "requests"))) > 300


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of two megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount here")
    disk = tmp_path / "disk"
    disk.mkdir()
    argv = [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run([umount, "--lazy", str(disk)], check=True)


@pytest.mark.infra
@pytest.mark.slow
def test_a_full_disk_leaves_a_valid_folder_with_its_end_written(small_disk: Path) -> None:
    """On a file system that is really full."""
    folder = RunFolder.create(small_disk / "run", MANIFEST)
    count = 0
    with pytest.raises(InsufficientDiskError) as caught:  # noqa: PT012 -- the error comes at some turn of the loop
        for count in range(10_000):
            folder.add_record(record(count, message="x" * 3000))
    assert 0 < count < 1000
    assert caught.value.available_bytes < 3000
    assert "--resume" in caught.value.hint
    with pytest.raises(InsufficientDiskError):
        folder.add("host", {"at_ns": 1})
    folder.write_summary({"outcome": "done", "text": "x" * 50_000})
    folder.write_manifest(MANIFEST | {"state": "failed"})
    folder.close()
    assert [each.index for each in read_records(folder.path)] == list(range(count))
    assert read_manifest(folder.path)["state"] == "failed"
    fill(small_disk)
    with pytest.raises(InsufficientDiskError) as caught:  # not even for what is kept back
        RunFolder.create(small_disk / "other", MANIFEST)
    assert "nothing was recorded" in str(caught.value)
    assert "--resume" not in caught.value.hint


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
