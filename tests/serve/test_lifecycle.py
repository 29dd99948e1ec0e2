import json
from typing import Any

import pytest
from fastapi.routing import APIRoute

from qwenops.engines.seam import EngineHealth, EngineState
from qwenops.errors import EngineUnavailableError, ModelLoadError, OverloadedError
from qwenops.serve.auth import ANYBODY
from qwenops.serve.lifecycle import Lifecycle, Phase, State
from qwenops.serve.probes import probe_router
from qwenops.text import say


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def ready(health: EngineHealth | None = None) -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.opened(lambda: health or EngineHealth())
    return lifecycle


def test_a_start_tells_its_phase_progress_and_remaining_time() -> None:
    clock = Clock()
    lifecycle = Lifecycle(clock=clock)
    assert lifecycle.eta_s is None
    lifecycle.report(Phase.CONVERTING, 0.0)
    clock.now_s += 10.0
    lifecycle.report(Phase.CONVERTING, 0.25, "layer 7 of 28")
    assert lifecycle.eta_s == pytest.approx(30.0)
    assert lifecycle.reasons() == ["starting: converting 25 %, layer 7 of 28"]
    assert not lifecycle.is_ready
    assert not lifecycle.is_started
    assert not lifecycle.is_hopeless
    lifecycle.report(Phase.LOADING, 2.0)
    assert lifecycle.progress.ratio == 1.0
    assert lifecycle.eta_s == 0.0


def test_a_request_during_the_start_is_told_when_to_come_back() -> None:
    clock = Clock()
    lifecycle = Lifecycle(clock=clock)
    with pytest.raises(EngineUnavailableError) as caught:
        lifecycle.check_open()
    assert caught.value.retry_after_s == 5.0
    clock.now_s += 10.0
    lifecycle.report(Phase.RESOLVING, 0.5)
    with pytest.raises(EngineUnavailableError) as caught:
        lifecycle.check_open()
    assert caught.value.retry_after_s == 10.0
    lifecycle.report(Phase.RESOLVING, 0.3)
    with pytest.raises(EngineUnavailableError) as caught:
        lifecycle.check_open()
    assert caught.value.retry_after_s == 24.0
    lifecycle.report(Phase.RESOLVING, 0.001, "It takes long.")
    with pytest.raises(EngineUnavailableError, match=r"It takes long\.$") as caught:
        lifecycle.check_open()
    assert caught.value.retry_after_s == 300.0


@pytest.mark.parametrize(("load_s", "retry_s"), [(0.0, 5.0), (0.2, 1.0), (7.1, 8.0), (1000.0, 300.0)])
def test_a_request_during_a_restart_is_told_how_long_the_last_load_took(load_s: float, retry_s: float) -> None:
    lifecycle, measured = Lifecycle(), [load_s]
    lifecycle.opened(lambda: EngineHealth(state=EngineState.RESTARTING), load_s=lambda: measured[0])
    for known in (load_s, 0.0):  # an engine that is being opened anew has measured nothing yet
        measured[0] = known
        with pytest.raises(EngineUnavailableError) as caught:
            lifecycle.check_open()
        assert caught.value.retry_after_s == retry_s
    measured[0] = 30.0
    with pytest.raises(EngineUnavailableError) as caught:
        lifecycle.check_open()
    assert caught.value.retry_after_s == 30.0


async def readyz(lifecycle: Lifecycle) -> tuple[int, dict[str, Any]]:
    routes = probe_router(lifecycle).routes
    (route,) = (each for each in routes if isinstance(each, APIRoute) and each.path == "/readyz")
    answer = await route.endpoint(ANYBODY)
    return answer.status_code, json.loads(answer.body)


@pytest.mark.parametrize("state", [EngineState.RESTARTING, EngineState.FAILED])
async def test_readiness_is_not_called_ready_while_the_engine_is_gone(state: EngineState) -> None:
    health = EngineHealth(state=state, reason=say("The engine's process was ended by {signal}.", signal="SIGKILL"))
    lifecycle = Lifecycle()
    lifecycle.opened(lambda: health)
    status, body = await readyz(lifecycle)
    assert (status, body["status"], body["state"]) == (503, "unavailable", state.value)
    assert body["reasons"] == [f"the engine is {state.value}: The engine's process was ended by SIGKILL."]
    with pytest.raises(EngineUnavailableError, match=r"by SIGKILL\.$"):
        lifecycle.check_open()
    health = EngineHealth()
    status, body = await readyz(lifecycle)
    assert (status, body["status"], body["state"]) == (200, "ok", "ready")
    lifecycle.drain()
    assert (await readyz(lifecycle))[1]["state"] == "draining"


def test_an_engine_that_restarts_costs_readiness_and_not_liveness() -> None:
    lifecycle = ready(EngineHealth(state=EngineState.RESTARTING, reason="it was killed", restarts=1))
    assert lifecycle.reasons() == ["the engine is restarting: it was killed"]
    assert not lifecycle.is_hopeless
    assert lifecycle.is_started
    with pytest.raises(EngineUnavailableError, match="it was killed"):
        lifecycle.check_open()


def test_an_engine_that_will_not_come_back_costs_liveness() -> None:
    assert ready(EngineHealth(state=EngineState.FAILED)).is_hopeless
    lifecycle = Lifecycle()
    lifecycle.failed(ModelLoadError("The file is cut."))
    assert lifecycle.is_hopeless
    assert lifecycle.reasons() == ["the engine could not be opened: The file is cut."]


def test_draining_costs_readiness_at_once_and_requests_are_still_taken() -> None:
    lifecycle = ready()
    lifecycle.check_open()
    lifecycle.drain()
    assert lifecycle.reasons() == ["draining"]
    assert lifecycle.drain_wanted.is_set()
    lifecycle.check_open()
    lifecycle.stopping()
    lifecycle.check_open()
    lifecycle.stopped()
    with pytest.raises(OverloadedError, match="stopping"):
        lifecycle.check_open()
    assert not lifecycle.is_hopeless


def test_the_second_request_to_stop_hurries_and_draining_twice_does_not() -> None:
    lifecycle = ready()
    lifecycle.drain()
    lifecycle.drain()
    assert not lifecycle.hurry_wanted.is_set()
    lifecycle = ready()
    lifecycle.ask_to_stop()
    assert not lifecycle.hurry_wanted.is_set()
    lifecycle.ask_to_stop()
    assert lifecycle.hurry_wanted.is_set()


def test_the_first_signal_after_a_drain_that_was_asked_for_cuts_nothing_off() -> None:
    lifecycle = ready()
    lifecycle.drain()
    lifecycle.ask_to_stop()
    assert not lifecycle.hurry_wanted.is_set()
    lifecycle.ask_to_stop_soon()
    assert lifecycle.hurry_wanted.is_set()


def test_an_engine_that_opens_while_the_server_drains_does_not_make_it_ready() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain()
    lifecycle.opened(EngineHealth)
    assert lifecycle.state is State.DRAINING
    assert lifecycle.reasons() == ["draining"]
