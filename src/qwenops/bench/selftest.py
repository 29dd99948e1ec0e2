"""`qwenops bench selftest`: measure a server whose truth is known, on the user's machine, and compare everything.

About a minute. First hours of virtual time, in which nothing depends on the machine; then a simulated server in a
process of its own, over HTTP; then every way in which an answer can be written, and every way in which it can fail.
"""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qwenops.bench.checks.truth import Check, failed
from qwenops.bench.conclusion import Conclusion, Outcome, Table
from qwenops.text import Report, Text, clause, say

EXIT_FAILED = 1


def ignore(_fraction: float, _what: str) -> None:
    """Show nothing."""


async def selftest(*, tell: Report = ignore, tries: int = 3) -> Conclusion:
    """Check the suite against simulated servers.

    Args:
        tell: Hears how far it is.
        tries: How often at most what comes out wrong in real time is tried: a busy machine does not always let run.

    Raises:
        EngineUnavailableError: The simulated server could not be started.
    """
    from qwenops.bench.checks.http import check_answers, check_times
    from qwenops.bench.checks.virtual import check_virtual

    def again(what: str) -> None:
        tell(0.2, what)

    with tempfile.TemporaryDirectory(prefix="qwenops-selftest-") as made:
        folder = Path(made)
        tell(0.0, say("Playing hours in virtual time"))
        found = await asyncio.to_thread(check_virtual, folder)
        tell(0.1, say("Measuring a server over HTTP"))
        found += await check_times(folder, again, tries=tries)
        tell(0.9, say("Reading every kind of answer"))
        found += await check_answers(folder)
    tell(1.0, say("Done"))
    return concluded(found, waiting=os.getloadavg()[0], cores=len(os.sched_getaffinity(0)))


def concluded(checks: Sequence[Check], *, waiting: float, cores: int) -> Conclusion:
    """Return what came out, as a table and in words.

    Args:
        checks: What was checked.
        waiting: How many tasks wanted to run on this machine, of late and on average.
        cores: On how many CPUs.
    """
    wrong = failed(checks)
    table = Table(
        title=say("Checks"),
        headings=(say("check"), say("expected"), say("measured"), say("verdict")),
        rows=tuple((each.title, each.expected, each.measured, _verdict(each)) for each in checks),
    )
    data = {
        "checks": [
            {"check": str(each.title), "expected": each.expected, "measured": each.measured, "ok": each.ok}
            for each in checks
        ]
    }
    if not wrong:
        said: tuple[Text, ...] = (
            say("All {number} checks came out as expected: what the suite prints here is true.", number=len(checks)),
        )
        return Conclusion(outcome=Outcome.PASS, sentences=said, tables=(table,), data=data)
    names = tuple(say("{what}: expected {expected}, measured {measured}.", **_facts(each)) for each in wrong)
    head = say("{wrong} of {number} checks did not come out as expected.", wrong=len(wrong), number=len(checks))
    if waiting > cores:
        last = say("This machine is busy: {waiting:.1f} tasks want its {cores} CPUs.", waiting=waiting, cores=cores)
    else:
        last = say("This machine is not busy, so do not trust figures that were measured here.")
    return Conclusion(
        outcome=Outcome.FAIL, sentences=(head, *names, last), exit_code=EXIT_FAILED, tables=(table,), data=data
    )


def _verdict(check: Check) -> Text:
    return say("ok") if check.ok else say("WRONG")


def _facts(check: Check) -> dict[str, str]:
    return {"what": clause(check.title), "expected": check.expected, "measured": check.measured}
