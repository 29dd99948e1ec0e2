"""Conversations to text: a model's chat template in jinja2's sandbox, set up as transformers sets it up.

A template is code that came with a model, so it runs sandboxed. What people wrote is data, and must stay data: a
message that spells out `<|im_start|>` must not open a turn. So a conversation is rendered with a guard character
inside every control token that content spells out; whoever encodes the result takes unguarded control tokens for
real ones, drops the guards, and encodes all the rest as plain text. The guard is a private-use character that occurs
nowhere in the conversation.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from qwenops.errors import InvalidRequestError, ModelLoadError
from qwenops.generation import Message, Messages
from qwenops.text import say

Variables = Mapping[str, Any]
RenderTemplate = Callable[[Variables], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A rendered conversation; `guard` stands inside each control token that was spelled out by content."""

    guarded: str
    guard: str

    @property
    def text(self) -> str:
        """The text as the model reads it."""
        return self.guarded.replace(self.guard, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTokens:
    """Patterns of the added tokens that content must not be able to make.

    `all` matches every added token. `reserved` leaves out markers such as `<think>` and `<tool_call>`, which an
    assistant's or a developer's own text may hold and templates look for.
    """

    all: re.Pattern[str]
    reserved: re.Pattern[str]


def control_tokens(texts: Iterable[str], special: Iterable[str]) -> ControlTokens:
    """Build the patterns from the added tokens' `texts`, of which `special` never show up in answers."""
    every = sorted(texts, key=len, reverse=True)
    special = set(special)
    reserved = [text for text in every if text in special or text.startswith("<|")]
    return ControlTokens(all=_any_of(every), reserved=_any_of(reserved))


def _any_of(texts: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def compile_template(source: str, *, now: Callable[[], datetime]) -> RenderTemplate:
    """Compile a chat template; `now` answers templates that ask for the date.

    Raises:
        ModelLoadError: It is not a valid template.
    """
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what training should learn; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 -- jinja2 declares it as a mutable class attribute

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,  # noqa: FBT001, FBT002 -- templates pass it by position
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,  # noqa: FBT001, FBT002 -- templates pass it by position
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format_: now().strftime(format_)
    try:
        template = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ModelLoadError(
            say("The chat template is not valid at line {line}: {error}.", line=error.lineno, error=error.message)
        ) from error

    def render(variables: Variables) -> str:
        try:
            return template.render(variables)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise InvalidRequestError(
                say("The chat template refuses these messages: {error}.", error=str(error).rstrip(".")),
                param="messages",
            ) from error

    return render


def render_conversation(render: RenderTemplate, prompt: Messages, control: ControlTokens) -> Rendered:
    """Render `prompt`, guarding the control tokens that its content spells out.

    Raises:
        InvalidRequestError: There is nothing to render, nothing to continue, or the template refuses it.
    """
    if not prompt.messages:
        raise InvalidRequestError(say("A conversation needs at least one message."), param="messages")
    guard = _unused_character(prompt)
    messages = [_as_template_sees(message, _guarding(control, guard, message.role)) for message in prompt.messages]
    if prompt.continue_final:
        if prompt.messages[-1].role != "assistant" or prompt.messages[-1].tool_calls:
            raise InvalidRequestError(
                say("Only a last message of the assistant, without calls of tools, can be continued."),
                param="messages",
            )
        messages[-1]["content"] += guard * 2 + " "
    whole = _guarding(control, guard, "user")
    guarded = render(
        {
            "messages": messages,
            "tools": [_mapped(tool, whole) for tool in prompt.tools] or None,
            "documents": None,
            "add_generation_prompt": not prompt.continue_final,
            "enable_thinking": prompt.enable_thinking,
        }
    )
    if prompt.continue_final:
        guarded = _cut_at_end(guarded, guard * 2)
    return Rendered(guarded=guarded, guard=guard)


def _cut_at_end(guarded: str, mark: str) -> str:
    """Cut at `mark`, which stood behind the last message; where the template trimmed its blank, trim the message."""
    kept, found, rest = guarded.rpartition(mark)
    if not found:
        raise InvalidRequestError(
            say("This model's chat template leaves out the end of the last message, so it cannot be continued."),
            param="messages",
        )
    return kept if rest.startswith(" ") else kept.rstrip()


def _guarding(control: ControlTokens, guard: str, role: str) -> Callable[[str], str]:
    """Return what puts the guard into the control tokens of a text by `role`."""
    pattern = control.reserved if role in ("system", "assistant") else control.all

    def guarded(text: str) -> str:
        return pattern.sub(lambda match: match[0][0] + guard + match[0][1:], text)

    return guarded


def _as_template_sees(message: Message, guarded: Callable[[str], str]) -> dict[str, Any]:
    """Return a message in the words of OpenAI's API, which chat templates are written for."""
    seen: dict[str, Any] = {"role": message.role, "content": guarded(message.content)}
    if message.reasoning is not None:
        seen["reasoning_content"] = guarded(message.reasoning)
    if message.tool_calls:
        seen["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": guarded(call.name), "arguments": _arguments(call.arguments, guarded)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        seen["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        seen["name"] = guarded(message.name)
    return seen


def _arguments(text: str, guarded: Callable[[str], str]) -> Any:
    """Parse the arguments of a call, so that a template writes them the one way it was trained on.

    What is no JSON object, or nested deeper than can be followed, stays the text that it is.
    """
    try:
        parsed = json.loads(text)
        return _mapped(parsed, guarded) if isinstance(parsed, dict) else guarded(text)
    except (ValueError, RecursionError):
        return guarded(text)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Apply `change` to every string inside a JSON value, keys too."""
    match value:
        case str():
            return change(value)
        case Mapping():
            return {change(str(key)): _mapped(item, change) for key, item in value.items()}
        case list() | tuple():
            return [_mapped(item, change) for item in value]
        case _:
            return value


def _unused_character(prompt: Messages) -> str:
    """Return a private-use character that occurs nowhere in `prompt`."""
    written = "".join(
        part
        for message in prompt.messages
        for part in (
            message.content,
            message.reasoning or "",
            message.name or "",
            message.tool_call_id or "",
            *(each for call in message.tool_calls for each in (call.id, call.name, call.arguments)),
        )
    )
    tools = json.dumps(prompt.tools, ensure_ascii=False, default=str)
    for code in chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE)):
        if chr(code) not in written and chr(code) not in tools:
            return chr(code)
    raise InvalidRequestError(say("The messages use every private character of Unicode."), param="messages")
