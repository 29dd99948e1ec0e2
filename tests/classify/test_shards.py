import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.classify.prediction import parse_prediction
from qwenops.classify.shards import Seen, open_folder
from qwenops.errors import ConfigError, InsufficientDiskError
from tests.classify.batching import prediction_of


def test_a_folder_belongs_to_one_model(tmp_path: Path) -> None:
    with open_folder(tmp_path / "parts", model="one@1-a") as folder:
        folder.finish([prediction_of("a")], [])
    with (
        pytest.raises(ConfigError, match=r"holds predictions of one@1-a, not of two@1-b"),
        open_folder(tmp_path / "parts", model="two@1-b"),
    ):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema": "qwenops.run/1"}')
    with pytest.raises(ConfigError, match="not the folder of a batch"), open_folder(tmp_path, model="m"):
        pass
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"schema": "qwenops.run/1"}


HOLD = """
import sys, time
from pathlib import Path
from qwenops.classify.shards import open_folder

with open_folder(Path(sys.argv[1]), model="m"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_two_processes_never_write_into_one_folder_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="Another process writes"), open_folder(path, model="m"):
            pass
        process.kill()
        process.wait()
    with open_folder(path, model="m") as folder:
        assert folder.shards == []


def test_a_full_disk_keeps_what_was_done_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_folder(path, model="m") as folder:
        folder.finish([prediction_of("a")], [])
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
            with pytest.raises(InsufficientDiskError):
                folder.finish([prediction_of(f"b-{number}") for number in range(500)], [])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with open_folder(path, model="m") as folder:
        assert folder.num_calls == 1
        assert folder.seen.meet("a", "here") == (True, "")
        assert folder.seen.meet("b-0", "here") == (False, "")
        assert [parse_prediction(line).conversation_id for line in folder.lines()] == ["a"]


def test_a_journal_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    with open_folder(path, model="m") as folder:
        folder.finish([prediction_of("a")], [])
        folder.finish([prediction_of("b")], [])
    journal = path / "journal.jsonl"
    journal.write_text("{}\n" + journal.read_text())
    with pytest.raises(ConfigError, match=r"journal\.jsonl is damaged"), open_folder(path, model="m"):
        pass


def test_predictions_are_for_their_owner_only(tmp_path: Path) -> None:
    with open_folder(tmp_path / "parts", model="m") as folder:
        folder.finish([prediction_of("a")], [])
        folder.assemble(tmp_path / "out.jsonl")
    files = list(tmp_path.rglob("*.jsonl"))
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@given(st.lists(st.text(), max_size=30), st.lists(st.text(), max_size=10))
def test_ids_of_any_text_are_met_once_and_those_that_are_done_are_known(came: list[str], done: list[str]) -> None:
    seen = Seen()
    seen.add_done(done)
    first: dict[str, str] = {}
    for number, name in enumerate(came):
        is_done, before = seen.meet(name, str(number))
        assert before == first.get(name, "")
        assert is_done == (name in done and name not in first)
        first.setdefault(name, str(number))
    seen.close()
