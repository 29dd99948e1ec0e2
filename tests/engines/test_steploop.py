import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenops.engines.options import EngineOptions
from qwenops.engines.steploop import Link, StepLoop, options_to_wire, resident_bytes, serve
from qwenops.engines.wire import FrameReader, Parts, frame, pieces_from_wire, request_to_wire
from qwenops.errors import EngineError
from qwenops.generation import GenerationRequest, SamplingParams, Tokens
from tests.engines.steppers import Counting, Deed


class Pair:
    """Both ends of a socket: the loop's, and ours, from which the other process would speak."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.settimeout(5.0)
        self.link = Link(self.theirs)

    def say(self, kind: str, *parts: object) -> None:
        self.ours.sendall(frame(kind, *parts))

    def heard(self) -> list[Parts]:
        """Everything that the loop has sent, after it has ended."""
        self.theirs.close()
        reader = FrameReader()
        messages: list[Parts] = []
        while data := self.ours.recv(1 << 20):
            messages += reader.feed(data)
        return messages


@pytest.fixture
def pair() -> Iterator[Pair]:
    both = Pair()
    yield both
    both.ours.close()
    both.theirs.close()


def generate(pair: Pair, name: str, *, max_tokens: int = 2, deed: Deed = Deed.ANSWER) -> None:
    request = GenerationRequest(id=name, prompt=Tokens(ids=(deed,)), sampling=SamplingParams(max_tokens=max_tokens))
    pair.say("generate", request_to_wire(request))


def run(pair: Pair) -> list[Parts]:
    """Let the loop work until it is told to end, and return what it said."""
    pair.say("close")
    StepLoop(pair.link, Counting(EngineOptions())).run()
    return pair.heard()


class Patient(Counting):
    """Says `close` to itself when it has answered everything."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(EngineOptions())
        self._pair = pair

    def stats(self) -> dict[str, int]:
        if not self.has_work:
            self._pair.say("close")
        return {}


def test_all_pieces_of_one_step_leave_in_one_frame(pair: Pair) -> None:
    for name in "abc":
        generate(pair, name)
    StepLoop(pair.link, Patient(pair)).run()
    first, second = pair.heard()
    assert (first[:2], second[:2]) == (["step", 1], ["step", 2])
    for message, text in ((first, "1 "), (second, "2 ")):
        assert [(piece[0], pieces_from_wire([piece]).text) for piece in message[2]] == [(name, text) for name in "abc"]


def test_how_it_is_goes_along_now_and_then_and_always_at_the_end_of_work(pair: Pair) -> None:
    times = iter([0.0, 0.1, 0.2, 0.3, 0.31])
    generate(pair, "a", max_tokens=5)
    StepLoop(pair.link, Patient(pair), clock=lambda: next(times)).run()
    assert [message[3] is not None for message in pair.heard()] == [True, False, False, True, True]


def test_a_request_cancelled_before_its_step_is_never_computed(pair: Pair) -> None:
    generate(pair, "a")
    pair.say("cancel", "a")
    pair.say("cancel", "nobody")
    assert all(message[2] == [] for message in run(pair))


def test_a_ping_is_answered_without_work(pair: Pair) -> None:
    pair.say("ping")
    ((kind, number, pieces, stats),) = run(pair)
    assert (kind, number, pieces) == ("step", 0, [])
    assert stats["memory_bytes"] > 0


def test_the_loop_ends_when_the_other_side_is_gone(pair: Pair) -> None:
    generate(pair, "a", max_tokens=10**9)
    pair.ours.close()
    with pytest.raises(EOFError):
        StepLoop(pair.link, Counting(EngineOptions())).run()


def test_a_message_that_nobody_knows_ends_the_loop(pair: Pair) -> None:
    pair.say("dance")
    with pytest.raises(EngineError, match="dance"):
        StepLoop(pair.link, Counting(EngineOptions())).run()


def test_opening_is_reported_and_the_stepper_closed_at_the_end(pair: Pair, tmp_path: Path) -> None:
    options = EngineOptions(model_dir=tmp_path)
    pair.say("open", "tests.engines.steppers:open_counting", options_to_wire(options))
    pair.say("close")
    assert serve(pair.link) == 0
    kinds = [message[0] for message in pair.heard()]
    assert kinds == ["loading", "ready"]
    assert (tmp_path / "closed").exists()


def test_a_step_that_raises_tells_why_before_the_end(pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    pair.say("open", "tests.engines.steppers:open_counting", options_to_wire(EngineOptions()))
    generate(pair, "a", max_tokens=9, deed=Deed.RAISE)
    assert serve(pair.link) == 1
    last = pair.heard()[-1]
    assert last[0] == "dying"
    assert "nobody expected this" in last[1][1]
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_memory_is_zero_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert resident_bytes() > 1_000_000
    assert resident_bytes(tmp_path) == 0


def test_answers_go_on_in_the_steps_in_which_labels_are_scored(pair: Pair) -> None:
    pair.say("score", "s", [[0] * size for size in (1, 2, 3)], [10, 20])
    generate(pair, "a", max_tokens=4)
    StepLoop(pair.link, Patient(pair)).run()
    messages = pair.heard()
    assert [message[0] for message in messages] == ["step", "step", "scored", "step", "step"]
    assert messages[2] == ["scored", "s", [[11, 21], [12, 22], [13, 23]], None]
    assert [piece[1] for message in messages if message[0] == "step" for piece in message[2]] == [
        "1 ",
        "2 ",
        "3 ",
        "4 ",
    ]


def test_scores_that_nobody_waits_for_any_more_are_not_computed(pair: Pair) -> None:
    pair.say("score", "s", [[0]] * 1000, [10, 20])
    pair.say("cancel", "s")
    assert [message[:3] for message in run(pair)] == [["step", 0, []]]


def test_labels_that_are_refused_are_answered_with_the_reason(pair: Pair) -> None:
    pair.say("score", "s", [[0]], [10])
    ((kind, name, scores, error),) = run(pair)
    assert (kind, name, scores) == ("scored", "s", None)
    assert "Too few labels" in error[1]
