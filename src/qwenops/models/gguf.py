"""Checkpoints as GGUF files, for llama.cpp and Ollama, which read nothing else.

A file holds everything: the shape, the tokenizer with the kind of each token, the chat template, and the tensors.
Matrices are in 16 bits or in blocks of 32 with one scale, vectors in 32 bits. Tensors are read, packed, compared with
their source and written one at a time. llama.cpp's names and the packing itself come from the `gguf` package, which
llama.cpp's own project publishes.

Ollama imports neither Qwen3's safetensors nor its LoRA adapters, so a fine-tuned model goes there as one merged file
with a `Modelfile` beside it.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.atomic import sync_folder
from qwenops.errors import ConversionError, MissingPartError, ModelLoadError
from qwenops.models.adapter import Merged
from qwenops.models.checkpoint import read_json
from qwenops.models.folders import DISK_FULL, disk_full, require_disk
from qwenops.models.packing import row_slices
from qwenops.models.spec import ModelSpec, TensorKind, TensorSpec
from qwenops.models.tokenizer import template_source
from qwenops.text import Report, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ARCHITECTURE = "qwen3"
PRE_TOKENIZER = "qwen2"
"""How llama.cpp calls the way in which Qwen's text is cut before byte-pair encoding."""
SPARE_BYTES = 1 << 24
ROOM = 1.02
"""An error may be larger than the format allows by so much, for rounding in float32."""
_HALF_DIGIT, _HALF_LEAST = 2.0**-11, 2.0**-25
"""What half precision rounds by at most: relative to a number, and of the smallest ones."""


class GgufType(StrEnum):
    """How matrices are stored."""

    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"
    """What llama.cpp is fastest with; too coarse for a classifier that nobody has judged."""


BLOCK = 32
_BLOCK_BYTES = {GgufType.Q8_0: 34, GgufType.Q4_0: 18}
"""Of so many numbers with one scale in half precision."""
_PARTS = {GgufType.Q8_0: 254, GgufType.Q4_0: 8}
"""Into how many errors the largest magnitude of a block may be cut; the last step of Q4_0 is missing on one side."""


def check_installed() -> None:
    """Raise MissingPartError unless the package that writes GGUF files can be imported."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingPartError(
            say("Writing a GGUF file needs the package gguf, which is not installed."),
            hint=say("Install the optimize extra: pip install 'qwenops[optimize]'."),
        )


def write_gguf(
    merged: Merged,
    target: Path,
    kind: GgufType,
    *,
    name: str,
    report: Report = lambda _fraction, _doing: None,
) -> None:
    """Write a checkpoint, with an adapter in it or without one, as one GGUF file; it appears whole or not at all.

    Args:
        merged: What to write.
        target: The file; one that exists is replaced.
        kind: How matrices are stored.
        name: What the model is called inside the file.
        report: Is told how far it is.

    Raises:
        MissingPartError: The package gguf is not installed.
        ModelLoadError: The tokenizer is missing or damaged, or a tensor is no finite number.
        ConversionError: A packed tensor differs from its source by more than its format allows.
        InsufficientDiskError: There is no room for it.
    """
    check_installed()
    target.parent.mkdir(parents=True, exist_ok=True)
    wanted = dict(_tensors(merged.spec))
    require_disk(target.parent, sum(_num_bytes(tensor, kind) for tensor in wanted.values()) + SPARE_BYTES)
    with _writing(target) as writer:
        _describe(writer, merged, kind, name)
        _describe_tokenizer(writer, merged)
        for known_as, tensor in wanted.items():
            _announce(writer, known_as, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total = sum(tensor.num_elements for tensor in wanted.values())
        done = 0
        for tensor in wanted.values():
            writer.write_tensor_data(_packed(merged, tensor, kind))
            done += tensor.num_elements
            report(done / total, say("Writing the GGUF file: {name}", name=tensor.name))


def modelfile(file_name: str, *, context_tokens: int, num_labels: int = 0) -> str:
    """Return what `ollama create` reads beside a GGUF file.

    The template is the one without thinking, which is how the model was taught; with labels one token is the answer.

    Args:
        file_name: Of the GGUF file, in the same folder.
        context_tokens: Prompt and answer together.
        num_labels: How many labels the model knows; 0 for one that writes.
    """
    lines = [
        f"FROM ./{file_name}",
        f'TEMPLATE """{OLLAMA_TEMPLATE}"""',
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        f"PARAMETER num_ctx {context_tokens}",
    ]
    if num_labels:
        lines += ["PARAMETER temperature 0", "PARAMETER num_predict 1"]
    return "\n".join(lines) + "\n"


OLLAMA_TEMPLATE = (
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""In the language of Go's templates, which Ollama renders with."""


def _tensors(spec: ModelSpec) -> Iterator[tuple[str, TensorSpec]]:
    """Yield all tensors of a checkpoint with the names that llama.cpp has for them."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, spec.num_layers)
    for tensor in spec.tensors():
        found = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise AssertionError(tensor.name)
        yield found, tensor


@contextmanager
def _writing(target: Path) -> Iterator[Any]:
    """Give a writer of a hidden file that takes the place of `target` at the end."""
    import gguf

    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    writer = gguf.GGUFWriter(partial, ARCHITECTURE)
    try:
        yield writer
        writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(target.parent, 0) from error
        raise
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _describe(writer: Any, merged: Merged, kind: GgufType, name: str) -> None:
    import gguf

    spec = merged.spec
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.name}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_block_count(spec.num_layers)
    writer.add_context_length(spec.max_context_tokens)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.num_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.rms_eps)
    writer.add_rope_freq_base(spec.rope_theta)


def _describe_tokenizer(writer: Any, merged: Merged) -> None:
    folder, spec = merged.base.folder, merged.spec
    tokens, kinds, merges = _vocabulary(folder, spec.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    if spec.eos_token_ids:
        writer.add_eos_token_id(spec.eos_token_ids[0])
        writer.add_pad_token_id(spec.eos_token_ids[-1])
    beginning = merged.base.config.get("bos_token_id")
    if isinstance(beginning, int):
        writer.add_bos_token_id(beginning)
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(template_source(folder))


def _vocabulary(folder: Path, size: int) -> tuple[list[str], list[int], list[str]]:
    """Return the tokens, the kind of each, and the merges."""
    import gguf

    told = read_json(folder / "tokenizer.json")
    try:
        known, added, merges = told["model"]["vocab"], told["added_tokens"], told["model"]["merges"]
        highest = max(*known.values(), *(each["id"] for each in added))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(
            say("tokenizer.json is no byte-level BPE tokenizer as Qwen3's is ({error}).", error=repr(error)),
            hint=say("Use a model of the Qwen3 family."),
        ) from error
    if highest >= size:
        raise ModelLoadError(
            say("The tokenizer has a token {id}, and the model {size} rows.", id=highest, size=size),
            hint=say("Check that tokenizer.json belongs to the weights."),
        )
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [int(gguf.TokenType.UNUSED)] * size
    for token, number in known.items():
        tokens[number], kinds[number] = token, int(gguf.TokenType.NORMAL)
    for each in added:
        kind = gguf.TokenType.CONTROL if each["special"] else gguf.TokenType.USER_DEFINED
        tokens[each["id"]], kinds[each["id"]] = each["content"], int(kind)
    return tokens, kinds, [each if isinstance(each, str) else " ".join(each) for each in merges]


def _announce(writer: Any, name: str, tensor: TensorSpec, kind: GgufType) -> None:
    import gguf
    import numpy as np

    num_bytes = _num_bytes(tensor, kind)
    if tensor.kind is TensorKind.NORM:
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), num_bytes)
    elif kind is GgufType.F16:
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float16), num_bytes)
    else:
        rows = tensor.shape[0]
        shape = (rows, num_bytes // rows)
        writer.add_tensor_info(
            name, shape, np.dtype(np.uint8), num_bytes, raw_dtype=gguf.GGMLQuantizationType[kind.name]
        )


def _num_bytes(tensor: TensorSpec, kind: GgufType) -> int:
    if tensor.kind is TensorKind.NORM:
        return 4 * tensor.num_elements
    if kind is GgufType.F16:
        return 2 * tensor.num_elements
    if tensor.shape[1] % BLOCK:
        raise ModelLoadError(
            say("Rows of {length} weights cannot be cut into blocks of {block}.", length=tensor.shape[1], block=BLOCK),
            hint=say("Write this model as f16."),
        )
    return tensor.num_elements // BLOCK * _BLOCK_BYTES[kind]


def _packed(merged: Merged, tensor: TensorSpec, kind: GgufType) -> "NDArray[Any]":
    """Return a tensor as it is written, packed piece by piece, each compared with its source."""
    import numpy as np

    pieces = [_pack(tensor, merged.read(tensor.name, part), kind) for part in row_slices(tensor)]
    merged.release(tensor.name)
    return np.concatenate(pieces)


def _pack(tensor: TensorSpec, values: "NDArray[np.float32]", kind: GgufType) -> "NDArray[Any]":
    import gguf
    import numpy as np

    if not np.isfinite(values).all():
        raise ModelLoadError(
            say("The tensor {name} holds numbers that are not finite.", name=tensor.name),
            hint=say("The file is damaged, or training went wrong: fetch or train the model again."),
        )
    if tensor.kind is TensorKind.NORM:
        return values
    packing = gguf.GGMLQuantizationType[kind.name]
    with np.errstate(over="ignore"):  # then it is infinite, and the comparison tells
        packed: NDArray[Any] = gguf.quants.quantize(values, packing)
    error = np.abs(gguf.quants.dequantize(packed, packing).reshape(values.shape) - values)
    found = float((error / _allowed(values, kind)).max())
    if not found <= ROOM:
        raise ConversionError(
            say(
                "The tensor {name} differs from its source by {found:.3g} times what {kind} allows.",
                name=tensor.name,
                found=found,
                kind=kind.value,
            ),
            hint=say("A weight is beyond the format; write q8_0 instead of f16, or keep safetensors."),
        )
    return packed


def _allowed(values: "NDArray[np.float32]", kind: GgufType) -> "NDArray[Any]":
    """Return by how much each number may differ after packing."""
    import numpy as np

    if kind is GgufType.F16:
        return np.abs(values) * _HALF_DIGIT + _HALF_LEAST
    peaks = np.abs(values.reshape(-1, BLOCK)).max(axis=1, keepdims=True)
    by_block = peaks / _PARTS[kind] + peaks * _HALF_DIGIT + 127 * _HALF_LEAST  # and the scale's own rounding
    return np.broadcast_to(by_block, (by_block.size, BLOCK)).reshape(values.shape)


def write_ollama(folder: Path, gguf: Path, *, context_tokens: int, num_labels: int = 0) -> Path:
    """Write the `Modelfile` for a GGUF file that lies in `folder`; returns its path."""
    path = folder / "Modelfile"
    path.write_text(modelfile(gguf.name, context_tokens=context_tokens, num_labels=num_labels), encoding="utf-8")
    return path


def facts_of(path: Path) -> dict[str, Any]:
    """Return what a GGUF file says of itself: its fields, without the long lists, and the type of each tensor.

    Raises:
        ModelLoadError: It is no GGUF file, or damaged.
    """
    check_installed()
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, OSError, IndexError) as error:
        raise ModelLoadError(
            say("{path} is no GGUF file, or damaged: {error}.", path=str(path), error=str(error)),
            hint=say("Export it again."),
        ) from error
    fields = {
        name: field.contents()
        for name, field in reader.fields.items()
        if gguf.GGUFValueType.ARRAY not in field.types and not name.startswith("GGUF.")
    }
    return {"fields": fields, "tensors": {each.name: each.tensor_type.name.lower() for each in reader.tensors}}
