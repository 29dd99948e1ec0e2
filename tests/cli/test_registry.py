"""`qwenops registry`: what is there, promoting, going back, and what the log says of it."""

import json
from pathlib import Path

import pytest

from tests.classify.artefacts import write_artefact
from tests.cli.conftest import Run


@pytest.fixture
def two(qwenops: Run, tmp_path: Path) -> tuple[str, str]:
    """Register two versions and return their folders' names."""
    for number in range(2):
        folder = write_artefact(tmp_path / f"made-{number}", note=f"version {number}")
        ran = qwenops("registry", "register", "complaints", folder, USER="anna")
        assert ran.code == 0, ran.err
    rows = json.loads(qwenops("registry", "list", "--json").out)["classifiers"]
    return rows[0]["key"], rows[1]["key"]


def test_an_empty_registry_says_how_to_fill_it(qwenops: Run) -> None:
    assert "finetune export" in qwenops("registry", "list").err
    assert qwenops("registry", "promote", "complaints").code == 4
    assert qwenops("registry", "list", "complaints").code == 4


@pytest.mark.usefixtures("two")
def test_versions_are_listed_with_their_aliases(qwenops: Run) -> None:
    rows = json.loads(qwenops("registry", "list", "--json").out)["classifiers"]
    assert [row["version"] for row in rows] == [1, 2]
    assert [row["aliases"] for row in rows] == [[], ["candidate"]]
    assert (rows[0]["taxonomy"], rows[0]["macro_f1"]) == ("made@1", 0.8)
    table = qwenops("registry", "list").out
    assert "0.800" in table
    assert "candidate" in table


def test_promote_rollback_and_their_trace_in_the_log(qwenops: Run, two: tuple[str, str]) -> None:
    one, other = two
    promoted = json.loads(qwenops("registry", "promote", "complaints@1", "--json", USER="anna").out)
    assert (promoted["change"]["old"], promoted["change"]["new"], promoted["change"]["by"]) == ("", one, "anna")
    assert "is " + other in qwenops("registry", "promote", "complaints", USER="ben").err
    assert "already" in qwenops("registry", "promote", "complaints", USER="ben").err
    assert one in qwenops("registry", "rollback", "complaints", USER="ben").err
    assert qwenops("registry", "rollback", "complaints").code == 2
    events = json.loads(qwenops("calls", "audit", "--subject", "complaints", "--json").out)["events"]
    assert [(event["action"], event["actor"]) for event in events] == [
        ("rolled_back", "ben"),
        ("promoted", "ben"),
        ("promoted", "anna"),
        ("registered", "anna"),
        ("registered", "anna"),
    ]
    assert "rolled_back" in qwenops("calls", "audit").out


@pytest.mark.usefixtures("two")
def test_show_tells_what_a_version_says_of_itself(qwenops: Run) -> None:
    data = json.loads(qwenops("registry", "show", "complaints@2", "--verify", "--json").out)["classifier"]
    assert data["version"] == 2
    assert data["says"]["manifest.json"]["note"] == "version 1"
    shown = qwenops("registry", "show", "complaints@2")
    assert "manifest.json: note = version 1" in shown.out


def test_one_changed_byte_is_refused_by_show_and_promote_and_listed_as_damaged(
    qwenops: Run, home: Path, two: tuple[str, str]
) -> None:
    folder = home / "registry" / "complaints" / two[1]
    weights = folder / "adapter" / "weights.bin"
    weights.chmod(0o644)
    weights.write_bytes(b"other")
    assert qwenops("registry", "show", "complaints@2").code == 0
    assert qwenops("registry", "show", "complaints@2", "--verify").code == 1
    refused = qwenops("registry", "promote", "complaints")
    assert refused.code == 1
    assert "weights.bin is not what was registered" in refused.err
    record = folder / "registered.json"
    record.chmod(0o644)
    record.write_text(record.read_text().replace("complaints", "complaintz"))
    assert "damaged" in qwenops("registry", "list").out


@pytest.mark.usefixtures("two")
def test_diff_shows_what_differs(qwenops: Run) -> None:
    data = json.loads(qwenops("registry", "diff", "complaints@1", "complaints@2", "--json").out)
    assert data["differences"] == [{"where": "manifest.json: note", "old": "version 0", "new": "version 1"}]
    assert "manifest.json: note" in qwenops("registry", "diff", "complaints@1", "complaints@2").out
    assert "the same" in qwenops("registry", "diff", "complaints@1", "complaints@1").err


def test_what_cannot_be_used_is_not_registered(qwenops: Run, tmp_path: Path) -> None:
    folder = write_artefact(tmp_path / "made", prompt_hash="0" * 64)
    ran = qwenops("registry", "register", "complaints", folder)
    assert ran.code == 1
    assert "prompts of another form" in ran.err
    assert json.loads(qwenops("registry", "list", "--json").out)["classifiers"] == []
