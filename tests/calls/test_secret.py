import threading
from pathlib import Path

import pytest

from qwenops.calls.secret import read_secret
from qwenops.errors import ConfigError


def test_a_secret_is_made_once_and_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "redaction.secret"
    first = read_secret(path)
    assert len(first) == 64
    assert read_secret(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(tmp_path / "another") != first


def test_those_who_come_at_the_same_time_get_the_same(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(read_secret(tmp_path / "secret"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_what_is_too_short_or_cannot_be_read_is_refused_without_being_shown(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_text("hush\n")
    with pytest.raises(ConfigError, match="4 characters") as caught:
        read_secret(path)
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(tmp_path)
