"""A file is the old one or the new one, never half of it."""

import os
import resource
import threading
from pathlib import Path

import pytest

from qwenops.atomic import whole_file, write_text


def test_a_text_takes_the_place_of_the_one_before_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    for text in ("old", "新\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]


def test_a_write_that_fails_leaves_the_old_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(OSError, match="too large"):
            write_text(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_file_is_as_private_as_its_writer_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "public", "x")
        write_text(tmp_path / "private", "x", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_the_new_text_is_durable_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace

    def watched_sync(descriptor: int) -> None:
        order.append("sync")
        sync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        order.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_text(tmp_path / "file", "x")
    assert order == ["sync", "rename", "sync"]


def test_two_threads_that_write_the_same_file_leave_one_whole_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = [letter * 50_000 for letter in "abcd"]
    threads = [threading.Thread(target=write_text, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_file_that_grows_takes_its_place_at_the_end_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with whole_file(path, mode=0o600) as out:
        for _ in range(1000):
            out.write(b"new\n")
        assert path.read_text() == "old"
    assert path.read_text() == "new\n" * 1000
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_error_while_a_file_grows_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def break_off() -> None:
        with whole_file(path) as out:
            out.write(b"half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        break_off()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
