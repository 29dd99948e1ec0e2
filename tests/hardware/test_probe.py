from pathlib import Path

import pytest

from qwenops.errors import QwenOpsError
from qwenops.hardware import detect_machine, plan_threads
from qwenops.hardware.probe import BF16_LIMIT, F32_LIMIT, Probe, probe


@pytest.mark.slow
def test_this_machine_computes_rightly_with_the_planned_settings() -> None:
    machine = detect_machine()
    found = probe(machine)
    assert found.trusted, found.failure
    assert found.threads == plan_threads(machine).value
    assert found.version.startswith("20")
    assert found.f32_error is not None
    assert 0 < found.f32_error < F32_LIMIT
    if found.bf16_error is not None:
        # bf16 keeps 8 bits: really other numbers than f32's, and near them.
        assert found.f32_error < found.bf16_error < BF16_LIMIT


def asked(folder: Path, script: str, *, timeout_s: float = 30.0) -> Probe:
    """Probe with a program of the test's in the interpreter's place."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return probe(detect_machine(), python=str(program), timeout_s=timeout_s)


def test_a_child_that_dies_of_a_signal_is_an_answer(tmp_path: Path) -> None:
    found = asked(tmp_path, "kill -FPE $$")
    assert not found.trusted
    assert "was ended by SIGFPE" in found.failure


def test_a_child_that_hangs_is_an_answer(tmp_path: Path) -> None:
    found = asked(tmp_path, "sleep 300", timeout_s=0.5)
    assert not found.trusted
    assert "took longer" in found.failure


def test_a_child_that_talks_nonsense_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(QwenOpsError, match="answered what it should not"):
        asked(tmp_path, "echo hello")


def test_a_missing_engine_is_said(tmp_path: Path) -> None:
    answer = '{"version": "", "threads": 2, "f32_error": null, "bf16_error": null, "failure": ""}'
    found = asked(tmp_path, f"echo '{answer}'")
    assert (found.trusted, found.failure) == (False, "openvino is not installed")


@pytest.mark.parametrize(
    ("f32_error", "bf16_error", "trusted"),
    [(1e-7, 1e-3, True), (1e-7, None, True), (1e-2, 1e-3, False), (1e-7, 0.9, False), (None, None, False)],
)
def test_wrong_numbers_are_not_trusted(f32_error: float | None, bf16_error: float | None, trusted: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    found = Probe(version="1", threads=2, f32_error=f32_error, bf16_error=bf16_error)
    assert found.trusted is trusted
