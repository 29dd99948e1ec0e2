"""Reasoning and calls of tools that a server sends apart, written into the text as Qwen itself writes them.

So `Chunk.text` is what the model wrote, whichever server it came from, and all who read it need one parser.
"""

import json

OPEN_THOUGHT = "<think>\n"
CLOSE_THOUGHT = "\n</think>\n\n"
OPEN_CALL = "<tool_call>\n"
CLOSE_CALL = "}\n</tool_call>"


class InBand:
    """The text of one answer, in the order in which its parts arrive.

    Args:
        thinking: Whether the model was asked to think. Where it was not, the blank lines between the tags that the
            prompt already closed are nothing that it wrote, though some servers send them (`transformers serve`).
    """

    def __init__(self, *, thinking: bool = True) -> None:
        """Start at the beginning of an answer."""
        self._expects_thought = thinking
        self._thinking = False
        self._call: int | None = None
        self._has_arguments = False
        self._needs_line_end = False
        """Whether a call would begin on the line of what was said before."""

    @property
    def is_plain(self) -> bool:
        """Whether the next piece of speech goes into the text as it is."""
        return not self._thinking and self._call is None

    def thought(self, text: str) -> str:
        """Return a piece of reasoning as it stands in the text."""
        if not text:
            return ""
        if self._thinking:
            return text
        if not self._expects_thought and text.isspace():
            return ""
        before = self._leave()
        self._thinking = True
        return before + OPEN_THOUGHT + text.lstrip()

    def speech(self, text: str) -> str:
        """Return a piece of the answer as it stands in the text."""
        if not text:
            return ""
        before = "" if self.is_plain else self._leave()
        self._needs_line_end = not text.endswith("\n")
        return before + text

    def call(self, index: int, name: str, arguments: str) -> str:
        """Return a piece of call number `index` as it stands in the text; only its first piece has the name."""
        text = ""
        if self._call != index:
            text = self._leave() + ("\n" if self._needs_line_end else "") + OPEN_CALL
            text += f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
            self._call = index
            self._has_arguments = False
        self._has_arguments = self._has_arguments or bool(arguments)
        return text + arguments

    def finish(self, *, cut: bool) -> str:
        """Return what closes the text; an answer that was cut by its length stays open, as the model left it."""
        return "" if cut else self._leave()

    def _leave(self) -> str:
        """Close what is open."""
        text = ""
        if self._thinking:
            text = CLOSE_THOUGHT
            self._needs_line_end = False
        elif self._call is not None:
            text = CLOSE_CALL if self._has_arguments else "{}" + CLOSE_CALL
            self._needs_line_end = True
        self._thinking = False
        self._call = None
        return text
