import sys
from pathlib import Path

import pytest

from qwenops.command import run

TELEMETRY = "import openvino.tools.ovc.telemetry_utils as told; print(told.tm.__name__)"


@pytest.mark.parametrize(
    "argv",
    [
        ["-c", f"import qwenops, openvino; {TELEMETRY}"],
        ["-m", "qwenops.hardware", "probe"],
    ],
    ids=["import", "probe"],
)
@pytest.mark.slow
def test_openvino_does_not_report_itself_over_the_network(tmp_path: Path, argv: list[str]) -> None:
    # Its telemetry leaves a client id and a counter in the home folder before it sends anything.
    finished = run(
        [sys.executable, *argv],
        timeout_s=60,
        env={"HOME": str(tmp_path), "CI": None, "TF_BUILD": None, "JENKINS_URL": None},
    )
    assert list(tmp_path.iterdir()) == []
    if argv[0] == "-c":
        assert finished.stdout == "openvino.tools.ovc.telemetry_stub\n"
