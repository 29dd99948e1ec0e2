"""From the text that names a target to the target: whom to measure, and what is known about it.

=============================  ==================================================================================
`http://HOST:PORT[/v1]`        a server that speaks OpenAI's API (ours, llama-server, vLLM, SGLang, ...)
`ollama:MODEL[@URL]`           Ollama's own API with the timings it reports; `@URL/api/generate` asks without a chat
`ENGINE:MODEL?scheme=int4`     an engine in this process; the caller hands in who opens it (`OpenLocal`)
`simulated:?slots=4&...`       the simulated server, whose true figures are known
=============================  ==================================================================================

`HOST:PORT` without `http://` is taken for an address too.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from qwenops.bench.listening import Listening
from qwenops.bench.options import BenchOptions
from qwenops.bench.simulated.options import PREFIX as SIMULATED
from qwenops.bench.target import Target
from qwenops.command import Secret
from qwenops.engines import ENGINES
from qwenops.engines.remote import Remote, checked_url
from qwenops.errors import ConfigError, QwenOpsError
from qwenops.text import say

OpenLocal = Callable[[str, str, Mapping[str, str]], Awaitable[Target]]
"""Opens an engine in this process: its name in `engines.ENGINES`, the model, and what the text says after `?`."""

OLLAMA = "ollama:"
FACT_TIMEOUT_S = 3.0
_LONGEST_FACT = 200
_MOST_FACTS = 40
_ADDRESS = re.compile(r"[A-Za-z0-9.-]+:\d{1,5}(/.*)?|\[[0-9A-Fa-f:]+\]:\d{1,5}(/.*)?")
_OPENAI_QUESTIONS = ("/v1/models", "/api/v1/model", "/version", "/props", "/api/version")
_OLLAMA_QUESTIONS = ("/api/version", "/api/ps")
_METRICS = "/metrics"


async def open_target(
    text: str,
    options: BenchOptions,
    *,
    model: str = "",
    api_key: str = "",
    open_local: OpenLocal | None = None,
) -> Target:
    """Open what `text` names. The caller closes `Target.engine`.

    Args:
        text: See the module's table.
        options: How it will be measured: how many connections, how long a silence may last.
        model: Which model of a server; empty asks the server.
        api_key: The server's key; it goes into no text, log or record.
        open_local: Opens an engine in this process; None where that is not offered.

    Raises:
        ConfigError: The text names no target, or holds a secret.
        EngineUnavailableError: Nobody answers there.
        ModelNotServedError: The server does not have the model.
    """
    if text.startswith(SIMULATED):
        from qwenops.bench.simulated.engine import open_simulated

        return open_simulated(text)
    if text.startswith(OLLAMA):
        return await _open_ollama(text, options, model, api_key)
    if text.startswith(("http://", "https://")):
        return await _open_openai(text, options, model, api_key)
    engine, colon, rest = text.partition(":")
    if colon and engine in ENGINES and engine != "openai":
        return await _open_local(text, engine, rest, open_local)
    if _ADDRESS.fullmatch(text):
        return await _open_openai(f"http://{text}", options, model, api_key)
    raise ConfigError(
        say("{text!r} names nothing to measure.", text=text),
        hint=say(
            "Give an address such as {address}, {ollama}, or {local}.",
            address="http://127.0.0.1:8000",
            ollama="ollama:qwen3:0.6b",
            local="openvino:qwen3:0.6b",
        ),
    )


def server_of(text: str) -> str:
    """Return who is asked at a target on a network, as scheme://host:port; empty where there is no network.

    Raises:
        ConfigError: The address is none, or holds a secret.
    """
    if text.startswith(OLLAMA):
        from qwenops.engines.ollama import DEFAULT_URL

        url = text.removeprefix(OLLAMA).partition("@")[2] or DEFAULT_URL
    elif text.startswith(("http://", "https://")):
        url = text
    elif _ADDRESS.fullmatch(text):
        url = f"http://{text}"
    else:
        return ""
    parts = checked_url(url)
    return f"{parts.scheme}://{parts.hostname}:{_port(parts)}"


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


async def _open_openai(url: str, options: BenchOptions, model: str, api_key: str) -> Target:
    from qwenops.engines.openai import api_url, open_server, server_url

    remote = _remote(api_url(url), options, api_key)
    engine = await open_server(remote, model, must_list=True)
    return Target(
        text=url,
        kind="openai",
        engine=engine,
        model=engine.info.model,
        listen_moments=engine.listen_moments,
        url=remote.url,
        facts=await _facts(remote, server_url(remote.url), _OPENAI_QUESTIONS),
        api_key=Secret(api_key) if api_key else None,
        process_ids=_processes(url),
    )


async def _open_ollama(text: str, options: BenchOptions, model: str, api_key: str) -> Target:
    from qwenops.engines.ollama import DEFAULT_URL, Api, open_server

    named, _, url = text.removeprefix(OLLAMA).partition("@")
    path = urlsplit(url).path.rstrip("/")
    api: Api = "generate" if path.endswith("/api/generate") else "chat"
    url = re.sub(r"(/api(/(chat|generate))?)?/?$", "", url or DEFAULT_URL)
    remote = _remote(url, options, api_key)
    engine = await open_server(remote, model or named, api=api)
    return Target(
        text=text,
        kind="ollama",
        engine=engine,
        model=engine.info.model,
        listen_moments=engine.listen_moments,
        url=remote.url,
        facts=await _facts(remote, remote.url, _OLLAMA_QUESTIONS),
        api_key=Secret(api_key) if api_key else None,
        process_ids=_processes(url),
    )


async def _open_local(text: str, engine: str, rest: str, open_local: OpenLocal | None) -> Target:
    if open_local is None:
        raise ConfigError(
            say("{text!r} names an engine in this process, which is not possible here.", text=text),
            hint=say("Start a server and give its address."),
        )
    model, _, query = rest.partition("?")
    try:
        pairs = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise ConfigError(
            say("{query!r} in {text!r} cannot be read.", query=query, text=text),
            hint=say("Write {example}.", example="openvino:qwen3:0.6b?scheme=int4&threads=2"),
        ) from None
    return replace(await open_local(engine, model, pairs), text=text)


def _remote(url: str, options: BenchOptions, api_key: str) -> Remote:
    """Return the server; the run's own time-out comes first, so that a silence is not told as something else."""
    allow_connections()
    return Remote(url, api_key=api_key, num_connections=options.num_connections, silence_s=options.timeout_s + 1.0)


def allow_connections() -> None:
    """Raise this process's limit of open files as far as it may be raised: each stream is one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _processes(url: str) -> Callable[[], tuple[int, ...]]:
    """Return what finds the server's processes, where they run on this machine."""
    parts = checked_url(url)
    return Listening(parts.hostname or "", _port(parts)).process_ids


async def _facts(remote: Remote, base: str, questions: Sequence[str]) -> dict[str, Any]:
    """Return what a server says about itself, by the path that was asked; what it does not know is not there."""
    told = await asyncio.gather(*(_fact(remote, base, path) for path in questions), _has_metrics(remote, base))
    return {path: fact for path, fact in zip((*questions, _METRICS), told, strict=True) if fact}


async def _fact(remote: Remote, base: str, path: str) -> Any:
    from pydantic_core import from_json

    try:
        status, body = await remote.ask(path, base=base, timeout_s=FACT_TIMEOUT_S)
        return _short(from_json(remote.masked(body.decode(errors="replace")))) if status == _OK else None
    except (QwenOpsError, ValueError):
        return None


async def _has_metrics(remote: Remote, base: str) -> bool:
    """Whether the server has metrics in Prometheus's form."""
    try:
        status, body = await remote.ask(_METRICS, base=base, timeout_s=FACT_TIMEOUT_S)
    except QwenOpsError:
        return False
    return status == _OK and b"# TYPE" in body


_OK = 200


def _short(value: Any) -> Any:
    """Return plain data without what is long: chat templates, licences, lists of a thousand."""
    match value:
        case Mapping():
            return {str(name): _short(each) for name, each in list(value.items())[:_MOST_FACTS]}
        case list():
            return [_short(each) for each in value[:_MOST_FACTS]]
        case str() if len(value) > _LONGEST_FACT:
            return value[:_LONGEST_FACT] + " …"
        case _:
            return value
