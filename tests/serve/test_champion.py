import asyncio

import pytest

from qwenops.calls.schema import Call, Role, Turn
from qwenops.engines.seam import EngineState
from qwenops.errors import EngineUnavailableError, InvalidRequestError, ModelLoadError
from qwenops.generation import GenerationRequest, Message, Messages, SamplingParams, Tokens
from qwenops.serve.champion import AGAIN_S, Champion
from qwenops.serve.classifies_only import ClassifiesOnly
from tests.serve.classifying import FakeClassifier, FakeSource, following

CALL = Call(conversation_id="c", turns=(Turn(role=Role.CUSTOMER, text="多扣了钱"),))


async def test_nothing_serves_before_the_first_is_open_and_the_reason_is_said() -> None:
    champion = await following(FakeSource(key=""))
    with pytest.raises(EngineUnavailableError, match="has no champion") as caught:
        async with champion.borrowed():
            pass
    assert caught.value.retry_after_s
    assert "registry promote" in caught.value.hint
    assert champion.health.state is EngineState.STARTING


async def test_the_one_that_is_pointed_at_serves_and_the_old_one_closes_after_its_last_request() -> None:
    source = FakeSource()
    champion = await following(source)
    (first,) = source.opened
    async with champion.borrowed() as old:
        source.key = "2-def"
        await champion.look()
        assert champion.about_now().ref == "complaints@2-def"
        assert (await old.classify([CALL]))[0].label == "billing.fee"
        assert first.closed == 0
        async with champion.borrowed() as new:
            assert new.about.ref == "complaints@2-def"
    await asyncio.sleep(0)
    assert first.closed == 1
    await champion.aclose()
    assert source.opened[1].closed == 1


async def test_no_request_is_lost_while_versions_are_promoted_and_rolled_back() -> None:
    source = FakeSource()
    source.pause_s, source.open_s = 0.003, 0.002
    champion = await following(source)
    background = asyncio.create_task(champion.follow())
    answered: list[str] = []
    is_over = False

    async def client() -> None:
        while not is_over:
            async with champion.borrowed() as classifier:
                await classifier.classify([CALL])
                answered.append(classifier.about.ref)

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for number in range(30):
        source.key = ("1-abc", "2-def", "3-fed")[number % 3]
        await asyncio.sleep(0.02)
    is_over = True
    await asyncio.gather(*clients)
    background.cancel()
    await asyncio.gather(background, return_exceptions=True)
    await champion.aclose()
    assert len(answered) > 300
    assert set(answered) == {"complaints@1-abc", "complaints@2-def", "complaints@3-fed"}
    assert len(source.opened) > 10
    assert [each.closed for each in source.opened] == [1] * len(source.opened)


async def test_one_that_is_damaged_leaves_the_old_one_serving_and_is_tried_again_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, now_s = FakeSource(), [0.0]
    champion = Champion(source, name="complaints", clock=lambda: now_s[0])
    await champion.look()
    source.key, source.damaged = "2-def", {"2-def"}
    for _ in range(5):
        await champion.look()
    assert champion.about_now().ref == "complaints@1-abc"
    assert isinstance(champion.failure, ModelLoadError)
    assert "a byte of it changed" in str(champion.health.reason)
    assert champion.health.state is EngineState.READY
    assert caplog.text.count("a byte of it changed") == 1, "said once, not at each look"
    source.damaged = set()
    await champion.look()
    assert champion.about_now().ref == "complaints@1-abc", "it is not tried at each look"
    now_s[0] += AGAIN_S
    await champion.look()
    assert champion.about_now().ref == "complaints@2-def"
    assert champion.failure is None
    await champion.aclose()


async def test_a_pointer_that_goes_back_forgets_the_failure() -> None:
    source = FakeSource()
    champion = await following(source)
    source.key, source.damaged = "2-def", {"2-def"}
    await champion.look()
    source.key = "1-abc"
    await champion.look()
    assert champion.failure is None
    assert len(source.opened) == 1
    await champion.aclose()


async def test_closing_while_one_is_being_opened_closes_that_one_too() -> None:
    source = FakeSource()
    source.open_s = 0.05
    champion = Champion(source, name="complaints")
    looking = asyncio.create_task(champion.look())
    await asyncio.sleep(0.01)
    await champion.aclose()
    await looking
    assert [each.closed for each in source.opened] == [1]
    assert champion.about is None
    assert champion.health.state is EngineState.CLOSED


async def test_a_classifier_that_cannot_be_closed_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(FakeClassifier):
        async def aclose(self) -> None:
            raise RuntimeError("stuck")

    class Source(FakeSource):
        async def open(self, key: str) -> FakeClassifier:
            return Stuck(key)

    source = Source()
    champion = await following(source)
    source.key = "2-def"
    await champion.look()
    await champion.aclose()
    assert "stuck" in caplog.text


async def test_a_server_that_classifies_only_says_so_to_who_wants_a_text() -> None:
    champion = await following(FakeSource())
    engine = ClassifiesOnly(champion)
    assert (engine.info.model, engine.info.revision, engine.info.context_tokens) == (
        "complaints",
        "complaints@1-abc",
        512,
    )
    states = [engine.info.health.state]
    request = GenerationRequest(id="1", prompt=Tokens(ids=(1,)), sampling=SamplingParams(max_tokens=1))
    asked = (
        lambda: engine.generate(request),
        lambda: engine.encode("x"),
        lambda: engine.decode([1]),
        lambda: engine.render(Messages(messages=(Message(role="user", content="x"),))),
    )
    for ask in asked:
        with pytest.raises(InvalidRequestError, match="writes no texts"):
            ask()
    await engine.aclose()
    await champion.aclose()
    states.append(engine.info.health.state)
    assert states == [EngineState.READY, EngineState.CLOSED]
