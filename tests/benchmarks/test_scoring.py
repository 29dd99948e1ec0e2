"""The comparison of scorers runs from beginning to end on a tiny model, and its arithmetic is right."""

import json
from pathlib import Path

import pytest

from benchmarks import llama_cpp, recording, scoring
from qwenops.errors import CommandError
from qwenops.models.prefill import PrefillScheme

MORE = {"resident_bytes": 2**30}


def test_calls_have_the_lengths_that_are_promised_and_one_instruction() -> None:
    many = scoring.calls(1, 400)
    lengths = sorted(map(len, many))
    assert scoring.SHORTEST <= lengths[0] < 220
    assert 1350 < lengths[-1] <= scoring.LONGEST
    assert 480 < lengths[200] < 630, "half of the calls are shorter than the geometric middle"
    assert {tuple(ids[: scoring.INSTRUCTION_TOKENS]) for ids in many} == {tuple(scoring.instruction())}
    assert scoring.calls(1, 400) == many
    assert scoring.calls(2, 5) != scoring.calls(1, 5)


def test_the_best_of_each_kind_is_compared_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"ours-int8": [100, 110], "ours-w8a8": [150, 140], "genai-bf16": [50, 70], "llama-q8_0": [10, 20]}

    def measured(system: str, _case: scoring.Case, seed: int, count: int) -> dict[str, object]:
        speed = float(speeds[system][seed - 1])
        figures = {"tokens_per_s": speed, "calls_per_s": speed / count, "alone_s": 1 / speed}
        return {"figures": figures, "resident_bytes": 2**30}

    monkeypatch.setattr(scoring, "in_child", measured)
    found = scoring.compare(dict.fromkeys(speeds, scoring.Case(model=Path())), 2, 10)
    assert found["best"] == {"ours": "ours-w8a8", "genai": "genai-bf16", "llama": "llama-q8_0"}
    assert found["ratios"]["genai"]["max"] == pytest.approx(3.0)
    assert found["ratios"]["llama"] == {"min": 7.0, "median": 11.0, "max": 15.0, "n": 2}
    goals = scoring.judged(found)
    assert goals["over_genai"] == {"goal": 1.7, "found": 2.5, "met": True}
    assert goals["over_llama"]["met"]
    found["ratios"]["llama"]["median"] = 6.9
    assert not scoring.judged(found)["over_llama"]["met"]
    assert "| ours-w8a8 | **145** (140 to 150) |" in scoring.table(found)


def test_a_build_with_amx_that_fails_is_left_out_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(system: str, _case: scoring.Case, seed: int, _count: int) -> dict[str, object]:
        if system == broken and seed == 2:
            raise CommandError("llama-server ended with SIGILL")
        speeds = {"ours-w8a8": 70.0, "llama-q4_0": 10.0, "llama-q4_0-amx": 20.0}
        return {"figures": dict.fromkeys(("tokens_per_s", "calls_per_s", "alone_s"), speeds[system]), **MORE}

    systems = dict.fromkeys(("ours-w8a8", "llama-q4_0", "llama-q4_0-amx"), scoring.Case(model=Path()))
    monkeypatch.setattr(scoring, "in_child", measured)
    broken = "llama-q4_0-amx"
    found = scoring.compare(systems, 3, 10)
    assert found["best"]["llama"] == "llama-q4_0"
    assert set(found["systems"]) == {"ours-w8a8", "llama-q4_0"}
    assert "llama-q4_0-amx failed and is left out: llama-server ended with SIGILL" in scoring.table(found)
    broken = "none"
    found = scoring.compare(systems, 3, 10)
    assert found["best"]["llama"] == "llama-q4_0-amx"
    assert found["ratios"]["llama"]["median"] == 3.5
    broken = "llama-q4_0"
    with pytest.raises(CommandError):
        scoring.compare(systems, 3, 10)


def test_every_build_in_a_folder_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / llama_cpp.FACTS).write_text(json.dumps({"builds": {"plain": {}, "amx": {}}}))
    assert scoring.builds_of(tmp_path) == {"plain": str(tmp_path / "plain"), "amx": str(tmp_path / "amx")}
    monkeypatch.setattr(scoring, "prepare_gguf", lambda _model, kind, folder: folder / kind.value)
    monkeypatch.setattr("benchmarks.scoring.importlib.util.find_spec", lambda name: True if name == "gguf" else None)
    systems = scoring.systems_of("any", (), tmp_path, tmp_path)
    assert sorted(systems) == ["llama-q4_0", "llama-q4_0-amx", "llama-q8_0", "llama-q8_0-amx"]
    assert systems["llama-q8_0-amx"] == scoring.Case(model=tmp_path / "q8_0", build=str(tmp_path / "amx"))
    assert scoring.systems_of("any", (), tmp_path, None) == {}, "neither a build nor the wheel"


def test_every_form_is_one_that_can_be_made() -> None:
    for form in scoring.FORMS.values():
        assert not (form.prefix_tokens and form.joining and form.joining.by_place)
        assert form.scheme is not PrefillScheme.F32


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_systems_that_are_installed_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWENOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    monkeypatch.setattr(scoring, "RESULTS", tmp_path)
    arguments = ["--model", "random:tiny", "--calls", "6", "--repetitions", "1", "--folder", str(tmp_path / "models")]
    (tmp_path / "models").mkdir()
    assert scoring.main([*arguments, "--forms", "int8,w8a8_prefix"]) == 0
    written = json.loads((tmp_path / "scoring.json").read_text())
    systems = written["results"]["systems"]
    assert {"ours-int8", "ours-w8a8_prefix"} <= set(systems)
    assert all(row["tokens_per_s"]["median"] > 0 for row in systems.values())
    assert systems["ours-w8a8_prefix"]["activations_in_bf16"] == 0
    for name in systems:
        assert f"| {name} |" in (tmp_path / "scoring.md").read_text()
    assert "| FullyConnected" in scoring.profile(tmp_path / "models" / "int8", "int8", tokens=32, prompts=2)
