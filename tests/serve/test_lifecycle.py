import pytest

from qwenops.engines.seam import EngineHealth, EngineState
from qwenops.errors import EngineUnavailableError, ModelLoadError, OverloadedError
from qwenops.serve.lifecycle import Lifecycle, Phase, State


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
