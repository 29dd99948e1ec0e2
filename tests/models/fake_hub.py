"""A hub on this machine that speaks the APIs of Hugging Face and ModelScope, and fails on demand."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong at one request for a file (or for a listing, under the name `listing`)."""

    cut_after: int | None = None
    """Bytes of the body after which the connection is closed."""
    stall_after: int | None = None
    """Bytes of the body after which nothing comes any more."""
    status: int | None = None
    retry_after: str = ""
    body: bytes | None = None
    """Sent in place of the true content."""
    ignore_range: bool = False
    range_as_200: bool = False
    """Answer a range with its bytes, but with status 200 and no Content-Range."""
    etag: str | None = None
    redirect: str | None = None


@dataclass(slots=True)
class FakeHub:
    """Repositories, what has been asked, and what is to go wrong."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    requests: list[web.Request] = field(default_factory=list)
    token: str = ""
    """Where set, needed for everything."""
    page_size: int = 1000
    commit: str = COMMIT
    pause_s: float = 0.0
    """Between the pieces of a body."""
    short_commit_only: bool = False
    """Whether ModelScope's listing names the commit by its first digits alone."""
    url: str = ""
    cdn_url: str = ""
    extra_files: list[dict[str, Any]] = field(default_factory=list)
    """Further entries of Hugging Face's listing, as they stand."""

    def asked(self, ending: str) -> list[web.Request]:
        """Return the requests whose path ends so."""
        return [each for each in self.requests if each.path.endswith(ending)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeHub"]:
        hub = web.Application()
        hub.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._hf_revision)
        hub.router.add_get("/api/models/{owner}/{name}/tree/{revision}", self._hf_tree)
        hub.router.add_route("*", "/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        hub.router.add_get("/api/v1/models/{owner}/{name}/repo/files", self._ms_files)
        hub.router.add_get("/models/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        cdn = web.Application()
        cdn.router.add_route("*", "/{owner}/{name}/{path:.+}", self._cdn)
        runners = []
        for app in (hub, cdn):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            runners.append(runner)
        self.url, self.cdn_url = (f"http://127.0.0.1:{each.addresses[0][1]}" for each in runners)
        try:
            yield self
        finally:
            for runner in runners:
                await runner.cleanup()

    def _files(self, request: web.Request) -> dict[str, bytes]:
        self.requests.append(request)
        if self.token and f"Bearer {self.token}" != request.headers.get("Authorization"):
            raise web.HTTPUnauthorized
        repo = f"{request.match_info['owner']}/{request.match_info['name']}"
        if repo in self.repos:
            return self.repos[repo]
        if request.path.startswith("/api/models/"):
            raise web.HTTPUnauthorized(headers={"X-Error-Code": "RepoNotFound"})
        raise web.HTTPNotFound

    def _fault(self, name: str) -> Fault:
        waiting = self.faults[name]
        return waiting.pop(0) if waiting else Fault()

    async def _hf_revision(self, request: web.Request) -> web.Response:
        self._files(request)
        if (status := self._fault("listing").status) is not None:
            return web.Response(status=status)
        if request.match_info["revision"] not in ("main", "v1", self.commit):
            raise web.HTTPNotFound
        return web.json_response({"id": "x", "sha": self.commit})

    async def _hf_tree(self, request: web.Request) -> web.Response:
        entries: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "onnx"}]
        for path, content in self._files(request).items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 -- git's own
            entry: dict[str, Any] = {"type": "file", "oid": blob, "size": len(content), "path": path}
            if path.endswith((".safetensors", ".bin")):
                oid = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
                entry["size"] = len(content)
            entries.append(entry)
        entries += self.extra_files
        start = int(request.query.get("cursor", "0"))
        headers = {}
        if start + self.page_size < len(entries):
            following = f"{self.url}{request.path}?recursive=true&cursor={start + self.page_size}"
            headers["Link"] = f'<{following}>; rel="next"'
        return web.json_response(entries[start : start + self.page_size], headers=headers)

    async def _ms_files(self, request: web.Request) -> web.Response:
        files = [
            {
                "Name": path.rpartition("/")[2],
                "Path": path,
                "Type": "blob",
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest(),
                "Revision": self.commit,
                "IsLFS": path.endswith(".safetensors"),
            }
            for path, content in self._files(request).items()
        ]
        files.append({"Name": "onnx", "Path": "onnx", "Type": "tree", "Size": 0, "Sha256": ""})
        data = {
            "Files": files,
            "LatestCommitter": {"Id": "" if self.short_commit_only else self.commit, "ShortId": self.commit[:8]},
        }
        return web.json_response({"Code": 200, "Data": data, "Message": "success", "Success": True})

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        files = self._files(request)
        path = request.match_info["path"]
        if path not in files:
            raise web.HTTPNotFound
        if path.endswith(".safetensors"):
            target = (
                f"{self.cdn_url}/{request.match_info['owner']}/{request.match_info['name']}/{path}?Signature=secret"
            )
            return web.Response(status=302, headers={"Location": target, **self._facts(files[path])})
        return await self._send(request, path, files[path])

    async def _cdn(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        repo = f"{request.match_info['owner']}/{request.match_info['name']}"
        path = request.match_info["path"]
        return await self._send(request, path, self.repos[repo][path])

    def _facts(self, content: bytes) -> dict[str, str]:
        linked = f'"{hashlib.sha256(content).hexdigest()}"'
        return {"X-Repo-Commit": self.commit, "X-Linked-Etag": linked, "X-Linked-Size": str(len(content))}

    async def _send(self, request: web.Request, path: str, content: bytes) -> web.StreamResponse:
        fault = self._fault(path) if request.method == "GET" else Fault()
        if fault.redirect is not None:
            return web.Response(status=302, headers={"Location": fault.redirect})
        if fault.status is not None:
            return web.Response(status=fault.status, headers={"Retry-After": fault.retry_after})
        content = content if fault.body is None else fault.body
        etag = fault.etag or f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "X-Repo-Commit": self.commit}
        status, body = 200, content
        wanted = request.headers.get("Range", "")
        same = request.headers.get("If-Range", etag) == etag
        if wanted and same and not fault.ignore_range:
            start = int(wanted.removeprefix("bytes=").rstrip("-").partition("-")[0])
            if start >= len(content):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
            body = content[start:]
            if not fault.range_as_200:
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content-Length"] = str(len(body))
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        if request.method == "GET":
            await self._body(request, response, body, fault)
        return response

    async def _body(self, request: web.Request, response: web.StreamResponse, body: bytes, fault: Fault) -> None:
        limit = fault.cut_after if fault.cut_after is not None else fault.stall_after
        sent = 0
        for begin in range(0, len(body), PIECE_BYTES):
            piece = body[begin : begin + PIECE_BYTES]
            if limit is not None:
                piece = piece[: limit - sent]
            await response.write(piece)
            sent += len(piece)
            if limit is not None and sent >= limit:
                await asyncio.sleep(0.05)
                if fault.stall_after is not None:
                    await asyncio.sleep(30)
                assert request.transport is not None
                request.transport.close()
                return
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
