"""A whole server as a process of its own, in front of the fake engine: `python -m tests.serve.real_server '{...}'`.

The JSON argument: `options` (dotted keys to values), `config` (a JSON file of such, read again by a reload),
`tokens_per_s`, `slots`, `context_tokens`, `open_s` (how long opening takes), `open_error`, `close_s` (how long closing
takes), `run_folder`.
It prints the URL when it listens.
"""

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from qwenops.engines.fake import FakeEngine, FakeTiming
from qwenops.errors import ConfigError, ModelLoadError, QwenOpsError
from qwenops.serve.lifecycle import Phase, Report
from qwenops.serve.options import ServeOptions
from qwenops.serve.reload import Wanted
from qwenops.serve.run import Surroundings, run
from qwenops.serve.serving import ServedModel
from tests.serve.conftest import MODEL, CharacterTokenizer


def options_of(values: dict[str, Any]) -> ServeOptions:
    options: Any = ServeOptions()
    for key, value in values.items():
        options = _with(options, key.split("."), value)
    assert isinstance(options, ServeOptions)
    return options


def _with(options: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    if rest:
        return dataclasses.replace(options, **{name: _with(getattr(options, name), rest, value)})
    if not hasattr(options, name):
        raise ConfigError(f"There is no option {name}.")
    if isinstance(getattr(options, name), Path | None) and isinstance(value, str):
        value = Path(value)
    return dataclasses.replace(options, **{name: value})


class SlowToClose(FakeEngine):
    """The fake engine, in no hurry to end."""

    def __init__(self, *, close_s: float, **more: Any) -> None:
        super().__init__(**more)
        self._close_s = close_s

    async def aclose(self) -> None:
        await asyncio.sleep(self._close_s)
        await super().aclose()


def main(plan: dict[str, Any]) -> int:
    async def open_engine(report: Report) -> ServedModel:
        steps = 20
        for step in range(steps):
            report(Phase.LOADING, step / steps, "weights")
            await asyncio.sleep(plan.get("open_s", 0.0) / steps)
        if plan.get("open_error"):
            raise ModelLoadError(plan["open_error"])
        timing = FakeTiming(decode_tokens_per_s=plan.get("tokens_per_s", 100.0), slots=plan.get("slots", 8))
        context_tokens = plan.get("context_tokens", 8192)
        engine = SlowToClose(
            model=MODEL, timing=timing, context_tokens=context_tokens, close_s=plan.get("close_s", 0.0)
        )
        return ServedModel(engine=engine, tokenizer=CharacterTokenizer())

    config = Path(plan["config"]) if plan.get("config") else None

    def read() -> Wanted:
        assert config is not None
        try:
            return Wanted(serve=options_of(plan.get("options", {}) | json.loads(config.read_text())))
        except (json.JSONDecodeError, TypeError) as error:
            raise ConfigError(f"The file is wrong: {error}.") from error

    surroundings = Surroundings(
        model=MODEL,
        engine="fake",
        run_folder=Path(plan["run_folder"]) if plan.get("run_folder") else None,
        read_options=read if config else None,
        watched=(config,) if config else (),
        on_listening=lambda url: print(url, flush=True),  # noqa: T201 -- the test reads it
    )
    try:
        run(open_engine, read().serve if config else options_of(plan.get("options", {})), surroundings)
    except QwenOpsError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}), file=sys.stderr)  # noqa: T201 -- the test reads it
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
