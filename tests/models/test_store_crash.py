"""A process that is killed at any point leaves the store whole."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_kill_at_any_point_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.crashing", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    putting, removing = map(int, done.stdout.split())
    assert putting > 15
    assert removing > 5
