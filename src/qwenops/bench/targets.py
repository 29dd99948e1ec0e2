"""From the text that names a target to the target: whom to measure, and what is known about it.

=============================  ==================================================================================
`http://HOST:PORT[/v1]`        a server that speaks OpenAI's API (ours, llama-server, vLLM, SGLang, ...)
`ollama:MODEL[@URL]`           Ollama's own API, with the timings it reports
`ENGINE:MODEL?scheme=int4`     an engine in this process; the caller hands in who opens it (`OpenLocal`)
`simulated:?slots=4&...`       the simulated server, whose true figures are known
=============================  ==================================================================================
"""

from collections.abc import Awaitable, Callable, Mapping

from qwenops.bench.options import BenchOptions
from qwenops.bench.target import Target

OpenLocal = Callable[[str, str, Mapping[str, str]], Awaitable[Target]]
"""Opens an engine in this process: its name in `engines.ENGINES`, the model, and what the text says after `?`."""


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
    raise NotImplementedError
