import sys
from pathlib import Path

import pytest

from qwenops.command import Finished, run
from tests.required import VARIABLE, required

ROOT = Path(__file__).parents[1]
CONFTEST = "from tests.required import pytest_make_collect_report, pytest_runtest_makereport\n"
TESTS = """
import pytest

@pytest.mark.infra
def test_needs_a_program():
    pytest.skip("no such program")

@pytest.mark.reference
@pytest.mark.skipif(True, reason="no such extra")
def test_needs_an_extra(): ...

def test_other():
    pytest.skip("wrong season")

@pytest.mark.infra
@pytest.mark.xfail(reason="known")
def test_known():
    assert False
"""
MODULE = """
import pytest
pytest.skip("no such module", allow_module_level=True)
"""


@pytest.mark.parametrize(("value", "answer"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_it_is_asked_for_by_a_variable(monkeypatch: pytest.MonkeyPatch, value: str | None, *, answer: bool) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert required() is answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "code", "outcome"),
    [
        (None, 0, "4 skipped, 1 xfailed"),
        ("1", 1, "1 skipped, 1 xfailed, 2 errors, 1 failed"),
    ],
)
def test_a_skip_fails_where_everything_must_be_there(
    tmp_path: Path, variable: str | None, code: int, outcome: str
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  infra\n  reference\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_one.py").write_text(TESTS)
    (tmp_path / "test_two.py").write_text(MODULE)
    finished: Finished = run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", tmp_path],
        timeout_s=60,
        cwd=tmp_path,
        env={"QWENOPS_REQUIRE_INFRA": variable, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": None},
        ok_codes=(code,),
    )
    counts = finished.stdout.strip().splitlines()[-1].split(" in ")[0]
    assert sorted(counts.split(", ")) == sorted(outcome.split(", "))
    if variable == "1":
        assert "this was skipped all the same. Skipped: no such program" in finished.stdout
