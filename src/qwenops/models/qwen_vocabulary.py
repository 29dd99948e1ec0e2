"""The true Qwen tokenizer, rebuilt from the public vocabulary in the `dashscope` package (the `demo` extra).

Random and tiny models have weights of our own making, yet their tokenizer is the real one: the same ids for the same
text as Qwen3-0.6B and 1.7B. `qwen.tiktoken` lists 151,643 byte strings with their ranks; the merges of byte-level BPE
follow from it, because each string of n > 1 bytes is the merge of the two parts that BPE reaches with lower ranks only.
The 26 added tokens follow at 151643. The model pads its table to 151,936 rows; the tokenizer knows nothing of them.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from qwenops.atomic import write_text
from qwenops.errors import MissingPartError, ModelLoadError
from qwenops.text import say

NUM_RANKS = 151_643
"""Byte strings in the vocabulary; the ids of the added tokens start here."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Control tokens that never appear in an answer's text, in the order of their ids."""

MARKER_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
"""Added tokens that are part of an answer's text; their ids follow those of SPECIAL_TOKENS."""

_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` into `folder`, each atomically.

    Raises:
        MissingPartError: The package that carries the vocabulary is not installed.
        ModelLoadError: Its vocabulary is not the one of Qwen3.
    """
    ranks = read_ranks(find_vocabulary())
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "tokenizer.json", json.dumps(_tokenizer(ranks), ensure_ascii=False, separators=(",", ":")))
    write_text(folder / "tokenizer_config.json", json.dumps(_tokenizer_config(), ensure_ascii=False, indent=2) + "\n")
    write_text(folder / "chat_template.jinja", chat_template())


def chat_template() -> str:
    """Return our chat template: Qwen3's conversation format, for models that bring no template of their own."""
    return (files("qwenops.models") / "templates" / "chat_template.jinja").read_text("utf-8")


def find_vocabulary() -> Path:
    """Return where `qwen.tiktoken` lies, without importing the package around it (it is heavy).

    Raises:
        MissingPartError: The package is not installed, or no longer carries the file.
    """
    found = find_spec("dashscope")
    for place in (found.submodule_search_locations or ()) if found else ():
        path = Path(place) / "resources" / "qwen.tiktoken"
        if path.is_file():
            return path
    raise MissingPartError(
        say("The Qwen vocabulary is not installed; models with random weights need it for their tokenizer."),
        hint=say("Run `pip install 'qwenops[demo]'`."),
    )


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read the byte strings of a tiktoken file and their ranks.

    Raises:
        ModelLoadError: The file is not the vocabulary of Qwen3.
    """
    try:
        pairs = (line.split() for line in path.read_bytes().splitlines() if line)
        ranks = {base64.b64decode(text, validate=True): int(rank) for text, rank in pairs}
    except ValueError as error:
        raise ModelLoadError(say("{path} is not a tiktoken vocabulary: {error}.", path=path, error=error)) from error
    if len(ranks) != NUM_RANKS or sorted(ranks.values()) != list(range(NUM_RANKS)):
        raise ModelLoadError(
            say(
                "{path} has {found} ranks; the vocabulary of Qwen3 has {wanted}.",
                path=path,
                found=len(ranks),
                wanted=NUM_RANKS,
            ),
            hint=say("Install the version of dashscope that constraints.txt names."),
        )
    return ranks


def merges_of(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the merges of byte-level BPE in the order of their ranks.

    Most strings can be cut in one way only into two parts of lower rank; only the others need BPE to be run.

    Raises:
        ModelLoadError: A string is not the merge of two others, so this is no BPE vocabulary.
    """
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        cuts = [
            cut
            for cut in range(1, len(token))
            if ranks.get(token[:cut], rank) < rank and ranks.get(token[cut:], rank) < rank
        ]
        cut = cuts[0] if len(cuts) == 1 else _last_cut(token, rank, ranks)
        yield token[:cut], token[cut:]


def _last_cut(token: bytes, below: int, ranks: Mapping[bytes, int]) -> int:
    """Run BPE over `token` with the ranks under `below`, and return where the two parts that remain meet."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        rank, place = min((ranks.get(a + b, below), i) for i, (a, b) in enumerate(pairwise(parts)))
        if rank >= below:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    if len(parts) != 2:  # noqa: PLR2004 -- a merge has two parts
        raise ModelLoadError(say("The vocabulary's string {token!r} is not the merge of two others.", token=token))
    return len(parts[0])


def byte_alphabet() -> list[str]:
    """Return the printable character by which byte-level BPE writes each of the 256 bytes.

    Bytes that print in Latin-1 stand for themselves; the others take the characters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _tokenizer(ranks: Mapping[bytes, int]) -> dict[str, Any]:
    """Return the content of `tokenizer.json`, in the format of the `tokenizers` library."""
    alphabet = byte_alphabet()

    def spelled(token: bytes) -> str:
        return "".join([alphabet[byte] for byte in token])

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _SPLIT_PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **fields} for number, fields in _added_tokens().items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spelled(token): rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])},
            "merges": [f"{spelled(left)} {spelled(right)}" for left, right in merges_of(ranks)],
        },
    }


def _added_tokens() -> dict[int, dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        NUM_RANKS + place: {"content": text, **plain, "special": text in SPECIAL_TOKENS}
        for place, text in enumerate(SPECIAL_TOKENS + MARKER_TOKENS)
    }


def _tokenizer_config() -> dict[str, Any]:
    """Return the content of `tokenizer_config.json`, in the words of the `transformers` library."""
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(number): fields for number, fields in _added_tokens().items()},
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131_072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
