"""A server that burns CPU time for each answer and can hold memory for it: `python -m tests.infra.burning_server PORT`.

--burn-s S       CPU time for each answer, in threads that run in parallel
--hold-mib M     memory that each answer takes and never gives back
"""

import argparse
import asyncio
import hashlib
import time

from aiohttp import web

HELD: list[bytearray] = []
BLOCK = b"x" * 65536


def burn(seconds: float) -> None:
    """Use so much CPU time of this thread; hashing lets the other threads run meanwhile."""
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        hashlib.sha256(BLOCK).digest()


def app(burn_s: float, hold_mib: int) -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        if hold_mib:
            HELD.append(bytearray(b"y" * (hold_mib << 20)))
        await asyncio.to_thread(burn, burn_s)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        head = '{"id":"1","object":"chat.completion.chunk","created":1,"model":"m",'
        events = (
            head + '"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":null}]}',
            head + '"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
            head + '"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}',
            "[DONE]",
        )
        await response.write("".join(f"data: {each}\n\n" for each in events).encode())
        return response

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    made = web.Application()
    made.router.add_post("/v1/chat/completions", answer)
    made.router.add_get("/health", health)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--burn-s", type=float, default=0.05)
    parser.add_argument("--hold-mib", type=int, default=0)
    given = parser.parse_args()
    web.run_app(app(given.burn_s, given.hold_mib), host="127.0.0.1", port=given.port, print=None)
