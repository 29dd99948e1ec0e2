import contextlib
import gzip
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from qwenops.observe.logs import DailyFile, JsonFormatter, LineWriter, archive, configure_logging, without_secrets
from qwenops.observe.options import LogOptions
from qwenops.observe.record import RequestRecord
from qwenops.observe.system import SystemWatch

DAY = date(2030, 1, 2)
SECRET = "qo-" + "a1" * 32


class Failures:
    def __init__(self) -> None:
        self.lost: dict[str, int] = {}
        self.happened = threading.Event()

    def __call__(self, log: str, num: int) -> None:
        self.lost[log] = self.lost.get(log, 0) + num
        self.happened.set()


@contextlib.contextmanager
def writer(
    options: LogOptions, failures: Failures | None = None, today: Callable[[], date] = lambda: DAY, **more: int
) -> Iterator[LineWriter]:
    opened = LineWriter(options, on_failure=failures or Failures(), today=today, **more)
    try:
        yield opened
    finally:
        assert opened.close()


def lines_of(path: Path) -> list[dict[str, object]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return what moves this process into another time zone."""

    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.mark.proves("F1")
def test_a_request_becomes_a_line_with_the_fields_of_the_users_design_and_ours(
    tmp_path: Path, in_zone: Callable[[str], None]
) -> None:
    in_zone("CST-8")
    record = RequestRecord(
        request_id="r1",
        endpoint="/api/v1/inference",
        model="qwen3",
        served_model="qwen3:0.6b",
        status="success",
        http_status=200,
        prompt_length=7,
        response_length=11,
        prompt_tokens=5,
        completion_tokens=11,
        queue_s=0.1,
        ttft_s=0.5,
        duration_s=1.5,
        at=datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
    )
    with writer(LogOptions(dir=tmp_path)) as opened:
        opened.write("requests", record.line())
    (line,) = lines_of(tmp_path / "requests_20300102.jsonl")
    users = ["timestamp", "model", "prompt_length", "response_length", "latency_ms", "status", "error"]
    assert list(line)[:7] == users
    assert [line[each] for each in users] == ["2030-01-02T11:04:05.678+08:00", "qwen3", 7, 11, 1500.0, "success", None]
    assert line["ttft_s"] == 0.5
    assert line["tpot_s"] == 0.1
    assert line["request_id"] == "r1"
    assert "prompt" not in line
    assert "response" not in line


def test_the_text_of_prompts_is_written_only_when_the_record_carries_it() -> None:
    record = RequestRecord(
        request_id="r",
        endpoint="/",
        model="m",
        served_model="m",
        status="error",
        http_status=500,
        prompt="p",
        response="q",
    )
    assert (record.line()["prompt"], record.line()["response"]) == ("p", "q")


def test_the_day_of_a_file_is_that_of_the_local_time_zone(tmp_path: Path, in_zone: Callable[[str], None]) -> None:
    # At any time one of these two zones has another date than UTC.
    for number, hours in enumerate((14, -12)):
        in_zone(f"ZONE{-hours:+d}")
        folder = tmp_path / str(number)
        possible = [f"requests_{_date(hours):%Y%m%d}.jsonl"]
        opened = LineWriter(LogOptions(dir=folder))
        opened.write("requests", {"n": 1})
        assert opened.close()
        possible.append(f"requests_{_date(hours):%Y%m%d}.jsonl")  # midnight may have passed meanwhile
        (file,) = folder.iterdir()
        assert file.name in possible


def _date(hours: int) -> date:
    return datetime.now(tz=timezone(timedelta(hours=hours))).date()


def test_messages_and_samples_name_the_local_time_zone(in_zone: Callable[[str], None]) -> None:
    in_zone("CST-8")
    record = logging.LogRecord("n", logging.INFO, "f", 1, "m", (), None)
    record.created = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert json.loads(JsonFormatter().format(record))["timestamp"] == "2030-01-02T11:04:05.000+08:00"
    sample = replace(SystemWatch().sample(), at_s=record.created)
    assert sample.line()["timestamp"] == "2030-01-02T11:04:05.000+08:00"


def test_a_new_day_begins_a_new_file_and_archives_the_old_one(tmp_path: Path) -> None:
    day = [DAY]
    with writer(LogOptions(dir=tmp_path), today=lambda: day[0]) as opened:
        opened.write("requests", {"n": 1})
        _wait_for(tmp_path / "requests_20300102.jsonl")
        day[0] = date(2030, 1, 3)
        opened.write("requests", {"n": 2})
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "requests_20300102.jsonl.gz",
        "requests_20300103.jsonl",
    ]
    assert lines_of(tmp_path / "requests_20300102.jsonl.gz") == [{"n": 1}]
    assert lines_of(tmp_path / "requests_20300103.jsonl") == [{"n": 2}]


def test_a_file_that_grew_over_its_size_goes_on_in_parts_and_no_line_is_lost(tmp_path: Path) -> None:
    file = DailyFile(tmp_path, "requests", rotate_bytes=100)
    for number in range(50):
        if file.append(json.dumps({"n": number, "pad": "x" * 20}).encode() + b"\n", DAY):
            archive(tmp_path, today=DAY, compress=True, retention_days=0)
    file.close()
    parts = sorted(tmp_path.glob("*.jsonl.gz"), key=lambda path: int(path.name.split(".")[1]))
    assert len(parts) > 5
    assert parts[0].name == "requests_20300102.1.jsonl.gz"
    found = [line["n"] for path in (*parts, tmp_path / "requests_20300102.jsonl") for line in lines_of(path)]
    assert found == list(range(50))


def test_a_file_that_logrotate_moved_away_is_opened_anew(tmp_path: Path) -> None:
    file = DailyFile(tmp_path, "requests", rotate_bytes=10**6)
    file.append(b'{"n":1}\n', DAY)
    (tmp_path / "requests_20300102.jsonl").rename(tmp_path / "elsewhere")
    file.append(b'{"n":2}\n', DAY)
    file.close()
    assert lines_of(tmp_path / "requests_20300102.jsonl") == [{"n": 2}]


def test_archives_beyond_their_retention_are_removed_and_foreign_files_stay(tmp_path: Path) -> None:
    for name in (
        "requests_20291201.jsonl.gz",
        "system_20291201.jsonl",
        "system_20291225.jsonl",
        "notes.txt",
        "x_1.jsonl",
    ):
        (tmp_path / name).write_text("{}\n")
    archive(tmp_path, today=DAY, compress=True, retention_days=30)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["notes.txt", "system_20291225.jsonl.gz", "x_1.jsonl"]


def test_nothing_is_removed_or_compressed_when_it_is_not_wanted(tmp_path: Path) -> None:
    (tmp_path / "system_20001225.jsonl").write_text("{}\n")
    archive(tmp_path, today=DAY, compress=False, retention_days=0)
    assert [each.name for each in tmp_path.iterdir()] == ["system_20001225.jsonl"]


def test_a_full_disk_loses_lines_counts_them_and_recovers_with_whole_lines(tmp_path: Path) -> None:
    # /dev/full behaves as a full disk does: every write fails with ENOSPC.
    path = tmp_path / "requests_20300102.jsonl"
    path.symlink_to("/dev/full")
    failures = Failures()
    with writer(LogOptions(dir=tmp_path), failures) as opened:
        opened.write("requests", {"n": 1})
        assert failures.happened.wait(10)
        path.unlink()
        opened.write("requests", {"n": 2})
    assert failures.lost == {"requests": 1}
    assert lines_of(path) == [{"n": 2}]


def test_a_line_that_was_cut_by_a_full_disk_does_not_damage_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = DailyFile(tmp_path, "requests", rotate_bytes=10**6)
    real = os.write
    calls = []

    def half(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 1:
            return real(descriptor, data[:4])
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        file.append(b'{"n":1}\n', DAY)
    file.append(b'{"n":2}\n', DAY)
    file.close()
    assert (tmp_path / "requests_20300102.jsonl").read_bytes() == b'{"n"\n{"n":2}\n'


def test_a_folder_that_cannot_be_made_never_stops_anything(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file is in the way")
    failures = Failures()
    with writer(LogOptions(dir=tmp_path / "logs"), failures) as opened:
        for number in range(3):
            opened.write("system", {"n": number})
    assert failures.lost["system"] == 3


def test_a_writer_that_hangs_takes_no_more_memory_than_its_queue(tmp_path: Path) -> None:
    fifo = tmp_path / "requests_20300102.jsonl"
    os.mkfifo(fifo)  # opening it for writing waits until somebody reads
    failures = Failures()
    opened = LineWriter(LogOptions(dir=tmp_path), on_failure=failures, today=lambda: DAY)
    for number in range(10_000 + 600):
        opened.write("requests", {"n": number})
    assert failures.lost["requests"] >= 300
    time.sleep(0.1)  # by now the writer hangs; what it took out of the queue is filled up
    for number in range(600):
        opened.write("requests", {"n": number})
    before_s = time.monotonic()
    assert not opened.close(timeout_s=0.4)
    assert time.monotonic() - before_s < 0.7, "it waits for place in the queue and for the thread together"
    reader = os.open(fifo, os.O_RDONLY)
    drained = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 65536), b"")])
    drained.start()
    assert opened.close(timeout_s=20)
    drained.join(10)
    os.close(reader)


def test_standard_output_carries_the_name_of_the_log(tmp_path: Path) -> None:
    options = LogOptions(destination="stdout", dir=tmp_path / "logs")
    with (tmp_path / "out").open("wb") as out, writer(options, stdout=out.fileno()) as opened:
        opened.write("system", {"n": 1})
    assert lines_of(tmp_path / "out") == [{"log": "system", "n": 1}]
    assert not (tmp_path / "logs").exists()


def test_off_writes_nothing(tmp_path: Path) -> None:
    with writer(LogOptions(destination="off", dir=tmp_path / "logs")) as opened:
        opened.write("system", {"n": 1})
    assert not (tmp_path / "logs").exists()


def test_messages_are_json_on_demand_and_hold_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("qwenops.test")
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        configure_logging(LogOptions(format="json", level="info"))
        configure_logging(LogOptions(format="json", level="info"))
        log.info("refused %s", SECRET)
        log.debug("not shown")
    finally:
        root.setLevel(level)
        for each in set(root.handlers) - set(handlers):
            root.removeHandler(each)
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields["message"] == "refused qo-***"
    assert fields["level"] == "info"


def test_a_traceback_in_json_holds_no_key_either() -> None:
    error = ValueError(SECRET)
    record = logging.LogRecord("n", logging.ERROR, "f", 1, "m", (), (ValueError, error, None))
    assert SECRET not in JsonFormatter().format(record)
    assert without_secrets(f"Bearer {SECRET}!") == "Bearer qo-***!"


def _wait_for(path: Path) -> None:
    for _ in range(500):
        if path.exists() and path.stat().st_size:
            return
        threading.Event().wait(0.01)
    raise AssertionError(path)
