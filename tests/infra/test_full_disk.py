"""A real disk that runs full while `qwenops finetune train` writes checkpoints on it."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from qwenops.command import run
from tests.infra.full_disk import MOUNT, STEP

pytest.importorskip("torch", reason="training needs the train extra")
pytest.importorskip("peft", reason="training needs the train extra")

pytestmark = [pytest.mark.infra, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def _mounts() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    if run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], timeout_s=10, ok_codes=None).returncode:
        pytest.skip("this container may not mount file systems")


@pytest.mark.parametrize("how", MOUNT)
def test_a_disk_that_runs_full_costs_the_newest_checkpoint_and_nothing_else(tmp_path: Path, how: str) -> None:
    argv = ["unshare", "-m", sys.executable, "-m", "tests.infra.full_disk", str(tmp_path), how]
    found: dict[str, Any] = json.loads(run(argv, timeout_s=150).stdout.splitlines()[-1])
    assert found["whole"][0] == 0, found["whole"][1]
    assert found["filled"]
    code, said = found["ended"]
    assert code != 0, "the adapter has no room either, so the run cannot end well"
    assert "Traceback" not in said
    assert "No checkpoint could be written, the last one stays" in said
    assert "GiB are free" in said
    assert "Free disk space there" in said
    assert found["left"] == [".lock", "checkpoint"], "nothing half written lies about"
    assert found["kept"] == STEP
    code, said = found["again"]
    assert code == 0, said
    assert f"Going on after step {STEP}" in said
    assert found["same"], "the weights are those of a run that was never disturbed"
