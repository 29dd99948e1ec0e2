"""A checkpoint of Qwen3 as a GGUF file, with its true tokenizer, so that llama.cpp can open it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from qwenops.models.checkpoint import open_checkpoint

BOS, EOS = 151_643, 151_645
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def write_gguf(checkpoint: Path, target: Path) -> None:
    """Write the model in `checkpoint` to the file `target`: matrices in 16 bits, the rest in 32."""
    import gguf

    config = json.loads((checkpoint / "config.json").read_text())
    layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(target, "qwen3")
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_rope_freq_base(float(theta))
    _add_tokenizer(writer, checkpoint, config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    with_entries = open_checkpoint(checkpoint)
    for name in with_entries.entries:
        if name == "lm_head.weight":
            continue  # tied to the table of embeddings
        values = with_entries.read(name)
        kept = values.astype(np.float32) if values.ndim == 1 else values.astype(np.float16)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, checkpoint: Path, vocab_size: int) -> None:
    told = json.loads((checkpoint / "tokenizer.json").read_text())
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    kinds = [_UNUSED] * vocab_size
    for token, number in told["model"]["vocab"].items():
        tokens[number], kinds[number] = token, _NORMAL
    for each in told["added_tokens"]:
        tokens[each["id"]] = each["content"]
        kinds[each["id"]] = _CONTROL if each["special"] else _USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = told["model"]["merges"]
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(BOS)
    writer.add_add_bos_token(value=False)
    writer.add_chat_template((checkpoint / "chat_template.jinja").read_text())
