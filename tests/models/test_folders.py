import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qwenops.errors import InsufficientDiskError
from qwenops.models import folders
from qwenops.models.folders import new_folder, remove_left_overs

WRITES_FOREVER = """
import sys, time
from pathlib import Path
from qwenops.models import folders
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


def test_a_reader_never_finds_the_folder_missing_while_it_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with new_folder(target):
        pass
    with new_folder(tmp_path / "other"):
        pass
    if not folders._exchange(target, tmp_path / "other"):
        pytest.skip("this file system cannot exchange two names")
    missing: list[int] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            if not target.exists():
                missing.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(200):
        with new_folder(target):
            pass
    ended.set()
    reader.join()
    assert not missing


DIES_BETWEEN_TWO_RENAMES = """
import os, signal, sys
from pathlib import Path
from qwenops.models import folders
folders._exchange = lambda one, other: False
renames = []
def watch(event, arguments):
    if event == "os.rename":
        renames.append(arguments)
        if len(renames) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
with folders.new_folder(Path(sys.argv[1])) as folder:
    (folder / "new").write_text("new")
"""


def test_an_old_folder_that_had_stepped_aside_when_its_writer_was_killed_is_put_back(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with new_folder(target) as folder:
        (folder / "old").write_text("old")
    killed = subprocess.run([sys.executable, "-c", DIES_BETWEEN_TWO_RENAMES, str(target)], check=False, timeout=30)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    remove_left_overs(target)
    assert _listing(target) == ["old"]
    assert _listing(tmp_path) == ["model"]


def test_without_an_exchange_a_folder_is_replaced_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_exchange", lambda _one, _other: False)
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
