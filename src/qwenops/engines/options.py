"""What an engine can be told. One object for all engines; each reads what concerns it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwenops.options import Unit, option


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to run one model. 0 for a number means: decide from this machine, and say why."""

    model_dir: Path = Path()
    """Folder of the model; no option, because whoever prepares the model knows it."""
    model_name: str = option("", help="Name it is served under; empty is its own, or its folder's.", flag=False)
    url: str = option("", help="Address of the server that computes, for the engines openai and ollama.", flag=False)
    api_key: str = option("", help="Key for that server.", secret=True)
    context_tokens: int = option(
        8192, help="Longest prompt and answer together.", unit=Unit.TOKENS, minimum=64, maximum=40960
    )
    max_running: int = option(16, help="Requests computed at the same time; the rest wait.", minimum=1, maximum=256)
    max_batched_tokens: int = option(
        512,
        help="Tokens computed in one step; long prompts are cut into pieces of it.",
        unit=Unit.TOKENS,
        minimum=32,
        maximum=8192,
        flag=False,
    )
    kv_cache_bytes: int = option(
        0, help="Memory for the KV cache; 0 chooses from the memory limit.", unit=Unit.BYTES, minimum=0
    )
    kv_precision: Literal["auto", "u8", "bf16", "f32"] = option(
        "auto",
        help="Number format of the KV cache; auto takes u8, or bf16 where there is memory for it and it is faster.",
        choices=("auto", "u8", "bf16", "f32"),
        flag=False,
    )
    prefill_precision: Literal["auto", "bf16", "f32"] = option(
        "auto", help="Arithmetic while reading prompts.", choices=("auto", "bf16", "f32"), flag=False
    )
    decode_precision: Literal["auto", "bf16", "f32"] = option(
        "auto", help="Arithmetic while writing answers.", choices=("auto", "bf16", "f32"), flag=False
    )
    dynamic_quantization: bool = option(
        True, help="Let activations be quantised on the fly where weights are int8 or int4.", flag=False
    )
    threads: int = option(
        0, help="Threads that compute; 0 uses the cores this process may really use.", minimum=0, maximum=1024
    )
    prefix_cache: bool = option(True, help="Reuse the KV cache of equal beginnings.")
    stall_timeout_s: float = option(
        60.0,
        help="A computing step that takes longer counts as frozen; the engine is restarted.",
        unit=Unit.SECONDS,
        minimum=1.0,
        flag=False,
    )
    load_timeout_s: float = option(
        600.0, help="Longest time for loading the model.", unit=Unit.SECONDS, minimum=1.0, flag=False
    )
