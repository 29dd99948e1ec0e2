import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwenops.errors import InsufficientDiskError
from qwenops.models.folders import new_folder, remove_left_overs

WRITES_FOREVER = """
import sys, time
from pathlib import Path
from qwenops.models.folders import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def _listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _write_and_fail(folder: Path) -> None:
    (folder / "new").write_text("new")
    (folder / "missing").read_text()


def test_a_folder_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with new_folder(target) as folder:
        (folder / "a.json").write_text("1")
        assert not target.exists()
    assert _listing(target) == ["a.json"]
    assert _listing(target.parent) == ["model"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with new_folder(target) as folder:
        (folder / "old").write_text("old")
    with pytest.raises(FileNotFoundError), new_folder(target) as folder:
        _write_and_fail(folder)
    assert _listing(target) == ["old"]
    assert _listing(tmp_path) == ["model"]


def test_a_folder_that_exists_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("old", "new"):
        with new_folder(target) as folder:
            (folder / name).write_text(name)
    assert _listing(target) == ["new"]
    assert _listing(tmp_path) == ["model"]


def test_the_next_writer_clears_up_after_one_that_was_killed_but_not_after_one_that_lives(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with subprocess.Popen([sys.executable, "-c", WRITES_FOREVER, str(target)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        remove_left_overs(target)
        assert len(_listing(tmp_path)) == 1  # it is being filled
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=10)
    deadline_s = time.monotonic() + 10
    while _listing(tmp_path) and time.monotonic() < deadline_s:
        remove_left_overs(target)
    assert not _listing(tmp_path)


def test_a_write_that_finds_no_room_is_a_full_disk(tmp_path: Path) -> None:
    # The largest file that is allowed stands for the disk: the kernel refuses the write in the same place.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(InsufficientDiskError) as caught, new_folder(tmp_path / "model") as folder:
            (folder / "big").write_bytes(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.hint
    assert not _listing(tmp_path)


def test_too_little_room_is_known_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InsufficientDiskError) as caught, new_folder(tmp_path / "model", needed_bytes=1 << 60):
        pytest.fail("the block must not run")
    assert caught.value.needed_bytes == 1 << 60
    assert not _listing(tmp_path)
