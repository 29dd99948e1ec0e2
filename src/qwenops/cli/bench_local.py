"""Targets in this process: from `openvino:qwen3:0.6b?scheme=int4` to an engine, opened as `run` and `serve` do."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from qwenops.cli.opening import engine_options, open_tokenizer, prepare_model, until_ready
from qwenops.cli.terminal import Terminal
from qwenops.config import Settings, all_options
from qwenops.errors import ConfigError
from qwenops.generation import Messages, Prompt
from qwenops.options import parse_value
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.bench.target import Target

CLOSE_TIMEOUT_S = 20.0
SCHEME = "scheme"
ELSEWHERE = frozenset({"url", "model_name"})
"""Options of an engine that mean nothing in this process."""

OpenLocal = Callable[[str, str, Mapping[str, str]], Awaitable["Target"]]


def local_settings(made: Settings, engine: str, given: Mapping[str, str]) -> Settings:
    """Return the settings of one target: those of the user, with what its text says.

    Raises:
        ConfigError: There is no such option of an engine, or its value is not possible.
    """
    engines = [each for each in all_options() if each.path[0] == "engine" and not each.spec.secret]
    own = {each.path[-1]: each for each in engines if each.path[-1] not in ELSEWHERE}
    scheme = next(each for each in all_options() if each.key == "model.scheme")
    changes = {}
    for name, text in given.items():
        if name == SCHEME:
            continue
        if name not in own:
            raise ConfigError(
                say("A target in this process knows no option {name!r}.", name=name),
                hint=say("It knows: {known}.", known=", ".join([SCHEME, *own])),
            )
        changes[name] = parse_value(text, own[name].type, own[name].spec, name)
    chosen = parse_value(given.get(SCHEME, made.model.scheme), scheme.type, scheme.spec, SCHEME)
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, scheme=chosen, engine=cast("Any", engine)),
        engine=dataclasses.replace(made.engine, **changes),
    )


def local_opener(terminal: Terminal, made: Settings) -> OpenLocal:
    """Return what opens an engine in this process, its model fetched and converted first."""

    async def open_local(engine: str, model: str, given: Mapping[str, str]) -> "Target":
        from qwenops.bench.target import Target
        from qwenops.engines import open_engine

        own = local_settings(made, engine, given)
        with terminal.progress() as report:
            prepared = await prepare_model(model, own, terminal, report, report)
            tokenizer = open_tokenizer(prepared)
            opened = await open_engine(engine, engine_options(own, prepared))
            try:
                await until_ready(opened, report)
            except BaseException:
                await asyncio.wait_for(opened.aclose(), CLOSE_TIMEOUT_S)
                raise

        def render(messages: Messages) -> Prompt:
            accepted: Prompt = tokenizer.render(messages)
            return messages if opened.info.accepts == "messages" else accepted

        query = "&".join(f"{name}={value}" for name, value in given.items())
        return Target(
            text=f"{engine}:{model}" + (f"?{query}" if query else ""),
            kind="in-process",
            engine=opened,
            model=opened.info.model,
            render=render,
            process_ids=children,
        )

    return open_local


def children() -> tuple[int, ...]:
    """Return the processes that this one started: engines compute in one of their own."""
    import psutil

    return tuple(child.pid for child in psutil.Process().children(recursive=True))
