"""Answers that keep a form: JSON by schema, any JSON object, a regular expression, one of several choices.

`llguidance` turns the form into a grammar over our tokenizer's tokens. Before each token it says which ones may follow,
after each token it moves on, and when nothing may follow the answer is finished.
"""

import json
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from qwenops.errors import EngineError, InvalidRequestError
from qwenops.generation import Choice, JsonObject, JsonSchema, Regex, Structure
from qwenops.text import say

WHITESPACE = {"whitespace_pattern": r"\n?[ ]{0,16}"}
"""Blanks between parts of JSON: enough to indent. Without a bound a small model may write nothing else."""


class Grammars:
    """Compiles forms for one tokenizer.

    Args:
        tokenizer_json: The model's `tokenizer.json`.
        vocab_size: Width of a row of logits, which is more than the tokenizer has.
        eos_token_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        """Remember what the tokenizer is; it is read when the first form arrives."""
        self._source = (str(tokenizer_json), vocab_size, eos_token_ids)
        self._tokenizer: Any = None

    def compile(self, structure: Structure) -> "Grammar":
        """Return a grammar at its beginning.

        Raises:
            InvalidRequestError: The form is malformed, too large, or uses what no grammar can express.
        """
        import llguidance

        path, vocab_size, eos_token_ids = self._source
        if self._tokenizer is None:
            self._tokenizer = llguidance.LLTokenizer(path, n_vocab=vocab_size, eos_token=list(eos_token_ids))
        try:
            matcher = llguidance.LLMatcher(self._tokenizer, _source_of(structure, llguidance.LLMatcher), log_level=0)
            problem = matcher.get_error() if matcher.is_error() else ""
        except ValueError as error:
            matcher, problem = None, str(error)
        if problem:
            raise InvalidRequestError(
                say("The answer's structure cannot be used: {problem}", problem=problem.strip()[:400]),
                hint=say("Check the JSON schema, the regular expression or the choices."),
                param="response_format",
            )
        return Grammar(matcher, vocab_size, eos_token_ids)


class Grammar:
    """One answer on its way through its grammar."""

    def __init__(self, matcher: Any, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        """Start at the beginning."""
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.bool_]:
        """Return one flag for each token: may it come next?

        Raises:
            EngineError: The grammar ran into a limit of its own.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        flags = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(np.bool_)
        if len(flags) < self._vocab_size:
            flags = np.concatenate([flags, np.zeros(self._vocab_size - len(flags), dtype=np.bool_)])
        if flags[self._eos_token_ids[0]]:
            # Each of the tokens that end an answer may end this one.
            flags[list(self._eos_token_ids)] = True
        return flags

    def accept(self, token_id: int) -> None:
        """Move on by one token that was allowed.

        Raises:
            EngineError: It was not allowed, or the grammar ran into a limit of its own.
        """
        if token_id not in self._eos_token_ids:
            self._matcher.consume_token(token_id)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineError(
                say("The answer's structure failed on the way: {problem}", problem=self._matcher.get_error()[:400]),
                hint=say("Use a simpler schema or expression."),
            )


def _source_of(structure: Structure, matcher: Any) -> str:
    match structure:
        case JsonSchema(schema=schema):
            json.loads(schema)  # a schema that is no JSON must not become a part of a larger text
            return str(matcher.grammar_from_json_schema(schema, overrides=WHITESPACE))
        case JsonObject():
            return str(matcher.grammar_from_json_schema('{"type": "object"}', overrides=WHITESPACE))
        case Regex(pattern=pattern):
            return str(matcher.grammar_from_regex(pattern))
        case Choice(choices=choices):
            if not all(choices) or not choices:
                raise ValueError("a choice is empty")
            quoted = " | ".join(json.dumps(each, ensure_ascii=False) for each in choices)
            return str(matcher.grammar_from_lark(f"start: {quoted}"))
        case _:
            assert_never(structure)
