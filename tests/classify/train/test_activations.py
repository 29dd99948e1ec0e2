import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qwenops.classify.train.activations import Activations, open_activations
from qwenops.errors import InsufficientDiskError, RunFolderError

FACTS = {"base": {"model.safetensors": "ab"}, "layers": 3}


def store(root: Path, **facts: object) -> Activations:
    return open_activations(root, {**FACTS, **facts}, width=4, kind="f32")


def rows(number: int, count: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    return np.random.default_rng(number).normal(size=(count, 4)).astype(np.float32)


def digest(number: int) -> bytes:
    return bytes([number]) * 32


def test_what_was_added_is_read_back_also_by_the_next_one(tmp_path: Path) -> None:
    with_three = store(tmp_path)
    for number, count in ((1, 5), (2, 1), (3, 9)):
        with_three.add(digest(number), rows(number, count))
    assert np.array_equal(with_three.read(digest(2)), rows(2, 1))
    with_three.sync()
    again = store(tmp_path)
    assert len(again) == 3
    for number, count in ((1, 5), (2, 1), (3, 9)):
        assert np.array_equal(again.read(digest(number)), rows(number, count))
    again.add(digest(4), rows(4, 2))
    assert np.array_equal(again.read(digest(4)), rows(4, 2))
    assert np.array_equal(again.read(digest(1)), rows(1, 5))


def test_half_precision_keeps_its_bits(tmp_path: Path) -> None:
    bits = np.arange(8, dtype=np.uint16).reshape(2, 4)
    half = open_activations(tmp_path, FACTS, width=4, kind="bf16")
    half.add(digest(1), bits)
    assert half.read(digest(1)).dtype == np.uint16
    assert np.array_equal(half.read(digest(1)), bits)


def test_other_facts_are_another_store(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add(digest(1), rows(1, 2))
    one.sync()
    assert digest(1) not in store(tmp_path, layers=4)
    assert digest(1) not in open_activations(tmp_path, FACTS, width=2, kind="f32")
    assert digest(1) in store(tmp_path)


def test_what_was_not_synced_is_not_promised(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add(digest(1), rows(1, 2))
    one.sync()
    one.add(digest(2), rows(2, 2))
    again = store(tmp_path)
    assert digest(1) in again
    assert digest(2) not in again
    again.add(digest(3), rows(3, 4))
    assert np.array_equal(again.read(digest(3)), rows(3, 4))
    assert np.array_equal(again.read(digest(1)), rows(1, 2))


def test_a_record_that_a_crash_cut_off_is_left_out_and_the_next_one_fits(tmp_path: Path) -> None:
    one = store(tmp_path)
    for number in (1, 2):
        one.add(digest(number), rows(number, 3))
    one.sync()
    index = one.folder / "index"
    os.truncate(index, index.stat().st_size - 5)
    again = store(tmp_path)
    assert digest(1) in again
    assert digest(2) not in again
    again.add(digest(2), rows(2, 3))
    again.sync()
    assert np.array_equal(store(tmp_path).read(digest(2)), rows(2, 3))


def test_an_index_that_points_past_the_rows_is_not_believed(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add(digest(1), rows(1, 3))
    one.sync()
    os.truncate(one.folder / "rows", 10)
    assert digest(1) not in store(tmp_path)


def test_damaged_rows_are_an_error_that_names_the_folder(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add(digest(1), rows(1, 3))
    one.sync()
    with (one.folder / "rows").open("r+b") as file:
        file.seek(7)
        file.write(b"\x7f")
    with pytest.raises(RunFolderError, match=str(one.folder)):
        store(tmp_path).read(digest(1))


def test_a_full_disk_is_said_and_keeps_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = store(tmp_path)
    one.add(digest(1), rows(1, 3))
    one.sync()

    def full(_file: int, _raw: memoryview, _at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(InsufficientDiskError):
            one.add(digest(2), rows(2, 3))
    assert digest(2) not in one
    assert np.array_equal(store(tmp_path).read(digest(1)), rows(1, 3))
    with pytest.raises(InsufficientDiskError):
        one.reserve(2**50)


def test_a_write_in_two_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, raw, at: real(file, raw[:7], at))
    one = store(tmp_path)
    one.add(digest(1), rows(1, 3))
    one.sync()
    assert np.array_equal(store(tmp_path).read(digest(1)), rows(1, 3))


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from tests.classify.train.test_activations import digest, rows, store
one = store(Path(sys.argv[1]))
for number in range(200):
    one.add(digest(number), rows(number, 50))
    if number % 10 == 9:
        one.sync()
    if number == 137:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_who_is_killed_loses_only_what_came_after_the_last_sync(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert ended.returncode == -9
    again = store(tmp_path)
    assert len(again) == 130
    for number in range(130):
        assert np.array_equal(again.read(digest(number)), rows(number, 50))
