"""The shape of a Qwen3 model, and what follows from it: parameters, bytes, floating-point operations, memory.

Everything here is arithmetic on a dozen numbers of `config.json`; no file is opened and no library is loaded. Linear
weights are stored `[out, in]`, as checkpoints have them. One multiply-add counts as two operations (FLOP).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self, assert_never

from qwenops.errors import ModelLoadError, UnsupportedModelError
from qwenops.text import say

KvPrecision = Literal["u8", "bf16", "f32"]
Precision = Literal["bf16", "f32"]
"""What products are computed in."""

KV_BLOCK_TOKENS = 32
"""Tokens that one block of the paged KV cache holds."""
GROUP_SIZES = (128, 64)
"""Sizes of an int4 group, best first; the first that divides a row's length is taken."""
EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
"""Names of the tensors that belong to no layer; the head is missing where it is the embedding's table."""


class Scheme(StrEnum):
    """How the weights of a converted model are stored."""

    F32 = "f32"
    BF16 = "bf16"
    INT8 = "int8"
    """Every matrix int8 with one scale for each output channel."""
    INT4 = "int4"
    """Linear layers int4 with one scale for each group of a row; embedding and head as in int8."""


class TensorKind(StrEnum):
    """What a tensor does, which decides how it is stored."""

    EMBEDDING = "embedding"
    HEAD = "head"
    LINEAR = "linear"
    NORM = "norm"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor that a checkpoint of this shape must have."""

    name: str
    shape: tuple[int, ...]
    kind: TensorKind

    @property
    def num_elements(self) -> int:
        """Count the elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Resident memory of the process that computes, in bytes, by what it is spent on."""

    weights_bytes: int
    kv_bytes: int
    activation_bytes: int
    runtime_bytes: int

    @property
    def total_bytes(self) -> int:
        """Sum the parts."""
        return self.weights_bytes + self.kv_bytes + self.activation_bytes + self.runtime_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The numbers that define a Qwen3 model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context_tokens: int = 40960
    rope_theta: float = 1_000_000.0
    rms_eps: float = 1e-6
    tie_word_embeddings: bool = True
    eos_token_ids: tuple[int, ...] = (151645, 151643)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> Self:
        """Read the numbers of a `config.json`, and the end-of-text tokens of a `generation_config.json` if given.

        Raises:
            UnsupportedModelError: It describes another architecture, or a variant that this project does not compute.
            ModelLoadError: A number is missing or makes no sense.
        """
        _refuse_other_architectures(config)
        generation = generation or {}
        spec = cls(
            vocab_size=_positive(config, "vocab_size"),
            hidden_size=_positive(config, "hidden_size"),
            intermediate_size=_positive(config, "intermediate_size"),
            num_layers=_positive(config, "num_hidden_layers"),
            num_heads=_positive(config, "num_attention_heads"),
            num_kv_heads=_positive(config, "num_key_value_heads"),
            head_dim=_positive(config, "head_dim"),
            max_context_tokens=_positive(config, "max_position_embeddings"),
            rope_theta=_rope_theta(config),
            rms_eps=_number(config, "rms_norm_eps", 1e-6),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", True)),
            eos_token_ids=_eos_token_ids(generation.get("eos_token_id", config.get("eos_token_id"))),
        )
        _check_consistency(spec)
        return spec

    def to_config(self, *, dtype: str = "bfloat16") -> dict[str, Any]:
        """Return the `config.json` of this shape, as the published models have it."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "eos_token_id": self.eos_token_ids[0],
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_context_tokens,
            "model_type": "qwen3",
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": self.rms_eps,
            "rope_scaling": None,
            "rope_theta": self.rope_theta,
            "sliding_window": None,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocab_size,
        }

    def tensors(self) -> Iterator[TensorSpec]:
        """Yield every tensor that a checkpoint must have, in the order of the computation."""
        yield TensorSpec(name=EMBEDDING, shape=(self.vocab_size, self.hidden_size), kind=TensorKind.EMBEDDING)
        for layer in range(self.num_layers):
            yield from self.layer_tensors(layer)
        yield TensorSpec(name=FINAL_NORM, shape=(self.hidden_size,), kind=TensorKind.NORM)
        if not self.tie_word_embeddings:
            yield TensorSpec(name=HEAD, shape=(self.vocab_size, self.hidden_size), kind=TensorKind.HEAD)

    def layer_tensors(self, layer: int) -> Iterator[TensorSpec]:
        """Yield the tensors of one layer."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.q_norm": (self.head_dim,),
            "self_attn.k_norm": (self.head_dim,),
            "self_attn.o_proj": (hidden, queries),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        for name, shape in shapes.items():
            kind = TensorKind.LINEAR if len(shape) == 2 else TensorKind.NORM  # noqa: PLR2004 -- a matrix
            yield TensorSpec(name=f"model.layers.{layer}.{name}.weight", shape=shape, kind=kind)

    @property
    def num_parameters(self) -> int:
        """Count all parameters; a tied head counts once."""
        return sum(tensor.num_elements for tensor in self.tensors())

    @property
    def num_linear_parameters(self) -> int:
        """Count the parameters of the layers' matrices, which every token is multiplied with."""
        return sum(tensor.num_elements for tensor in self.tensors() if tensor.kind is TensorKind.LINEAR)

    @property
    def kv_elements_per_token(self) -> int:
        """Count the numbers that one token leaves in the KV cache."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    def kv_bytes_per_token(self, precision: KvPrecision) -> int:
        """Return the bytes of the KV cache for one token, scales included.

        In u8, keys have a scale and a zero point (4 bytes each) for each channel of a block, values for each token.
        """
        match precision:
            case "u8":
                heads = self.num_layers * self.num_kv_heads
                scales = 8
                return heads * (self.head_dim + self.head_dim * scales // KV_BLOCK_TOKENS + self.head_dim + scales)
            case "bf16":
                return 2 * self.kv_elements_per_token
            case "f32":
                return 4 * self.kv_elements_per_token
            case _:
                assert_never(precision)

    def flop_per_token(self, context_tokens: int = 0, *, head: bool = True) -> int:
        """Return the operations for one token that attends to `context_tokens`; decoding needs the head each time."""
        attention = 4 * self.num_layers * self.num_heads * self.head_dim * context_tokens
        last = 2 * self.vocab_size * self.hidden_size if head else 0
        return 2 * self.num_linear_parameters + attention + last

    def weight_bytes(self, scheme: Scheme) -> int:
        """Return the bytes of all weights with their scales; one decoding step reads each of them once."""
        return sum(tensor_bytes(tensor, scheme) for tensor in self.tensors())

    def decode_bytes(self, scheme: Scheme, context_tokens: int = 0, kv_precision: KvPrecision = "u8") -> int:
        """Return the bytes that one decoding step of one sequence reads: weights and KV cache."""
        return self.weight_bytes(scheme) + context_tokens * self.kv_bytes_per_token(kv_precision)

    def estimate_memory(
        self,
        scheme: Scheme,
        *,
        kv_tokens: int,
        kv_precision: KvPrecision = "u8",
        batched_tokens: int = 512,
        forms: int = 2,
    ) -> MemoryEstimate:
        """Estimate the memory that serving this model needs and the system cannot take back.

        Each compiled form holds its own repacked copy of the matrices (beside bf16 weights, a second form computes in
        float32 and repacks to it); the embedding's table exists once more. The mapped file's other pages, read while
        repacking, stay resident only as long as nobody needs their room: at most `weight_bytes` on top.
        """
        table = tensor_bytes(next(self.tensors()), scheme)
        second = Scheme.F32 if scheme is Scheme.BF16 else scheme
        widest = (
            2 * self.intermediate_size + self.hidden_size + (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        )
        return MemoryEstimate(
            weights_bytes=self.weight_bytes(scheme) + (forms - 1) * self.weight_bytes(second) + table,
            kv_bytes=kv_tokens * self.kv_bytes_per_token(kv_precision),
            activation_bytes=forms * 4 * batched_tokens * widest,
            runtime_bytes=RUNTIME_BYTES,
        )


RUNTIME_BYTES = 300 * 1024**2
"""What the interpreter and OpenVINO hold before any model is loaded, with a margin for the allocator."""


def tensor_bytes(tensor: TensorSpec, scheme: Scheme) -> int:
    """Return the bytes of one stored tensor with its scales."""
    if tensor.kind is TensorKind.NORM:
        return 4 * tensor.num_elements
    match scheme:
        case Scheme.F32:
            return 4 * tensor.num_elements
        case Scheme.BF16:
            return 2 * tensor.num_elements
        case Scheme.INT8:
            return tensor.num_elements + 4 * tensor.shape[0]
        case Scheme.INT4:
            if tensor.kind is not TensorKind.LINEAR:
                return tensor.num_elements + 4 * tensor.shape[0]
            return tensor.num_elements // 2 + 2 * (tensor.num_elements // group_size(tensor.shape[1]))
        case _:
            assert_never(scheme)


def group_size(row_length: int) -> int:
    """Return how many weights of a row of `row_length` share one int4 scale.

    Raises:
        ModelLoadError: No supported size divides the row.
    """
    for size in GROUP_SIZES:
        if row_length % size == 0:
            return size
    raise ModelLoadError(
        say(
            "A row of {row_length} weights cannot be cut into int4 groups of {sizes}.",
            row_length=row_length,
            sizes=" / ".join(map(str, GROUP_SIZES)),
        ),
        hint=say("Convert this model to int8 or bf16."),
    )


def _refuse_other_architectures(config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    if model_type != "qwen3":
        raise UnsupportedModelError(
            say("The configuration is for the architecture {model_type!r}, not 'qwen3'.", model_type=model_type),
            hint=say("Use a checkpoint of Qwen3-0.6B or Qwen3-1.7B, or one that was fine-tuned from them."),
        )
    variants: dict[str, tuple[object, ...]] = {
        "hidden_act": ("silu", None),
        "attention_bias": (False, None),
        "use_sliding_window": (False, None),
        "quantization_config": (None,),
    }
    for key, known in variants.items():
        if config.get(key) not in known:
            raise UnsupportedModelError(
                say(
                    "The configuration has {key} = {value!r}, which this graph does not compute.",
                    key=key,
                    value=config[key],
                ),
                hint=say("Use the original bf16 checkpoint of the model."),
            )


def _rope_theta(config: Mapping[str, Any]) -> float:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = "default"
    if isinstance(rope, Mapping):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if "rope_theta" in rope:
            return _known_rope(kind, _number(rope, "rope_theta", 1e6))
    return _known_rope(kind, _number(config, "rope_theta", 1e6))


def _known_rope(kind: object, theta: float) -> float:
    if kind != "default":
        raise UnsupportedModelError(
            say("The configuration scales positions by {kind!r}; only the default rotation is computed.", kind=kind),
            hint=say("Remove `rope_scaling` from config.json; the context is then the model's own."),
        )
    return theta


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ModelLoadError(
            say("The configuration has {key} = {value!r}; a whole number above 0 is needed.", key=key, value=value),
            hint=say("Fetch config.json again; it belongs to the weights."),
        )
    return value


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ModelLoadError(
            say("The configuration has {key} = {value!r}; a number above 0 is needed.", key=key, value=value),
            hint=say("Fetch config.json again; it belongs to the weights."),
        )
    return float(value)


def _eos_token_ids(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    ids = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(each, int) and each >= 0 for each in ids):
        raise ModelLoadError(
            say("The end-of-text tokens are {value!r}; whole numbers are needed.", value=value),
            hint=say("Fetch generation_config.json again."),
        )
    return tuple(ids)


def _check_consistency(spec: ModelSpec) -> None:
    if spec.num_heads % spec.num_kv_heads:
        raise ModelLoadError(
            say(
                "{num_heads} attention heads cannot share {num_kv_heads} key heads evenly.",
                num_heads=spec.num_heads,
                num_kv_heads=spec.num_kv_heads,
            ),
            hint=say("Fetch config.json again; it belongs to the weights."),
        )
    if spec.head_dim % 2:
        raise ModelLoadError(
            say("A head of {head_dim} numbers cannot be rotated in two halves.", head_dim=spec.head_dim),
            hint=say("Fetch config.json again; it belongs to the weights."),
        )


QWEN3_0_6B = ModelSpec(
    vocab_size=151_936,
    hidden_size=1024,
    intermediate_size=3072,
    num_layers=28,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
)
QWEN3_1_7B = ModelSpec(
    vocab_size=151_936,
    hidden_size=2048,
    intermediate_size=6144,
    num_layers=28,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
)
TINY = ModelSpec(
    vocab_size=151_936,
    hidden_size=64,
    intermediate_size=192,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    max_context_tokens=4096,
)
"""For tests: the true vocabulary, everything else as small as the kernels accept."""
