"""With `QWENOPS_REQUIRE_INFRA=1` nothing that needs a program, root or an extra may skip: a skip is a failure.

A user's machine may lack root or a program, and then those tests say why they skip. Where everything is meant to be
there, in continuous integration, the same skip would hide that something is not tested any more.
"""

import os
from collections.abc import Generator

import pytest

VARIABLE = "QWENOPS_REQUIRE_INFRA"
MARKERS = ("infra", "reference")


def required() -> bool:
    """Whether skips of such tests count as failures."""
    return os.environ.get(VARIABLE, "") not in {"", "0"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a marked test into a failure."""
    report = yield
    marked = any(item.get_closest_marker(name) for name in MARKERS)
    if required() and marked and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,  # noqa: ARG001 -- the hook's signature
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure: nobody can see which tests are in it."""
    report = yield
    if required() and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    skipped = report.longrepr
    reason = skipped[2] if isinstance(skipped, tuple) else str(skipped)
    report.outcome = "failed"
    report.longrepr = f"{VARIABLE} is set, and this was skipped all the same. {reason}"
