"""The least that any client on aiohttp does with streams: cut lines, parse JSON, keep the time of each piece.

What measuring costs is compared with it, because CPU time alone says as much about the machine as about the client: a
neighbour on the same core doubles both.
"""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

SETTLE_S = 1.0
"""After the last stream has begun: connections are made, and the first pieces are read."""
_SILENCE_S = 600.0
_WORDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What reading took while all streams were open."""

    core_share: float
    """CPU time by time: 1 is one core."""
    whole: int
    """Streams that were answered with every token."""


async def read_streams(url: str, *, streams: int, tokens: int, model: str = "simulated") -> Cost:
    """Read so many answers at the same time, and count CPU time from the last one's beginning to the first one's end.

    Args:
        url: A server with OpenAI's API, without the version.
        streams: How many at the same time.
        tokens: Length of each answer.
        model: The name it serves.
    """
    import aiohttp

    begun: set[int] = set()
    all_begun: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def note(number: int) -> None:
        begun.add(number)
        if len(begun) == streams:
            all_begun.set_result(None)

    async def one(number: int) -> int:
        asked = {"model": model, "stream": True, "max_tokens": tokens, "ignore_eos": True}
        messages = [{"role": "user", "content": f"{number} " + "word " * _WORDS}]
        stamps: list[int] = []
        with suppress(aiohttp.ClientError):  # a stream that breaks is not whole
            async with session.post(url + "/v1/chat/completions", json=asked | {"messages": messages}) as response:
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        choices = json.loads(line[6:])["choices"]
                        if choices and choices[0]["delta"].get("content"):
                            stamps.append(time.perf_counter_ns())
                            if len(stamps) == 1:
                                note(number)
        return len(stamps)

    timeout = aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [asyncio.ensure_future(one(number)) for number in range(streams)]
        together: asyncio.Future[Any] = asyncio.gather(*tasks)
        try:
            await asyncio.wait([all_begun, together], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(SETTLE_S)
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            cpu_s, wall_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
            found = await together
        finally:
            together.cancel()
    return Cost(core_share=cpu_s / wall_s, whole=sum(number == tokens for number in found))
