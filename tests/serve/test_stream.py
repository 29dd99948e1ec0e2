import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from qwenops.errors import EngineCrashedError, QwenOpsError
from qwenops.generation import Chunk
from qwenops.serve.exchange import Answering, Exchange
from qwenops.serve.stream import EventStream, Mailbox, Numbered, first_of
from tests.serve.conftest import make_served


class Letters:
    """Renders each chunk as its text."""

    def render(self, taken: Sequence[Numbered]) -> bytes:
        return "".join(chunk.text for _, chunk in taken).encode()

    def end(self) -> bytes:
        return b"."


class Network:
    """Takes what is sent, when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.bodies: list[bytes] = []
        self.waiting = asyncio.Event()

    async def send(self, message: Any) -> None:
        if not self.open.is_set():
            self.waiting.set()
        await self.open.wait()
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])


async def never() -> Any:
    await asyncio.Event().wait()


async def stream_of(work: Answering, mailbox: Mailbox, exchange: Exchange, *, keep_alive_s: float = 5.0) -> EventStream:
    return EventStream(
        work=work,
        mailbox=mailbox,
        first=await first_of(mailbox, work, keep_alive_s=keep_alive_s),
        rendering=Letters(),
        exchange=exchange,
        error_body=lambda error: {"error": error.code},
        stalled_s=0.2,
        keep_alive_s=keep_alive_s,
    )


def exchange_of() -> tuple[Exchange, list[Any]]:
    served = make_served()
    return Exchange(served.serving, request_id="r", endpoint="/v1/completions"), served.records


async def test_what_piles_up_behind_a_slow_reader_goes_out_in_one_write() -> None:
    mailbox, network = Mailbox(), Network()
    go_on = asyncio.Event()

    async def produce() -> None:
        mailbox.put(0, Chunk(text="a"))
        await go_on.wait()
        for letter in "bcdefg":
            mailbox.put(0, Chunk(text=letter))
            await asyncio.sleep(0)

    exchange, records = exchange_of()
    work = Answering(produce(), never, ended=mailbox.close)
    response = await stream_of(work, mailbox, exchange)
    network.open.clear()
    sending = asyncio.create_task(response({}, never, network.send))
    await network.waiting.wait()
    go_on.set()
    await asyncio.sleep(0.05)
    network.open.set()
    await sending
    assert network.bodies == [b"a", b"bcdefg."]
    assert [record.status for record in records] == ["success"]


async def test_each_chunk_of_a_fast_reader_goes_out_by_itself() -> None:
    mailbox, network = Mailbox(), Network()

    async def produce() -> None:
        for letter in "abc":
            mailbox.put(0, Chunk(text=letter))
            await asyncio.sleep(0.01)

    exchange, _ = exchange_of()
    work = Answering(produce(), never, ended=mailbox.close)
    response = await stream_of(work, mailbox, exchange)
    await response({}, never, network.send)
    assert network.bodies == [b"a", b"b", b"c", b"."]


async def test_silence_is_filled_with_comments_that_clients_ignore() -> None:
    mailbox, network = Mailbox(), Network()

    async def produce() -> None:
        await asyncio.sleep(0.05)
        mailbox.put(0, Chunk(text="a"))

    exchange, _ = exchange_of()
    work = Answering(produce(), never, ended=mailbox.close)
    response = await stream_of(work, mailbox, exchange, keep_alive_s=0.02)
    await response({}, never, network.send)
    assert network.bodies[0] == b": waiting\n\n"
    assert b"".join(network.bodies).endswith(b": waiting\n\na.")


async def test_a_reader_that_takes_nothing_is_gone_and_the_work_is_cancelled() -> None:
    mailbox, network = Mailbox(), Network()
    cancelled = []

    async def produce() -> None:
        mailbox.put(0, Chunk(text="a"))
        try:
            await never()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    exchange, records = exchange_of()
    work = Answering(produce(), never, ended=mailbox.close)
    response = await stream_of(work, mailbox, exchange)
    network.open.clear()
    await response({}, never, network.send)
    assert cancelled == [True]
    assert records[0].status == "cancelled"


async def test_chunks_that_came_before_an_error_are_sent_before_it() -> None:
    mailbox, network = Mailbox(), Network()

    async def produce() -> None:
        mailbox.put(0, Chunk(text="a"))
        await asyncio.sleep(0)
        mailbox.put(0, Chunk(text="b"))
        raise EngineCrashedError("It died.")

    exchange, records = exchange_of()
    work = Answering(produce(), never, ended=mailbox.close)
    response = await stream_of(work, mailbox, exchange)
    await response({}, never, network.send)
    assert b"".join(network.bodies) == b'abevent: error\ndata: {"error":"engine_crashed"}\n\n'
    assert records[0].error_code == "engine_crashed"


async def test_an_error_before_the_first_chunk_is_raised_before_anything_is_sent() -> None:
    mailbox = Mailbox()

    async def produce() -> None:
        await asyncio.sleep(0)
        raise EngineCrashedError("It died.")

    work = Answering(produce(), never, ended=mailbox.close)
    with pytest.raises(EngineCrashedError):
        await first_of(mailbox, work, keep_alive_s=5.0)


async def test_an_unforeseen_error_is_told_to_the_client_and_raised_for_the_log() -> None:
    mailbox, network = Mailbox(), Network()

    async def produce() -> None:
        mailbox.put(0, Chunk(text="a"))
        raise ZeroDivisionError

    exchange, records = exchange_of()
    work = Answering(produce(), never, ended=mailbox.close)
    response = await stream_of(work, mailbox, exchange)
    with pytest.raises(ZeroDivisionError):
        await response({}, never, network.send)
    assert b'"internal_error"' in network.bodies[-1]
    assert records[0].error_code == "internal_error"


async def test_work_whose_client_goes_away_is_cancelled_and_waited_for() -> None:
    gone = asyncio.Event()
    freed = []

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def produce() -> None:
        try:
            await never()
        finally:
            await asyncio.sleep(0.01)
            freed.append(True)

    work = Answering(produce(), receive, ended=lambda: None)
    waiting = asyncio.create_task(work.result())
    await asyncio.sleep(0)
    gone.set()
    with pytest.raises(QwenOpsError, match="closed the connection"):
        await waiting
    assert freed == [True]
