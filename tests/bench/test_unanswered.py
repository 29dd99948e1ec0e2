"""What failures have in common."""

from collections.abc import AsyncIterator
from pathlib import Path

from qwenops.bench.load import load
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.run import Opening, begin, finish
from qwenops.bench.simulated.engine import SimulatedEngine
from qwenops.bench.simulated.loop import run
from qwenops.bench.unanswered import Unanswered
from qwenops.errors import InvalidRequestError
from qwenops.generation import Chunk, GenerationRequest
from qwenops.text import say
from tests.bench.driving import Asks, S, target_of


def record(
    number: int, failure: Failure | None = None, message: str = "", phase: Phase = Phase.MEASURE
) -> RequestRecord:
    return RequestRecord(
        index=number,
        segment="load",
        phase=phase,
        item="",
        prompt_hash="",
        scheduled_ns=number * S,
        ended_ns=number * S,
        failure=failure,
        message=message,
    )


def looked(*records: RequestRecord) -> Unanswered:
    found = Unanswered()
    for each in records:
        found.look(each)
    return found


def seconds(moment_ns: int) -> str:
    return f"{moment_ns / S:.0f} s"


def test_the_commonest_words_of_each_kind_are_said_the_most_frequent_kind_first() -> None:
    wrong = [record(number, Failure.REJECTED, "no such model") for number in range(3)]
    found = looked(record(9, Failure.TIMEOUT, "late"), *wrong, record(3, Failure.REJECTED, "too long"), record(4))
    first, second = found.sentences(seconds)
    assert first == "Failures (rejected): 4; said most often (3): no such model"
    assert second == "Failures (timeout): 1; said most often (1): late"
    assert not found.nothing_worked


def test_from_when_on_nothing_answered_is_said_where_something_did_before() -> None:
    gone = [record(number, Failure.CONNECT, "connection refused") for number in range(5, 9)]
    *_, last = looked(record(0), record(1), *gone).sentences(seconds)
    assert last == "From 5 s on nothing was answered any more: the last 4 requests failed. connection refused"
    assert "From" not in " ".join(looked(record(0), *gone, record(9)).sentences(seconds))
    assert "From" not in " ".join(looked(*gone).sentences(seconds))


def test_nothing_worked_where_requests_were_sent_and_none_was_answered() -> None:
    assert looked(record(0, Failure.CONNECT)).nothing_worked
    assert not looked().nothing_worked
    assert not looked(record(0, Failure.INTERRUPTED), record(1, Failure.CONNECT, phase=Phase.WARMUP)).nothing_worked


class Refusing(SimulatedEngine):
    """An engine that refuses everything from some request on."""

    served = 0

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Answer, or refuse."""
        if int(request.id.rpartition("-")[2]) >= self.served:
            raise InvalidRequestError(say("There is no such model."))
        async for chunk in super().generate(request):
            yield chunk


def loaded(folder: Path, served: int) -> tuple[int, str]:
    """Return the exit code and the sentences of a load of which so many requests are served."""

    async def main() -> tuple[int, str]:
        engine = Refusing()
        engine.served = served
        options = BenchOptions(folder=folder, users=1, requests=6, warmup=0)
        opening = Opening(calibrate_s=0)
        async with begin("load", {"": target_of(engine)}, options, workload=Asks(), opening=opening) as started:
            conclusion = finish(started, await load(started))
            return conclusion.exit_code, " ".join(conclusion.sentences)

    return run(main())


def test_a_load_without_an_answer_is_no_success_and_says_what_the_server_said(tmp_path: Path) -> None:
    code, said = loaded(tmp_path, 0)
    assert code == 1
    assert "Failures (rejected): 6; said most often (6): There is no such model." in said


def test_a_load_that_was_answered_for_a_while_says_since_when_it_was_not(tmp_path: Path) -> None:
    code, said = loaded(tmp_path, 2)
    assert code == 0
    assert "nothing was answered any more: the last 4 requests failed. There is no such model." in said
