"""What the engines share whose model is behind HTTP: one pool of connections, one way to ask, one way to fail.

* A failure is an answer: whoever measures wants to know what the server did, not what a patient client made of it.
* Nothing comes between the server and the clock: no compression, no proxy from the environment, no redirects, a read
  buffer that holds back no server, and as many connections as there are streams.
* A connection that nobody used for a few seconds is not used again: servers close theirs after five (uvicorn,
  llama-server, Node), and a request that meets such an end would look like a crash. llama-server also closes after
  each stream without saying so. A request that finds a used connection closed, without one byte of an answer, was not
  read by anybody: it goes out once more (the moment `again`), and from then on each request opens a connection of its
  own (`notes`).
* The key travels as a bearer and is in no message: where a server repeats it, it is masked.
"""

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import SplitResult, urlsplit

from qwenops import __version__
from qwenops.command import Secret
from qwenops.engines.refusal import refusal_of
from qwenops.errors import (
    ConfigError,
    DeadlineError,
    EngineCrashedError,
    EngineUnavailableError,
    MalformedAnswerError,
    NoConnectionLeftError,
    QwenOpsError,
)
from qwenops.text import Text, say

if TYPE_CHECKING:
    import aiohttp

Moment = Literal["connected", "first_byte", "again"]
OnMoment = Callable[[str, Moment], None]
"""Is told the id of a request and what just happened to it; `again`: it goes out once more."""

CONNECT_S = 10.0
QUESTION_S = 10.0
"""For what is asked besides the answers: models, versions."""
IDLE_S = 4.0
MAX_QUESTION_BYTES = 4 * 1024**2
MAX_REFUSAL_BYTES = 64 * 1024
READ_BUFFER_BYTES = 1024**2
_DRAIN_S = 1.0
OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS})
"""What a connection lacks on this side."""


def checked_url(url: str) -> SplitResult:
    """Take an address apart that may be shown.

    Raises:
        ConfigError: It is no address of a server, or holds a secret.
    """
    try:
        parts = urlsplit(url)
        port_is_possible = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_possible = urlsplit(""), False
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            say("The address of the server {host} holds more than an address.", host=parts.hostname or ""),
            hint=say("Leave out user, password and query; a key is given apart from the address."),
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_possible:
        raise ConfigError(
            say("{url!r} is no address of a server.", url=url),
            hint=say("Write it as {example}.", example="http://127.0.0.1:8000"),
        )
    return parts


class Remote:
    """One server.

    Args:
        url: The part of its addresses that all share.
        api_key: Sent as a bearer.
        num_connections: Most connections at the same time; 0 takes as many as there are streams.
        silence_s: A server that sends nothing for so long counts as frozen.
    """

    def __init__(self, url: str, *, api_key: str = "", num_connections: int = 0, silence_s: float = 600.0) -> None:
        """Check what was given; nothing is connected yet."""
        checked_url(url)
        if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            raise ConfigError(
                say("The key for the server has characters that no key has."),
                hint=say("Check for a line end or a space in it."),
            )
        self.url = url.rstrip("/")
        self._key = Secret(api_key)
        self._num_connections = num_connections
        self._silence_s = silence_s
        self._hook: OnMoment | None = None
        self._session: aiohttp.ClientSession | None = None
        self._former: aiohttp.ClientSession | None = None
        self._uses_again = True
        self.notes: dict[str, Text] = {}
        """What was found out about the server."""
        self._open: set[aiohttp.ClientResponse] = set()
        self.is_closed = False

    def listen_moments(self, hook: OnMoment | None) -> None:
        """Set who is told of connections and first bytes."""
        self._hook = hook

    async def post(
        self, path: str, body: Mapping[str, Any], *, request_id: str, trace: Mapping[str, str]
    ) -> "aiohttp.ClientResponse":
        """Post `body` and return the answer when its head is there; `let_go` of it in the end.

        Raises:
            QwenOpsError: No connection, a refusal, or no answer; see `refusal.refusal_of` and `failure`.
        """
        call = _Call(request_id)
        try:
            response = await self._sent(path, encoded(body), trace, call)
        except _failures() as error:
            if not (call.used_again and _found_closed(error)):
                raise self.failure(error) from error
            await self._stop_using_again()
            self.tell(request_id, "again")
            try:
                response = await self._sent(path, encoded(body), trace, call)
            except _failures() as failure:
                raise self.failure(failure) from failure
        self._open.add(response)
        self.tell(request_id, "first_byte")
        if response.status == _OK:
            return response
        try:
            refusal = await self._refusal(response)
        finally:
            self.let_go(response)
        raise refusal

    def tell(self, request_id: str, moment: Moment) -> None:
        """Tell whoever listens what just happened to a request."""
        if self._hook is not None:
            self._hook(request_id, moment)

    async def _sent(self, path: str, body: bytes, trace: Mapping[str, str], call: "_Call") -> "aiohttp.ClientResponse":
        return await self._opened().post(
            self.url + path, data=body, headers=trace, allow_redirects=False, trace_request_ctx=call
        )

    async def _stop_using_again(self) -> None:
        """Let each request open its own connection from now on; what runs on the old ones goes on."""
        if not self._uses_again:
            return
        self._uses_again = False
        self.notes["connections"] = say("The server closes connections that it promised to keep; each is used once.")
        if self._session is not None:
            self._former, self._session = self._session, None

    def let_go(self, response: "aiohttp.ClientResponse") -> None:
        """Keep the connection of an answer that was read to its end; close any other."""
        self._open.discard(response)
        if response.content.at_eof():
            response.release()
        else:
            response.close()

    @contextmanager
    def reading(self, response: "aiohttp.ClientResponse") -> Iterator[Callable[[], Awaitable[bytes]]]:
        """Give what waits for the next bytes of an answer; they are nothing at its end.

        It is the transfer's own function: one call less for each token.

        Raises:
            EngineCrashedError: The connection was cut.
            DeadlineError: Nothing came for too long.
        """
        try:
            yield response.content.readany
        except _failures() as error:
            raise self.failure(error) from error

    async def drain(self, response: "aiohttp.ClientResponse") -> None:
        """Read the end of an answer that is complete, so that its connection can be used again."""
        try:
            async with asyncio.timeout(_DRAIN_S):
                while await response.content.readany():
                    pass
        except _failures():
            response.close()

    async def whole(self, response: "aiohttp.ClientResponse", max_bytes: int) -> bytes:
        """Return all bytes of an answer.

        Raises:
            MalformedAnswerError: There are more than `max_bytes`.
            QwenOpsError: As `reading`.
        """
        pieces, num_bytes = [], 0
        with self.reading(response) as read:
            while piece := await read():
                pieces.append(piece)
                num_bytes += len(piece)
                if num_bytes > max_bytes:
                    raise MalformedAnswerError(
                        say("{url} sent an answer of more than {limit} bytes.", url=self.url, limit=max_bytes)
                    )
        return b"".join(pieces)

    async def ask(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = QUESTION_S, base: str = ""
    ) -> tuple[int, bytes]:
        """Return status and body of a small question (GET, or POST with a body), whatever the status is.

        Its connection is closed, so that what is measured afterwards opens its own.

        Raises:
            QwenOpsError: There is no answer, or none in time.
        """
        import aiohttp

        session = self._opened()
        data = None if body is None else encoded(body)
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        url = (base or self.url) + path
        try:
            async with session.request(
                "GET" if body is None else "POST",
                url,
                data=data,
                headers={"Connection": "close"},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                return response.status, await response.content.read(MAX_QUESTION_BYTES)
        except _failures() as error:
            raise self.failure(error) from error

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> QwenOpsError:
        """Return the error that a refusal of this server is, without its key."""
        return refusal_of(self.url, status, headers, self.masked(body.decode(errors="replace")))

    def masked(self, text: str) -> str:
        """Return what a server said without the key."""
        key = self._key.reveal()
        return text.replace(key, str(self._key)) if key else text

    def failure(self, error: BaseException) -> QwenOpsError:
        """Return the error that a failed connection or transfer is."""
        import aiohttp

        if self.is_closed:
            return EngineUnavailableError(say("The engine was closed."))
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return self._unreachable(error)
        if isinstance(error, TimeoutError):
            return DeadlineError(
                say("{url} sent nothing for too long.", url=self.url),
                hint=say("See whether the server still computes, and whether it keeps up with the load."),
            )
        if isinstance(error, aiohttp.ClientResponseError):
            return MalformedAnswerError(
                say("What {url} sent is no HTTP: {reason}", url=self.url, reason=self.masked(error.message))
            )
        return EngineCrashedError(
            say(
                "{url} cut the connection: {reason}.",
                url=self.url,
                reason=self.masked(str(error)) or type(error).__name__,
            ),
            hint=say("Look into the server's log."),
        )

    async def aclose(self) -> None:
        """Close every connection; answers in flight fail. A second call does nothing."""
        self.is_closed = True
        for response in tuple(self._open):
            response.close()
        for session in (self._session, self._former):
            if session is not None:
                await session.close()

    async def _refusal(self, response: "aiohttp.ClientResponse") -> QwenOpsError:
        try:
            async with asyncio.timeout(QUESTION_S):
                body = await response.content.read(MAX_REFUSAL_BYTES)
        except _failures():
            body = b""
        return self.refusal(response.status, response.headers, body)

    def _unreachable(self, error: "aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError") -> QwenOpsError:
        number = getattr(error, "errno", None)
        if number in OUT_OF:
            return NoConnectionLeftError(
                say("This machine cannot open one more connection: {reason}.", reason=os.strerror(number)),
                hint=say("Raise the limit of open files (`ulimit -n`), or ask with fewer connections."),
            )
        # aiohttp's own words name TLS even where none was asked for.
        why = getattr(getattr(error, "os_error", None), "strerror", None) or str(error)
        reason = os.strerror(number) if isinstance(number, int) and number > 0 else why
        return EngineUnavailableError(
            say("{url} cannot be reached: {reason}.", url=self.url, reason=reason),
            hint=say("Check that the server runs and listens at this address."),
        )

    def _opened(self) -> "aiohttp.ClientSession":
        """Return the pool; it is made within the event loop that uses it."""
        import aiohttp

        if self.is_closed:
            raise EngineUnavailableError(say("The engine was closed."))
        if self._session is None:
            headers = {
                "Accept-Encoding": "identity",
                "Accept-Language": "en",
                "Content-Type": "application/json",
                "User-Agent": f"qwenops/{__version__}",
            }
            if key := self._key.reveal():
                headers["Authorization"] = f"Bearer {key}"
            tracing = aiohttp.TraceConfig()
            tracing.on_connection_create_end.append(self._connected)
            tracing.on_connection_reuseconn.append(_used_again)
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._silence_s),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_BUFFER_BYTES,
                auto_decompress=False,
                trust_env=False,
                trace_configs=[tracing],
            )
        return self._session

    def _connector(self) -> "aiohttp.TCPConnector":
        import aiohttp

        if self._uses_again:
            return aiohttp.TCPConnector(limit=self._num_connections, keepalive_timeout=IDLE_S)
        return aiohttp.TCPConnector(limit=self._num_connections, force_close=True)

    async def _connected(self, _session: Any, context: SimpleNamespace, _params: Any) -> None:
        if (call := context.trace_request_ctx) is not None:
            self.tell(call.request_id, "connected")


class _Call:
    """One request on its way, as the pool sees it."""

    __slots__ = ("request_id", "used_again")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.used_again = False


async def _used_again(_session: Any, context: SimpleNamespace, _params: Any) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.used_again = True


def _found_closed(error: BaseException) -> bool:
    """Whether a connection turned out to be closed before one byte of an answer."""
    import aiohttp

    return isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) and not isinstance(
        error, aiohttp.ClientConnectorError
    )


_OK = 200


def encoded(body: Mapping[str, Any]) -> bytes:
    """Write a body as JSON in UTF-8; text that is no Unicode (half a pair) is escaped."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode()


def _failures() -> tuple[type[Exception], ...]:
    """Return what a connection may fail with."""
    import aiohttp

    return (aiohttp.ClientError, OSError, TimeoutError)
