"""Text to tokens and back: the Rust `tokenizers` library around a model's `tokenizer.json`, and its chat template.

The vocabulary is byte-level BPE: each token is a string of bytes, and a character may be spread over several tokens.
So text comes back through `Detokenizer`, which holds incomplete characters until they are whole.

Loaded, the true vocabulary costs about 40 MB of resident memory; parsing it takes 20 MB more, given back at once.
"""

import codecs
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.errors import InvalidRequestError, ModelLoadError
from qwenops.generation import Messages, Tokens
from qwenops.hardware.allocator import give_memory_back
from qwenops.models.qwen_vocabulary import byte_alphabet, chat_template
from qwenops.models.template import (
    ControlTokens,
    RenderTemplate,
    compile_template,
    control_tokens,
    render_conversation,
)
from qwenops.text import say

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokenizer:
    """A model's vocabulary and chat template. Safe to use from several threads; encoding does not hold the GIL."""

    vocab_size: int
    """Tokens that have a text, the added ones included; models pad their tables beyond it."""
    eos_token_ids: tuple[int, ...]
    _library: "tokenizers.Tokenizer"
    _added: Mapping[int, str]
    _id_of_added: Mapping[str, int]
    _special: frozenset[int]
    _control: ControlTokens
    _byte_of: Mapping[str, int]
    _template: RenderTemplate

    def encode(self, text: str, *, control: bool = True) -> list[int]:
        """Return the tokens of `text`.

        Args:
            text: Any text.
            control: Whether a control token that `text` spells out becomes that token. False is for text by others.

        Raises:
            InvalidRequestError: The text holds half a surrogate pair, which no UTF-8 can spell.
        """
        return self._encode_guarded(text, guard="") if control else self._encode_plain([text])

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Return the text of `ids`; bytes that form no character become U+FFFD."""
        return b"".join(
            self.token_bytes(token_id) for token_id in ids if not (skip_special and token_id in self._special)
        ).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for: possibly half a character, nothing for an id without a token."""
        added = self._added.get(token_id)
        if added is not None:
            return added.encode()
        spelled = self._library.id_to_token(token_id) if token_id >= 0 else None
        return bytes([self._byte_of[character] for character in spelled]) if spelled else b""

    def is_special(self, token_id: int) -> bool:
        """Say whether a token never shows up in text: a special one, or an id beyond the vocabulary."""
        return token_id in self._special or not 0 <= token_id < self.vocab_size

    def render_text(self, prompt: Messages) -> str:
        """Return the conversation as the text that the model reads. For people: `render` is what keeps content apart.

        Raises:
            InvalidRequestError: The chat template refuses the conversation.
        """
        return render_conversation(self._template, prompt, self._control).text

    def render(self, prompt: Messages) -> Tokens:
        """Return the conversation as tokens; control tokens come from the template alone, never from content.

        Raises:
            InvalidRequestError: The chat template refuses the conversation.
        """
        rendered = render_conversation(self._template, prompt, self._control)
        return Tokens(ids=tuple(self._encode_guarded(rendered.guarded, rendered.guard)))

    def _encode_guarded(self, text: str, guard: str) -> list[int]:
        """Encode, taking unguarded control tokens for real and dropping the guards from all the rest."""
        controls: list[int] = []
        plain: list[str] = []
        start = 0
        for match in self._control.all.finditer(text):
            plain.append(text[start : match.start()])
            controls.append(self._id_of_added[match[0]])
            start = match.end()
        plain.append(text[start:])
        if guard:
            plain = [part.replace(guard, "") for part in plain]
        ids: list[int] = []
        for number, encoded in enumerate(self._encode_each(plain)):
            ids.extend(encoded)
            if number < len(controls):
                ids.append(controls[number])
        return ids

    def _encode_plain(self, texts: Sequence[str]) -> list[int]:
        return [token_id for ids in self._encode_each(texts) for token_id in ids]

    def _encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            # Unlike `encode`, this one lets other threads run meanwhile.
            found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:  # what the library says to a string that UTF-8 cannot spell
            raise InvalidRequestError(
                say("The text holds half a surrogate pair, which is no character."),
                hint=say("Send text that is valid Unicode."),
            ) from error
        return [encoding.ids for encoding in found]


class Detokenizer:
    """Turns the tokens of one answer into text as they come, and never gives out half a character."""

    __slots__ = ("_decoder", "_skip_special", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        """Start with nothing pending."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """Return the text that `ids` complete; the time it takes depends on these ids alone."""
        tokenizer = self._tokenizer
        return self._decoder.decode(
            b"".join(
                tokenizer.token_bytes(token_id)
                for token_id in ids
                if not (self._skip_special and tokenizer.is_special(token_id))
            )
        )

    def finish(self) -> str:
        """Return what is still pending: U+FFFD for a character that was never completed, usually nothing."""
        return self._decoder.decode(b"", final=True)


def open_tokenizer(folder: Path, *, now: Callable[[], datetime] = datetime.now) -> Tokenizer:
    """Load the tokenizer and the chat template of the model in `folder`.

    The template is `chat_template.jinja`, or the one inside `tokenizer_config.json`, or our own for Qwen3's format.

    Raises:
        ModelLoadError: `tokenizer.json` is missing or damaged, or is not a byte-level BPE as Qwen3's is.
    """
    library = _load(folder / "tokenizer.json")
    added = library.get_added_tokens_decoder()
    special = frozenset(token_id for token_id, token in added.items() if token.special)
    texts = {token_id: token.content for token_id, token in added.items()}
    _encode_as_plain_text(library, texts.values())
    config = _read_json(folder / "tokenizer_config.json")
    return Tokenizer(
        vocab_size=library.get_vocab_size(with_added_tokens=True),
        eos_token_ids=_eos_token_ids(folder, config, library),
        _library=library,
        _added=texts,
        _id_of_added={text: token_id for token_id, text in texts.items()},
        _special=special,
        _control=control_tokens(texts.values(), [texts[token_id] for token_id in special]),
        _byte_of={character: byte for byte, character in enumerate(byte_alphabet())},
        _template=compile_template(template_source(folder), now=now),
    )


def _load(path: Path) -> "tokenizers.Tokenizer":
    """Parse `tokenizer.json` and check that it is of the kind that this module understands."""
    # Threads of the library's own would compete with the engine's, and one prompt never needs them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    if not path.is_file():
        raise ModelLoadError(
            say("{folder} has no tokenizer.json.", folder=path.parent),
            hint=say("Take the folder of a whole model, or pull it again."),
        )
    try:
        library = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelLoadError(say("{path} is damaged: {error}.", path=path, error=error)) from error
    added = library.get_added_tokens_decoder()
    odd = [token.content for token in added.values() if token.single_word or token.lstrip or token.rstrip]
    if odd or not isinstance(library.decoder, tokenizers.decoders.ByteLevel):
        raise ModelLoadError(
            say("{path} is not a byte-level BPE tokenizer as Qwen3's is.", path=path),
            hint=say("Use a model of the Qwen3 family."),
        )
    give_memory_back()
    return library


def _encode_as_plain_text(library: "tokenizers.Tokenizer", added: Iterable[str]) -> None:
    """Let the library treat added tokens as text like any other; finding the real ones is our part."""
    import tokenizers

    library.no_padding()
    library.no_truncation()
    library.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in added])
    library.encode_special_tokens = True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelLoadError(say("{path} is not valid JSON: {error}.", path=path, error=error)) from error
    return found if isinstance(found, dict) else {}


def template_source(folder: Path) -> str:
    """Return the chat template of the model in `folder`, or our own where it has none.

    Raises:
        ModelLoadError: `tokenizer_config.json` is not valid JSON.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    inside = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(inside, list):
        inside = next((each.get("template") for each in inside if each.get("name") == "default"), None)
    return inside if isinstance(inside, str) else chat_template()


def _eos_token_ids(folder: Path, config: Mapping[str, Any], library: "tokenizers.Tokenizer") -> tuple[int, ...]:
    """Return the tokens that end an answer, as the model's configuration lists them."""
    for name in ("generation_config.json", "config.json"):
        match _read_json(folder / name).get("eos_token_id"):
            case int(one):
                return (one,)
            case [*several] if several:
                return tuple(int(each) for each in several)
    named = config.get("eos_token")
    text = named.get("content") if isinstance(named, dict) else named
    found = library.token_to_id(text) if isinstance(text, str) else None
    if found is None:
        raise ModelLoadError(say("The files in {folder} name no token that ends an answer.", folder=folder))
    return (found,)
