"""What is measured: an engine, reached over a network or in this process, and what is known about where it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qwenops.command import Secret
from qwenops.engines.remote import OnMoment
from qwenops.engines.seam import Engine
from qwenops.generation import Messages, Prompt

Kind = Literal["openai", "ollama", "in-process", "simulated"]


def unchanged(messages: Messages) -> Prompt:
    """Leave a conversation as it is, for engines that render it themselves."""
    return messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing to measure."""

    text: str
    """As it was named: a URL, `ollama:qwen3:0.6b`, `openvino:random:0.6b`, `simulated:`. No secret is in it."""
    kind: Kind
    engine: Engine
    model: str
    render: Callable[[Messages], Prompt] = unchanged
    """Turns a conversation into what the engine accepts."""
    listen_moments: Callable[[OnMoment | None], None] = lambda _hook: None
    """Sets who is told of connections and first bytes; does nothing where there are none."""
    url: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the server said about itself when it was opened, for the manifest; plain data without secrets."""
    api_key: Secret | None = None
    """The key that this server was opened with; no other server is sent it."""
    process_ids: Callable[[], tuple[int, ...]] = tuple
    """The server's processes where they run on this machine and may be looked at; read anew at each look."""
