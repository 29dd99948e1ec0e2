from pathlib import Path

import aiohttp
import pytest

from qwenops.bench.checks import http
from qwenops.bench.checks.http import check_answers
from qwenops.bench.checks.truth import failed
from qwenops.bench.record import Failure
from qwenops.bench.simulated.options import Faults
from qwenops.bench.simulated.process import simulated_process
from qwenops.errors import EngineUnavailableError


async def test_every_way_to_write_an_answer_and_every_way_to_fail_is_told_apart(tmp_path: Path) -> None:
    checks = await check_answers(tmp_path)
    assert failed(checks) == []
    assert len(checks) == 20


async def test_a_failure_that_is_counted_as_another_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(http, "_FAULTS", (("500", Faults(status=500), Failure.SHED, None),))
    monkeypatch.setattr(http, "_WIRES", (("nothing at all", Faults(empty=True)),))
    assert [check.measured for check in failed(await check_answers(tmp_path))] == ["0", "failed"]


async def test_the_server_runs_in_a_process_of_its_own_and_ends_with_the_block() -> None:
    async with (
        simulated_process("simulated:?slots=2") as url,
        aiohttp.ClientSession() as session,
        session.get(url + "/health") as response,
    ):
        assert response.status == 200
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url + "/health")


async def test_a_server_that_does_not_start_is_told() -> None:
    with pytest.raises(EngineUnavailableError):
        async with simulated_process("simulated:?slots=none"):
            pass
