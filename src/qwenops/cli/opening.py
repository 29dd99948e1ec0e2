"""What `run` and `serve` share: from the settings to an engine and its tokenizer."""

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.cli.models import fetch_report, hub_options, open_store
from qwenops.cli.terminal import Report, Terminal
from qwenops.config import Settings
from qwenops.engines import READS_CONVERTED
from qwenops.errors import ConfigError, EngineError, ModelNotFoundError
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.deploy.prepare import Prepared
    from qwenops.engines.options import EngineOptions
    from qwenops.engines.seam import Engine

LOOK_EVERY_S = 0.1


def wanted_model(given: str | None, made: Settings) -> str:
    """Return the model that was named here, or in the settings.

    Raises:
        ConfigError: None was named.
    """
    if given or made.model.name:
        return given or made.model.name
    raise ConfigError(
        say("No model was named."),
        hint=say("Name one, such as qwen3:0.6b, or set `name` under [model] in qwenops.toml."),
    )


async def prepare_model(
    name: str, made: Settings, terminal: Terminal, fetching: Report, converting: Report
) -> "Prepared":
    """Fetch and convert a model as the settings say."""
    from qwenops.deploy.prepare import prepare
    from qwenops.models.spec import Scheme

    scheme = Scheme(made.model.scheme) if made.model.engine in READS_CONVERTED else None
    return await prepare(
        name,
        scheme,
        store=open_store(terminal),
        hub=hub_options(terminal, made),
        fetching=fetch_report(fetching),
        converting=converting,
    )


def engine_options(made: Settings, prepared: "Prepared") -> "EngineOptions":
    """Return what the engine is told about this model."""
    name = made.engine.model_name or served_name(prepared.stored.name)
    return dataclasses.replace(made.engine, model_dir=prepared.folder, model_name=name)


def served_name(given: str) -> str:
    """Return what callers call a model unless the settings say otherwise: its name, or of a folder the folder's own.

    The path of a folder stays here: it is nobody's business who may list models or read metrics.
    """
    from qwenops.models.names import parse_name

    try:
        known = parse_name(given)
    except ModelNotFoundError:
        return Path(given).name or given
    return known.folder.name or given if known.folder is not None else known.text


def open_tokenizer(prepared: "Prepared") -> Any:
    """Return the tokenizer of a model."""
    from qwenops.models.tokenizer import open_tokenizer as open_folder

    return open_folder(prepared.folder)


async def until_ready(engine: "Engine", report: Report) -> None:
    """Wait until an engine can work.

    Raises:
        EngineError: It will not.
    """
    from qwenops.engines.seam import EngineState

    while (health := engine.info.health).state is not EngineState.READY:
        if health.state in {EngineState.FAILED, EngineState.CLOSED}:
            raise EngineError(
                say("The model cannot be loaded: {why}", why=health.reason),
                hint=say("`qwenops doctor` says whether this machine can run it."),
            )
        report(health.load_progress, say("Loading the model"))
        await asyncio.sleep(LOOK_EVERY_S)
