"""A folder of synthetic calls says how it was made, and is made again from that."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qwenops.calls.generator.generate import Generator, generate
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.truth import Synthetic
from qwenops.calls.generator.write import write
from qwenops.calls.schema import parse_call, parse_label
from qwenops.errors import ConfigError

OPTIONS = GeneratorOptions(calls=25, seed=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("calls")
    write(OPTIONS, made)
    return made


def lines(path: Path) -> Iterator[str]:
    yield from path.read_text("utf-8").splitlines()


def test_the_files_hold_what_was_generated(folder: Path) -> None:
    made = list(generate(OPTIONS))
    assert [parse_call(line) for line in lines(folder / "calls.jsonl")] == [each.call for each in made]
    assert [parse_label(line) for line in lines(folder / "labels.jsonl")] == [each.label for each in made]
    truths = [json.loads(line) for line in lines(folder / "truth.jsonl")]
    assert [each["leaf"] for each in truths] == [each.truth.leaf for each in made]
    spans = [(span["turn"], span["start"], span["kind"], span["surface"]) for each in truths for span in each["pii"]]
    assert spans == [(span.turn, span.start, span.kind, span.surface) for each in made for span in each.truth.pii]


def test_the_manifest_says_how_they_were_made(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["synthetic"] is True
    assert (manifest["seed"], manifest["calls"], manifest["taxonomy"]) == (9, 25, "telecom-cn@2")
    assert manifest["options"]["difficulty"]["felt_share"] == OPTIONS.difficulty.felt_share
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
    assert sum(manifest["leaves"].values()) == 25
    assert any(name.startswith("packs/") for name in manifest["made_from"])


def test_the_same_options_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write(OPTIONS, tmp_path)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_who_breaks_off_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Exception):  # noqa: N818 -- a name for a test
        pass

    whole = Generator.call

    def broken(self: Generator, index: int) -> Synthetic:
        if index > 10:
            raise Broken
        return whole(self, index)

    monkeypatch.setattr(Generator, "call", broken)
    with pytest.raises(Broken):
        write(replace(OPTIONS, calls=20), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    write(OPTIONS, tmp_path, report=lambda share, what: told.append((share, what)))
    assert told[0] == (0.0, "Making calls: 0 of 25.")


def test_calls_of_somebody_else_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text("mine", "utf-8")
    with pytest.raises(ConfigError, match=r"calls\.jsonl is there already"):
        write(OPTIONS, tmp_path)
    assert (tmp_path / "calls.jsonl").read_text("utf-8") == "mine"


def test_synthetic_calls_are_made_anew_where_some_lie(tmp_path: Path) -> None:
    for seed in (1, 2):
        write(replace(OPTIONS, calls=2, seed=seed), tmp_path)
    assert all(line.count("synthetic-2-") for line in lines(tmp_path / "calls.jsonl"))
