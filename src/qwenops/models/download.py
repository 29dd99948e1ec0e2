"""Fetching files over HTTP: resumed, verified, patient, and careful about where it is led.

One `Web` talks to one hub. Its token is sent to that hub alone: a redirect to a CDN goes without it. A redirect from
a public hub into a private network, or from https to http, is refused. Every wait has a limit; a try that fails is
repeated after a pause that doubles, with jitter, and what has arrived is kept: the next try, or the next run, goes on
from there when the server says that the file is still the same (`If-Range`), and the hash decides in the end.
"""

import asyncio
import hashlib
import ipaddress
import json
import os
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from qwenops.errors import DownloadError, IntegrityError
from qwenops.models.folders import DISK_FULL, disk_full
from qwenops.text import Text, say

if TYPE_CHECKING:
    import aiohttp
    import yarl

T = TypeVar("T")

MAX_REDIRECTS = 8
MAX_JSON_BYTES = 16 * 1024**2
CHUNK_BYTES = 1 << 20
PROGRESS_BYTES = 1 << 20
"""A try that brings at least this much, or finishes, was not in vain: the count of tries starts again."""
LONGEST_PAUSE_S = 30.0
UNRESOLVED_ATTEMPTS = 2
"""Tries of a hub whose name does not resolve and that has never answered: there is no internet, or no such hub."""
LARGEST_GIT_BYTES = 64 * 1024**2
"""Larger files are in LFS and come with a SHA-256; only smaller ones are hashed as git does it."""

_REDIRECTS = (301, 302, 303, 307, 308)
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Patience(Protocol):
    """How long to wait and how often to try; the hub's options have these fields."""

    @property
    def attempts(self) -> int: ...  # noqa: D102 -- named in HubOptions
    @property
    def connect_timeout_s(self) -> float: ...  # noqa: D102 -- named there
    @property
    def stall_timeout_s(self) -> float: ...  # noqa: D102 -- named there
    @property
    def retry_pause_s(self) -> float: ...  # noqa: D102 -- named there


class Remote(Protocol):
    """A file to fetch and what it must hash to."""

    @property
    def path(self) -> str: ...  # noqa: D102 -- named in RemoteFile
    @property
    def url(self) -> str: ...  # noqa: D102 -- named there
    @property
    def size_bytes(self) -> int: ...  # noqa: D102 -- named there
    @property
    def sha256(self) -> str | None: ...  # noqa: D102 -- named there
    @property
    def git_sha1(self) -> str | None: ...  # noqa: D102 -- named there


class TryAgainError(Exception):
    """One try failed in a way that the next may not; never leaves this module."""

    def __init__(self, reason: Text, *, after_s: float = 0.0) -> None:
        """Keep the reason, and how long the server asked to be left alone."""
        super().__init__(reason)
        self.reason = reason
        self.after_s = after_s


def is_public(address: str) -> bool:
    """Say whether an IP address belongs to the internet, not to a private network, this machine or a link."""
    return ipaddress.ip_address(address).is_global


@dataclass(slots=True, kw_only=True)
class Web:
    """An open HTTP session with one hub."""

    url: str
    """The hub's address."""
    headers: Mapping[str, str] = field(repr=False)
    """Sent to the hub alone: the token."""
    patience: Patience
    session: "aiohttp.ClientSession"
    guarded: bool
    """Whether the hub is a public one, so that addresses of private networks are refused."""
    public: Callable[[str], bool]
    tell: Callable[[str], None] = lambda _what: None
    """Told in a sentence when a try has failed and another will follow."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: random.Random = field(default_factory=random.Random)
    answered: bool = field(default=False, init=False)
    """Whether anything has come of the hub so far, be it an error."""
    unreachable: Text | None = field(default=None, init=False)
    """Why it was given up without having answered once."""

    @property
    def host(self) -> str:
        """The hub's name, for people."""
        return self.url.partition("://")[2].partition("/")[0]

    async def get_json(self, address: str) -> tuple[Any, str | None]:
        """Return a parsed JSON document and the address of the next page, if there is one.

        Raises:
            FileNotFoundError: The hub says that there is no such thing.
            DownloadError: It could not be fetched, or is not JSON.
        """

        async def attempt() -> tuple[Any, str | None]:
            async with self._opened(address, {}) as response:
                body = await response.content.read(MAX_JSON_BYTES + 1)
                while not response.content.at_eof() and len(body) <= MAX_JSON_BYTES:
                    body += await response.content.read(MAX_JSON_BYTES + 1 - len(body))
                if len(body) > MAX_JSON_BYTES:
                    raise DownloadError(say("{url} answers with too much.", url=shown(address)))
                following = response.links["next"].get("url") if "next" in response.links else None
                return json.loads(body), str(following) if following else None

        return await self._tried(address, attempt, lambda: False)

    async def fetch(self, file: Remote, part: Path, arrived: Callable[[int], None]) -> str:
        """Fetch `file` into `part`, going on from what is there, and return its SHA-256.

        Args:
            file: What to fetch.
            part: Where it goes; on failure, what has arrived stays there for the next time.
            arrived: Told how many bytes the part has, as they come.

        Raises:
            IntegrityError: What came does not hash to what was published; the part is gone.
            InsufficientDiskError: The disk ran full; the part stays.
            DownloadError: It could not be fetched.
        """
        seen = [_size(part)]

        def progressed() -> bool:
            before, seen[0] = seen[0], _size(part)
            return seen[0] >= before + PROGRESS_BYTES

        async def attempt() -> str:
            resumed, digest = await self._receive(file, part, arrived)
            if digest.matches(file):
                return digest.sha256_hex
            _discard(part)
            if resumed:
                raise TryAgainError(say("the pieces do not fit together"))
            raise IntegrityError(
                say("{url} does not have the hash that the hub published.", url=shown(file.url)),
                hint=say("Try again later, or take another hub or mirror; this one serves a damaged file."),
            )

        try:
            return await self._tried(file.url, attempt, progressed)
        except FileNotFoundError as error:
            raise DownloadError(say("{url} is listed, but not there.", url=shown(file.url))) from error
        except OSError as error:
            if error.errno in DISK_FULL:
                raise disk_full(part.parent, file.size_bytes - _size(part)) from error
            raise

    async def _receive(self, file: Remote, part: Path, arrived: Callable[[int], None]) -> tuple[bool, "Digest"]:
        """Receive what is missing of `part`; says whether it went on from an earlier try, and gives the hashes."""
        start = _size(part)
        if start > file.size_bytes:
            _discard(part)
            start = 0
        arrived(start)
        if start == file.size_bytes > 0:
            return True, await asyncio.to_thread(_digest_of, part, start, file.size_bytes)
        old_etag = _read(etag_of(part)) if start else ""
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            if old_etag and not old_etag.startswith("W/"):
                headers["If-Range"] = old_etag
        async with self._opened(file.url, headers) as response:
            begin = _begin(response, start, file.size_bytes)
            etag = response.headers.get("ETag", "")
            if begin and old_etag and etag and etag != old_etag:
                _discard(part)
                raise TryAgainError(say("the file changed on the server"))
            digest = await asyncio.to_thread(_digest_of, part, begin, file.size_bytes)
            await asyncio.to_thread(etag_of(part).write_text, etag, "utf-8")
            await self._write(response, part, begin, digest, arrived)
        return begin > 0, digest

    async def _write(
        self,
        response: "aiohttp.ClientResponse",
        part: Path,
        begin: int,
        digest: "Digest",
        arrived: Callable[[int], None],
    ) -> None:
        """Write and hash what comes behind the first `begin` bytes of `part`, and not a byte more than was listed."""
        with part.open("r+b" if begin else "wb") as out:
            out.truncate(begin)
            out.seek(begin)
            position = begin
            pending = bytearray()
            try:
                async for piece in response.content.iter_any():
                    if position + len(pending) + len(piece) > digest.size_bytes:
                        raise TryAgainError(say("the server sends more than it listed"))
                    pending += piece
                    if len(pending) >= CHUNK_BYTES:
                        position += await _append(out, pending, digest)
                    arrived(position + len(pending))
            finally:
                position += await _append(out, pending, digest)
            if position != digest.size_bytes:
                raise TryAgainError(say("the connection was cut after {count} bytes", count=position))
            await asyncio.to_thread(_flush, out)

    async def _tried(self, address: str, attempt: Callable[[], Awaitable[T]], progressed: Callable[[], bool]) -> T:
        """Run `attempt` until it works, or until it fails `attempts` times in a row without progress."""
        import aiohttp

        failures = 0
        while True:
            attempts = self.patience.attempts
            try:
                return await attempt()
            except TryAgainError as error:
                reason, after_s = error.reason, error.after_s
            except TimeoutError:
                reason, after_s = say("the server was silent for too long"), 0.0
            except aiohttp.ClientConnectorDNSError as error:
                _raise_refusal(error)
                reason, after_s = say("the name {host} cannot be resolved", host=error.host), 0.0
                attempts = attempts if self.answered else min(attempts, UNRESOLVED_ATTEMPTS)
            except aiohttp.ClientError as error:
                _raise_refusal(error)
                reason, after_s = say("{what}", what=str(error) or type(error).__name__), 0.0
            failures = 1 if progressed() else failures + 1
            if failures >= attempts:
                self.unreachable = None if self.answered else reason
                raise DownloadError(
                    say(
                        "{url} could not be fetched, {count} tries: {reason}.",
                        url=shown(address),
                        count=failures,
                        reason=reason,
                    ),
                    hint=say("What has arrived is kept. Try again, set a mirror, or use the other hub."),
                )
            pause_s = min(self.patience.retry_pause_s * 2 ** (failures - 1), LONGEST_PAUSE_S)
            pause_s = max(pause_s * self.jitter.uniform(0.5, 1.5), min(after_s, LONGEST_PAUSE_S))
            self.tell(
                say("{host}: {reason}. Trying again in {pause:.0f} s", host=self.host, reason=reason, pause=pause_s)
            )
            await self.sleep(pause_s)

    @asynccontextmanager
    async def _opened(self, address: str, headers: Mapping[str, str]) -> AsyncIterator["aiohttp.ClientResponse"]:
        """Follow redirects by our rules and yield the answer, once its status is a good one."""
        from yarl import URL

        url = URL(address, encoded=True)
        home = URL(self.url).origin()
        for _ in range(MAX_REDIRECTS):
            self._check_address(url)
            own = self.headers if url.origin() == home else {}
            response = await self.session.get(url, headers={**headers, **own}, allow_redirects=False)
            self.answered = True
            if response.status not in _REDIRECTS:
                try:
                    _check_status(response, address)
                    yield response
                finally:
                    response.close()
                return
            location = response.headers.get("Location", "")
            response.release()
            if not location:
                raise DownloadError(say("{url} redirects to nowhere.", url=shown(address)))
            following = url.join(URL(location, encoded=True))
            if following.scheme not in ("http", "https") or (url.scheme == "https" and following.scheme == "http"):
                raise _refused(shown(str(following)))
            url = following
        raise DownloadError(say("{url} redirects in circles.", url=shown(address)))

    def _check_address(self, url: "yarl.URL") -> None:
        """Refuse a literal address of a private network; names are checked when they are resolved."""
        host = url.host or ""
        literal = ":" in host or host.replace(".", "").isdigit()  # also 127.1 and 2130706433, which are not resolved
        if self.guarded and literal:
            try:
                allowed = self.public(host)
            except ValueError:
                allowed = False
            if not allowed:
                raise _refused(host)


@asynccontextmanager
async def open_web(
    url: str,
    headers: Mapping[str, str],
    patience: Patience,
    *,
    environ: Mapping[str, str],
    public: Callable[[str], bool] = is_public,
) -> AsyncIterator[Web]:
    """Open a session with the hub at `url`; `public` decides which addresses a public hub may lead to.

    Raises:
        DownloadError: `url` is no web address.
    """
    import aiohttp
    from yarl import URL

    from qwenops import __version__

    hub = URL(url.rstrip("/"))
    if hub.scheme not in ("http", "https") or not hub.host:
        raise DownloadError(
            say("{url!r} is not the address of a hub.", url=url), hint=say("It starts with https:// and names a host.")
        )
    # A proxy resolves names itself, and its own address is usually private.
    proxied = any(environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy"))
    guarded = not proxied and await _all_public(hub.host, public)
    resolver = _public_resolver(public) if guarded else None
    timeout = aiohttp.ClientTimeout(
        total=None,
        connect=patience.connect_timeout_s,
        sock_connect=patience.connect_timeout_s,
        sock_read=patience.stall_timeout_s,
    )
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=resolver, limit=16),
        timeout=timeout,
        headers={"User-Agent": f"qwenops/{__version__}", "Accept-Encoding": "identity"},
        trust_env=True,
        read_bufsize=1 << 18,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield Web(
            url=str(hub).rstrip("/"),
            headers=headers,
            patience=patience,
            session=session,
            guarded=guarded,
            public=public,
        )


async def _all_public(host: str, public: Callable[[str], bool]) -> bool:
    """Say whether all addresses of `host` are public; one that does not resolve is taken for public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return all(public(str(address[0]).partition("%")[0]) for *_, address in found)


def _public_resolver(public: Callable[[str], bool]) -> Any:
    """Return a resolver that gives out public addresses only, so that no name can lead into a private network."""
    import aiohttp.abc
    import aiohttp.resolver

    class PublicResolver(aiohttp.abc.AbstractResolver):
        def __init__(self) -> None:
            self.inner = aiohttp.resolver.ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[aiohttp.abc.ResolveResult]:
            found = await self.inner.resolve(host, port, family)
            allowed = [each for each in found if public(each["host"].partition("%")[0])]
            if found and not allowed:
                raise PrivateAddressError(host)
            return allowed

        async def close(self) -> None:
            await self.inner.close()

    return PublicResolver()


class PrivateAddressError(OSError):
    """A name resolves to addresses of a private network only; never leaves this module."""


def _raise_refusal(error: BaseException) -> None:
    """Raise the refusal of an address, where one is behind `error`: trying again would not help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PrivateAddressError):
            raise _refused(str(cause)) from error
        cause = getattr(cause, "os_error", None) or cause.__cause__


def _refused(where: str) -> DownloadError:
    return DownloadError(
        say("The hub redirects to {where}, which is refused.", where=where),
        hint=say("A public hub has no reason to lead into a private network or away from https; check its address."),
    )


def _check_status(response: "aiohttp.ClientResponse", address: str) -> None:
    status = response.status
    if status in (200, 206):
        return
    # Hugging Face says 401 for repositories that do not exist, so as not to tell which private ones do.
    if status in (404, 410) or response.headers.get("X-Error-Code", "").endswith("NotFound"):
        raise FileNotFoundError(address)
    if status in (401, 403):
        raise DownloadError(
            say("{url} may not be read (HTTP {status}).", url=shown(address), status=status),
            hint=say("A private or gated model needs a token: HF_TOKEN or MODELSCOPE_API_TOKEN in the environment."),
        )
    if status == 416:  # noqa: PLR2004 -- HTTP: the range is not there, so the part is not of this file
        raise TryAgainError(say("the server does not have the rest of the file"))
    reason = say("HTTP status {status}", status=status)
    if status in _RETRIED:
        raise TryAgainError(reason, after_s=_seconds(response.headers.get("Retry-After", "")))
    raise DownloadError(say("{url} could not be fetched: {reason}.", url=shown(address), reason=reason))


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0


def _begin(response: "aiohttp.ClientResponse", start: int, size_bytes: int) -> int:
    """Return the place in the file where the body of an answer begins.

    Some servers answer a range with status 200 and only the rest as the body; others ignore the range.
    """
    given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if given:
        if int(given[1]) != start or (given[3] != "*" and int(given[3]) != size_bytes):
            raise TryAgainError(say("the server sends another part of the file than it was asked for"))
        return start
    if start and response.content_length == size_bytes - start != size_bytes:
        return start
    if response.content_length not in (None, size_bytes):
        raise TryAgainError(say("the server has another size for the file than it listed"))
    return 0


async def _append(out: IO[bytes], pending: bytearray, digest: "Digest") -> int:
    """Write and hash `pending` and empty it; returns how many bytes it had."""
    data = bytes(pending)
    pending.clear()
    if data:
        writing = asyncio.ensure_future(asyncio.to_thread(_write_hashed, out, data, digest))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await writing  # two threads must never write at once, and a thread cannot be cancelled
            raise
    return len(data)


def _write_hashed(out: IO[bytes], data: bytes, digest: "Digest") -> None:
    out.write(data)
    digest.update(data)


def _flush(out: IO[bytes]) -> None:
    out.flush()
    os.fsync(out.fileno())


def etag_of(part: Path) -> Path:
    """Return where the version of the file that a part belongs to is noted."""
    return part.with_name(part.name + ".etag")


def shown(address: str) -> str:
    """Return an address without its query, which may be signed, and without a password."""
    plain = address.partition("?")[0]
    return re.sub(r"//[^/@]*@", "//", plain)


class Digest:
    """The hashes of a file of a known size, as its content comes."""

    __slots__ = ("_git_sha1", "_sha256", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        """Start with nothing hashed."""
        self.size_bytes = size_bytes
        self._sha256 = hashlib.sha256()
        self._git_sha1 = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)

    @property
    def sha256_hex(self) -> str:
        """The SHA-256 of what has come."""
        return self._sha256.hexdigest()

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        self._sha256.update(data)
        if self.size_bytes <= LARGEST_GIT_BYTES:
            self._git_sha1.update(data)

    def matches(self, file: Remote) -> bool:
        """Compare with what was published: the SHA-256 where it is known, else the git blob's SHA-1."""
        if file.sha256 is not None:
            return self.sha256_hex == file.sha256.lower()
        if file.git_sha1 is not None and self.size_bytes <= LARGEST_GIT_BYTES:
            return self._git_sha1.hexdigest() == file.git_sha1.lower()
        return file.git_sha1 is None


def _digest_of(path: Path, begin: int, size_bytes: int) -> Digest:
    """Hash the first `begin` bytes of `path`, as the beginning of a file of `size_bytes`."""
    digest = Digest(size_bytes)
    if begin:
        with path.open("rb") as file:
            while begin and (chunk := file.read(min(CHUNK_BYTES, begin))):
                digest.update(chunk)
                begin -= len(chunk)
    return digest


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    etag_of(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
