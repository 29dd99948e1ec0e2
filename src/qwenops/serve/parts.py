"""The parts of one answer: what is thought, what is said, which tools are called."""

from collections.abc import Callable

from qwenops.serve.reasoning import ReasoningSplitter, Speech, Thought
from qwenops.serve.toolcalls import Call, ToolCallFinder

Part = Thought | Speech | Call


class AnswerParts:
    """Takes the text of one answer piece by piece and tells its parts."""

    def __init__(self, *, splitter: ReasoningSplitter | None = None, finder: ToolCallFinder | None = None) -> None:
        """Split off reasoning and calls where they are expected; without both everything is speech."""
        self._splitter = splitter
        self._finder = finder
        self.reasoning_tokens = 0

    @property
    def num_calls(self) -> int:
        """Calls found so far."""
        return self._finder.num_calls if self._finder else 0

    def push(self, text: str, num_tokens: int = 0) -> list[Part]:
        """Take the next piece, which is `num_tokens` long; return what is clear by now."""
        if self._splitter is None and self._finder is None:
            return [Speech(text)] if text else []
        if self._splitter is None:
            return self._calls_in([Speech(text)])
        if self._splitter.is_thinking:
            self.reasoning_tokens += num_tokens
        return self._calls_in(self._splitter.push(text))

    def finish(self) -> list[Part]:
        """Return what was held back: the answer is over."""
        rest = self._calls_in(self._splitter.finish()) if self._splitter else []
        if self._finder:
            rest.extend(self._finder.finish())
        return rest

    def _calls_in(self, pieces: "list[Thought | Speech] | list[Speech]") -> list[Part]:
        if self._finder is None:
            return list(pieces)
        parts: list[Part] = []
        for piece in pieces:
            if isinstance(piece, Speech):
                parts.extend(self._finder.push(piece.text))
            else:
                parts.append(piece)
        return parts


def parts_of(
    *, thinking: bool, inside: bool = False, tools: bool, bare_call: bool = False, new_id: Callable[[], str]
) -> AnswerParts:
    """Return what tells the parts of an answer to a request of this kind.

    Args:
        thinking: Whether the model was asked to think first.
        inside: Whether the prompt opened the reasoning already.
        tools: Whether tools were offered.
        bare_call: Whether the whole answer is one call.
        new_id: Makes the ids of calls.
    """
    return AnswerParts(
        splitter=ReasoningSplitter(inside=inside) if thinking else None,
        finder=ToolCallFinder(new_id, bare=bare_call) if tools else None,
    )
