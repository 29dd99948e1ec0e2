"""What a step came to is written down whatever its exit status, and only then it is a failure."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measuring


def program(folder: Path, said: str, status: int) -> str:
    """Return a command that says this and ends so."""
    path = folder / "qwenops"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {status}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def expected(said: str) -> dict[str, str]:
    return {"said": f"{said}\n"} if said == "it broke" else {"outcome": json.loads(said)["outcome"]}


@pytest.mark.parametrize(
    ("status", "said", "failed"),
    [
        (0, json.dumps({"outcome": "done", "folder": "here"}), 0),
        (11, json.dumps({"outcome": "fail"}), 0),
        (3, json.dumps({"outcome": "leak"}), 1),
        (13, json.dumps({"outcome": "invalid"}), 1),
        (1, json.dumps({"outcome": "done"}), 1),
        (2, "it broke", 1),
        (0, "it broke", 1),
    ],
)
def test_each_result_is_written_with_its_exit_status_and_a_bad_one_fails_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, said: str, failed: int
) -> None:
    written: dict[str, Any] = {}
    command = program(tmp_path, said, status)
    monkeypatch.setattr(measuring, "PROGRAM", command)
    monkeypatch.setattr(measuring, "write_result", lambda name, **what: written.update({name: what}))
    assert measuring.main(["--only", "selftest"]) == failed
    result = written["measuring-selftest"]["results"]
    assert result["exit_status"] == status
    assert result["answer"] == expected(said)
