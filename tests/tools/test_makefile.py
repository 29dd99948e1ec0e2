"""What `make` does on a machine that lacks something, and what its commands run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="there is no make here")


def make(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MAKE or "", "--no-print-directory", *argv], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def recipes(target: str) -> str:
    """Return the commands of a target and of those that it needs, from the Makefile's own text."""
    text = (ROOT / "Makefile").read_text()
    found = re.search(rf"^{target}:([^#\n]*).*\n((?:\t.*\n)*)", text, re.MULTILINE)
    assert found, target
    needed = [each for each in found[1].split() if "$" not in each and each != "|"]
    return "".join(map(recipes, needed)) + found[2]


def test_a_python_without_venv_leaves_nothing_behind_and_says_what_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    # As Debian's does: it makes the folder with a python in it, and then finds that pip cannot be put there.
    python.write_text('#!/bin/sh\nmkdir -p "$3/bin"; : > "$3/bin/python"\necho "ensurepip is not available"\nexit 1\n')
    python.chmod(0o755)
    venv = tmp_path / "venv"
    for _ in range(2):  # the second time must not take a half-made one for whole
        made = make(f"PYTHON={python}", f"VENV={venv}", f"{venv}/bin/python")
        assert made.returncode != 0
        assert "apt install python3-venv" in made.stderr
        assert not venv.exists()


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readme_names_what_make_needs(readme: str) -> None:
    assert "apt install make python3-venv" in (ROOT / readme).read_text("utf-8")


@pytest.mark.parametrize("target", ["test", "check"])
def test_what_ci_runs_has_every_gate(target: str) -> None:
    run = recipes(target)
    for gate in ("ruff check", "ruff format --check", "mypy", "lint-imports", "sphinx-build -W", "pytest"):
        assert gate in run


def test_prove_promises_what_the_benchmarks_measure() -> None:
    from benchmarks.run_all import RUNS

    assert "benchmarks.run_all" in recipes("prove")
    line = next(line for line in make("help").stdout.splitlines() if line.startswith("prove"))
    measured = " ".join(module for module, _ in RUNS)
    for word in ("overload", "soak", "fuzz"):
        assert word not in line or word in measured


@pytest.mark.parametrize(("target", "extras"), [("demo", "[demo,train]"), ("demo-speed", "[demo]")])
def test_a_demo_installs_what_it_needs_and_no_more(target: str, extras: str) -> None:
    text = (ROOT / "Makefile").read_text()
    needed = re.search(rf"^{target}: (\S+)", text, re.MULTILINE)
    assert needed
    recipe = re.search(rf"^{re.escape(needed[1])}:.*\n((?:\t.*\n)*)", text, re.MULTILINE)
    assert recipe
    assert f"'.{extras}'" in recipe[1]
