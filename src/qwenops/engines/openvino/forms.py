"""Which arithmetic reads prompts and which writes answers: asked of the machine, not assumed.

bf16 is the faster arithmetic for prompts where the processor has it, and on processors with AMX f32 is the faster one
for answers, by up to 1.8 times; on others one form is best at both, and a second would only cost memory. So both
are compiled, compared for sanity, timed for a second, and what is not needed is dropped. A form whose logits are not
finite, or are absurd beside those of f32, is never used.

The format of the KV cache is asked of the machine too: u8 takes the least memory, and bf16 need not be unpacked, but
only bf16 arithmetic can use it. Where memory has room for both, what answers a long call sooner is kept.
"""

import math
import time
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwenops.engines.openvino.blocks import blocks_for
from qwenops.engines.openvino.paged import (
    CompileOptions,
    Form,
    compile_form,
    has_bf16,
    read_paged_model,
)
from qwenops.engines.openvino.runner import Runner
from qwenops.engines.openvino.scheduler import Piece, Tracked
from qwenops.errors import ConfigError, ModelLoadError
from qwenops.hardware.allocator import give_memory_back
from qwenops.models.spec import KvPrecision, Precision
from qwenops.text import Report, say

Wanted = Literal["auto", "bf16", "f32"]

ABSURD = 0.5
"""Relative difference of logits at which a form counts as broken; bf16 and quantised activations stay below 0.2."""
WORTH = 1.12
"""How much faster a second form must be at its work to be worth its memory."""
PROMPT_TOKENS = 256
SMALL_STEPS = (1, 8, 32)
"""Tokens of the steps that are timed beside a prompt's."""
LONG_TOKENS = 512
"""What 8 sequences have behind them when the formats of the KV cache are compared."""
CALL_PROMPT_TOKENS, CALL_ANSWER_TOKENS = 500, 100
"""The call that they are compared by."""
WORTH_MEMORY = 1.04
"""How much sooner the larger cache must answer such a call."""

_PRECISIONS: Mapping[KvPrecision, tuple[Precision, ...]] = {"u8": ("f32", "bf16"), "bf16": ("bf16",), "f32": ("f32",)}
"""Which arithmetic OpenVINO's attention kernels accept over which cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """What was chosen, and why."""

    prefill: Form
    decode: Form
    decode_up_to: int
    """Steps of up to so many tokens are for the decode form."""
    reason: str
    kv_precision: KvPrecision
    kv_reason: str
    prompt_tokens_per_s: float
    call_s: float
    """Of a long call, one of 8 at a time: 500 tokens read and 100 written."""

    @property
    def count(self) -> int:
        """One or two."""
        return 1 if self.prefill is self.decode else 2


Clock = Callable[[], float]


def open_forms(
    options: CompileOptions,
    *,
    prefill: Wanted = "auto",
    decode: Wanted = "auto",
    kv_choices: Sequence[KvPrecision] = (),
    room_for: int = 3,
    clock: Clock = time.perf_counter,
    report: Report = lambda _progress, _doing: None,
) -> Forms:
    """Compile what may be needed, compare, time, choose; the rest is dropped.

    Args:
        options: What all forms have in common.
        prefill: Arithmetic for prompts.
        decode: Arithmetic for answers.
        kv_choices: Formats of the KV cache to choose from, the smallest first; none means the one of `options`.
        room_for: How many forms fit the memory at a time.
        clock: Seconds that never go back.
        report: Takes progress and what is being done.

    Raises:
        ConfigError: The options contradict each other, the processor or the memory.
        ModelLoadError: The model cannot be compiled, or computes nonsense in every arithmetic.
    """
    choices = tuple(kv_choices) or (options.kv_precision,)
    first = replace(options, kv_precision=choices[0])
    best = _open_over(first, prefill, decode, room_for=room_for, clock=clock, report=report)
    for kv_precision in choices[1:]:
        if not _possible(kv_precision, (prefill, decode)) or room_for <= best.count:
            continue
        report(0.8, say("Trying a KV cache in {kv}.", kv=kv_precision))
        other = _open_over(
            replace(options, kv_precision=kv_precision), prefill, decode, room_for=1, clock=clock, report=_quiet
        )
        best = _better(best, other)
        del other
        give_memory_back()
    return best


def _quiet(_progress: float, _doing: str) -> None:
    """Report nothing: progress does not go back."""


def _better(small: Forms, large: Forms) -> Forms:
    """Return the one that is worth its memory, with the reason."""
    taken = large if small.call_s > WORTH_MEMORY * large.call_s else small
    reason = say(
        "Measured here: a long call takes {small_s} s over {small} and {large_s} s over {large}, 8 at a time.",
        small_s=f"{small.call_s:.2f}",
        small=small.kv_precision,
        large_s=f"{large.call_s:.2f}",
        large=large.kv_precision,
    )
    return replace(taken, kv_reason=reason)


def _open_over(
    options: CompileOptions, prefill: Wanted, decode: Wanted, *, room_for: int, clock: Clock, report: Report
) -> Forms:
    """Open the best forms over one format of the KV cache."""
    allowed = _allowed(options.kv_precision, (prefill, decode))
    wanted, note = _wanted(allowed, prefill, decode, room_for)
    report(0.1, say("Reading the model."))
    model = read_paged_model(options.model_xml)
    forms: dict[Precision, Form] = {}
    for at, precision in enumerate(wanted):
        report(0.2 + 0.25 * at, say("Compiling the model for {precision}.", precision=precision))
        forms[precision] = compile_form(model, precision, options)
    del model
    give_memory_back()
    report(0.75, say("Comparing and timing."))
    note = _drop_broken(forms, asked={prefill, decode} - {"auto"}) or note
    times = {precision: _time(form, clock) for precision, form in forms.items()}
    chosen = _choose(times, prefill, decode)
    reading, writing = times[chosen[0]], forms[chosen[1]]
    prompt_tokens_per_s = PROMPT_TOKENS / reading[PROMPT_TOKENS]
    result = Forms(
        prefill=forms[chosen[0]],
        decode=writing,
        decode_up_to=_decode_up_to(times, chosen),
        reason=note or _reason(times, chosen, prefill, decode),
        kv_precision=options.kv_precision,
        kv_reason="",
        prompt_tokens_per_s=prompt_tokens_per_s,
        call_s=CALL_PROMPT_TOKENS / prompt_tokens_per_s + CALL_ANSWER_TOKENS * _time_long(writing, clock) / 8,
    )
    del forms
    give_memory_back()
    return result


def _wanted(
    allowed: Sequence[Precision], prefill: Wanted, decode: Wanted, room_for: int
) -> tuple[list[Precision], str]:
    """Return what to compile, and why it is less than could be."""
    wanted = [each for each in allowed if "auto" in (prefill, decode) or each in (prefill, decode)]
    if room_for > 1 or len(wanted) == 1:
        return wanted, ""
    asked = [each for each in wanted if each in (prefill, decode)]
    if len(asked) > 1:
        raise ConfigError(
            say(
                "Memory allows one compiled form of the model; the options ask for two ({prefill} and {decode}).",
                prefill=prefill,
                decode=decode,
            ),
            hint=say("Set prefill_precision and decode_precision to the same, or raise the memory limit."),
        )
    only = asked[0] if asked else ("bf16" if "bf16" in wanted else wanted[0])
    return [only], say("Memory allows one compiled form of the model: {precision}.", precision=only)


def _possible(kv_precision: KvPrecision, asked: tuple[Wanted, Wanted]) -> bool:
    allowed = _PRECISIONS[kv_precision]
    return ("bf16" not in allowed or has_bf16()) and all(each in ("auto", *allowed) for each in asked)


def _allowed(kv_precision: KvPrecision, asked: tuple[Wanted, Wanted]) -> tuple[Precision, ...]:
    allowed = _PRECISIONS[kv_precision]
    if not has_bf16():
        allowed = tuple(each for each in allowed if each != "bf16")
    for each in asked:
        if each != "auto" and each not in allowed:
            raise ConfigError(
                say(
                    "{precision} arithmetic is not possible here over a KV cache in {kv}; possible: {allowed}.",
                    precision=each,
                    kv=kv_precision,
                    allowed=", ".join(allowed) or "-",
                ),
                hint=say("Leave prefill_precision, decode_precision and kv_precision at their defaults."),
            )
    if not allowed:
        raise ConfigError(
            say("A KV cache in {kv} needs a processor with bf16 arithmetic.", kv=kv_precision),
            hint=say("Use kv_precision u8."),
        )
    return allowed


def _drop_broken(forms: dict[Precision, Form], asked: Collection[Wanted]) -> str:
    """Compute a short prompt in every form and remove those that disagree absurdly; say so."""
    logits = {precision: _probe(form, form) for precision, form in forms.items()}
    broken = {precision for precision, found in logits.items() if not np.isfinite(found).all()}
    if {"f32", "bf16"} == set(forms) and not broken:
        plain, fast = forms["f32"], forms["bf16"]
        if plain.layout != fast.layout:
            del forms[_not_needed(asked)]
            return say("One form serves both, because the forms lay out the KV cache differently here.")
        # The last row also comes from the f32 form reading what the bf16 form wrote.
        if max(difference(logits["bf16"], logits["f32"]), difference(_probe(fast, plain), logits["f32"])) > ABSURD:
            broken = {"bf16"}
    for precision in broken:
        del forms[precision]
    if not forms or broken & {*asked}:
        raise ModelLoadError(
            say("The model computes nonsense in {precision} on this processor.", precision=", ".join(sorted(broken))),
            hint=say("Verify the model's files; set prefill_precision and decode_precision to f32."),
        )
    return say("{precision} gave nonsense in the self-check and is not used.", precision="bf16") if broken else ""


def _not_needed(asked: Collection[Wanted]) -> Precision:
    """Say which of two forms goes when they cannot share a cache."""
    if {"bf16", "f32"} <= {*asked}:
        raise ConfigError(
            say("The bf16 and the f32 form lay out the KV cache differently on this processor, so one must do."),
            hint=say("Set prefill_precision and decode_precision to the same."),
        )
    return "bf16" if "f32" in asked else "f32"


def difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the length of the difference over the length of what was expected; infinite where not finite."""
    away = found.astype(np.float64) - expected
    relative = float(np.linalg.norm(away) / max(float(np.linalg.norm(expected)), 1e-30))
    return relative if math.isfinite(relative) else math.inf


def _probe(first: Form, then: Form) -> NDArray[np.float32]:
    """Return the logits after a short prompt in one form, and after one more token in another."""
    runner = _small_runner(first, then)
    sequence = _sequence(45)
    rows = [
        runner.run_in(first, [Piece(sequence, 0, 44, wants_row=True)]).copy(),
        runner.run_in(then, [Piece(sequence, 44, 1, wants_row=True)]).copy(),
    ]
    return np.concatenate(rows)


def _time(form: Form, clock: Clock) -> dict[int, float]:
    """Return the seconds of a step by its number of tokens: a prompt, and small ones."""
    runner = _small_runner(form, form)
    times = {
        count: _best(
            runner,
            form,
            [Piece(_sequence(64, first_block=2 * at), 63, 1, wants_row=True) for at in range(count)],
            clock,
            repeat=4,
        )
        for count in SMALL_STEPS
    }
    prompt = [Piece(_sequence(PROMPT_TOKENS), 0, PROMPT_TOKENS, wants_row=True)]
    return times | {PROMPT_TOKENS: _best(runner, form, prompt, clock, repeat=2)}


def _time_long(form: Form, clock: Clock) -> float:
    """Return the seconds of a step of 8 sequences that have a call behind them."""
    runner = _small_runner(form, form)
    runner.touch()
    each = blocks_for(LONG_TOKENS)
    pieces = [
        Piece(_sequence(LONG_TOKENS, first_block=each * at), LONG_TOKENS - 1, 1, wants_row=True) for at in range(8)
    ]
    return _best(runner, form, pieces, clock, repeat=4)


def _best(runner: Runner, form: Form, pieces: Sequence[Piece], clock: Clock, *, repeat: int) -> float:
    runner.run_in(form, pieces)
    best = math.inf
    for _ in range(repeat):
        begun = clock()
        runner.run_in(form, pieces)
        best = min(best, clock() - begun)
    return best


def _small_runner(first: Form, then: Form) -> Runner:
    return Runner(
        first,
        then,
        decode_up_to=1,
        num_blocks=max(2 * max(SMALL_STEPS), 8 * blocks_for(LONG_TOKENS)),
        context_tokens=LONG_TOKENS,
        max_tokens=PROMPT_TOKENS,
        max_sequences=max(SMALL_STEPS),
    )


def _sequence(length: int, first_block: int = 0) -> Tracked:
    sequence = Tracked("", [11 + 37 * each % 997 for each in range(length)])
    sequence.blocks = array("i", range(first_block, first_block + blocks_for(length)))
    return sequence


Times = Mapping[Precision, Mapping[int, float]]


def _choose(times: Times, prefill: Wanted, decode: Wanted) -> tuple[Precision, Precision]:
    """Return the arithmetic for prompts and for answers."""
    # Answers matter at 1 sequence and at 8.
    decoding = {each: math.sqrt(found[1] * found[8]) for each, found in times.items()}
    reading = {each: found[PROMPT_TOKENS] for each, found in times.items()}
    best_prefill = min(reading, key=reading.__getitem__) if prefill == "auto" else prefill
    best_decode = min(decoding, key=decoding.__getitem__) if decode == "auto" else decode
    if best_prefill == best_decode or "auto" not in (prefill, decode):
        return best_prefill, best_decode
    singles = [each for each in times if prefill in ("auto", each) and decode in ("auto", each)]
    singles.sort(key=lambda each: reading[each] * decoding[each])
    for each in singles:
        if reading[each] < WORTH * reading[best_prefill] and decoding[each] < WORTH * decoding[best_decode]:
            return each, each
    return best_prefill, best_decode


def _decode_up_to(times: Times, chosen: tuple[Precision, Precision]) -> int:
    """Return the most tokens at which the decode form is the faster one."""
    prefill, decode = (times[each] for each in chosen)
    return max((count for count in SMALL_STEPS if decode[count] <= prefill[count]), default=1)


def _reason(times: Times, chosen: tuple[Precision, Precision], prefill: Wanted, decode: Wanted) -> str:
    if "auto" not in (prefill, decode):
        return say("The options say so.")
    if len(times) == 1:
        return say("Only {precision} is possible here.", precision=chosen[0])
    figures: dict[str, Any] = {}
    for name, found in times.items():
        figures[f"{name}_prompt"] = f"{PROMPT_TOKENS / found[PROMPT_TOKENS]:.0f}"
        figures[f"{name}_decode"] = f"{8 / found[8]:.0f}"
    template = (
        "Measured here: bf16 reads {bf16_prompt} and writes {bf16_decode} tokens/s (8 at a time), "
        "f32 reads {f32_prompt} and writes {f32_decode}."
    )
    return say(template, **figures)
