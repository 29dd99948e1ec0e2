"""Find the calls of tools in what a model says, while the text arrives in pieces.

Qwen3 writes each call as JSON between `<tool_call>` and `</tool_call>`. Text outside stays text; what looks like a call
and is not one stays text too, so nothing is lost. Where a call is required, the answer as a whole is made to be the
JSON of a call (`call_schema`), without tags.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenops.generation import ToolCall
from qwenops.serve.reasoning import Speech, held_tag

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


@dataclass(frozen=True, slots=True)
class Call:
    """A complete call, with its place among the calls of the answer."""

    index: int
    call: ToolCall


class ToolCallFinder:
    """Finds the calls in one answer.

    Args:
        new_id: Makes the id of a call.
        bare: Whether the whole answer is the JSON of one call.
    """

    def __init__(self, new_id: Callable[[], str], *, bare: bool = False) -> None:
        """Start at the beginning of an answer."""
        self._new_id = new_id
        self._bare = bare
        self._held = ""
        self._inside = bare
        self._gap = False
        """Whether a call was read and nothing but white space came since."""
        self.num_calls = 0

    def push(self, text: str) -> list[Speech | Call]:
        """Take the next piece of the answer; return what is clear by now."""
        self._held += text
        if self._bare:
            return []
        found: list[Speech | Call] = []
        while self._step(found):
            pass
        return found

    def finish(self) -> list[Speech | Call]:
        """Return what was held back: the answer is over. A call without its closing tag counts if it is whole."""
        held, self._held = self._held, ""
        if not self._inside:
            return self._said(held)
        call = self._read(held)
        if call is not None:
            return [call]
        return self._said(held if self._bare else OPEN + held)

    def _step(self, found: list[Speech | Call]) -> bool:
        """Take one tag, if there is a whole one; say whether there may be another."""
        before, tag, rest = self._held.partition(CLOSE if self._inside else OPEN)
        if self._inside:
            if not tag:
                return False
            call = self._read(before)
            found.extend([call] if call else self._said(OPEN + before + CLOSE))
            self._inside = False
            self._held = rest
            return True
        if not tag:
            keep = len(before) - held_tag(before, OPEN)
            keep = len(before[:keep].rstrip())
            before, self._held = before[:keep], before[keep:]
        else:
            before = before.rstrip()
            self._inside = True
            self._held = rest
        found.extend(self._said(before))
        return bool(tag)

    def _said(self, text: str) -> list[Speech | Call]:
        if self._gap:
            text = text.lstrip()
        if not text:
            return []
        self._gap = False
        return [Speech(text)]

    def _read(self, text: str) -> Call | None:
        call = read_call(text, self._new_id)
        if call is None:
            return None
        self.num_calls += 1
        self._gap = True
        return Call(self.num_calls - 1, call)


def read_call(text: str, new_id: Callable[[], str]) -> ToolCall | None:
    """Read `{"name": …, "arguments": …}`; None when it is something else."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            return None
        arguments = data.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    return ToolCall(id=new_id(), name=data["name"], arguments=arguments)


def call_schema(functions: Sequence[Mapping[str, Any]]) -> str:
    """Return the JSON schema of one call of one of these functions (`name` and `parameters` of each)."""
    calls = []
    for index, function in enumerate(functions):
        place = "#/properties/arguments" if len(functions) == 1 else f"#/anyOf/{index}/properties/arguments"
        own = {key: value for key, value in (function.get("parameters") or {}).items() if key not in {"$id", "$schema"}}
        parameters = _placed(own, place)
        parameters.setdefault("type", "object")
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls}, ensure_ascii=False)


_DATA = frozenset({"const", "enum", "default", "examples"})
"""What holds values in a schema."""
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""What holds schemas under names of the caller's."""


def _placed(schema: Any, place: str) -> Any:
    """Return a schema for use at `place` inside another: what points to its root (`#/$defs/X`) points there."""
    if isinstance(schema, list):
        return [_placed(each, place) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    placed: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            placed[key] = place + value[1:]
        elif key in _BY_NAME and isinstance(value, Mapping):
            placed[key] = {name: _placed(each, place) for name, each in value.items()}
        else:
            placed[key] = value if key in _DATA else _placed(value, place)
    return placed
