"""What a model reads of a call when it is asked for its class; the same in training, evaluation, export and service.

    instruction, legend (if any), the rendered call, question  ->  the next token is the class's code

The template is the one without thinking, so the code is the very next token. What is the same for all calls comes
first, so that engines compute it once. A model that was fine-tuned knows the classes by heart and needs no legend; one
that was not is told every code with its class.

`PROMPT_HASH` names this form. Artefacts keep it, and a model is only asked in the form in which it was taught.
"""

import hashlib
import json
from collections.abc import Mapping

from qwenops.calls.classes import Taxonomy
from qwenops.calls.render import SHORTEST, TEMPLATE_HASH, RenderOptions, language_of, render
from qwenops.calls.schema import Call
from qwenops.classify.codes import code_of
from qwenops.errors import ConfigError, InvalidDataError
from qwenops.generation import Message, Messages
from qwenops.models.tokenizer import Tokenizer
from qwenops.text import Language, say

VERSION = 1
"""Counts up when the same call gives another prompt."""
INSTRUCTIONS: Mapping[Language, str] = {
    "zh": "下面是一通客服电话的文字记录。判断它属于哪一类，只回答类别代码。",
    "en": "Below is the transcript of a call to customer service. Decide its class and answer with the code alone.",
}
QUESTIONS: Mapping[Language, str] = {"zh": "类别代码：", "en": "Code of the class:"}
CHARS_PER_TOKEN = 8
"""No text that means anything has more; longer ones are cut by characters first, which is cheaper."""

PROMPT_HASH = hashlib.sha256(
    json.dumps(
        {
            "version": VERSION,
            "instructions": dict(INSTRUCTIONS),
            "questions": dict(QUESTIONS),
            "chars_per_token": CHARS_PER_TOKEN,
            "render": TEMPLATE_HASH,
        },
        sort_keys=True,
    ).encode()
).hexdigest()
"""Of the form, whatever the budget and the legend."""


def prompt_hash(*, budget_tokens: int, legend: str = "") -> str:
    """Return what two askings must have in common to be comparable, as hex."""
    return hashlib.sha256(f"{PROMPT_HASH}\n{budget_tokens}\n{legend}".encode()).hexdigest()


def legend_of(taxonomy: Taxonomy, language: Language) -> str:
    """Return the classes of a taxonomy, one a line with its code: for a model that was not taught them."""
    lines = []
    for leaf, code in code_of(taxonomy.leaves).items():
        described = taxonomy.class_of(leaf).description.said(language)
        name = taxonomy.name_of(leaf, language)
        lines.append(f"{code} {name}：{described}" if described else f"{code} {name}")
    return "\n".join(lines)


def prompt_ids(call: Call, tokenizer: Tokenizer, *, budget_tokens: int, legend: str = "") -> tuple[int, ...]:
    """Return the tokens of a prompt; of a call that is too long the middle is left out.

    Args:
        call: It should be redacted already.
        tokenizer: Of the model that is asked.
        budget_tokens: The longest prompt.
        legend: As `legend_of` makes it; empty for a model that knows the classes.

    Raises:
        ConfigError: The budget leaves no room for a call.
        InvalidDataError: Nobody says anything in the call.
    """
    language = language_of(call)
    room = budget_tokens - len(_framed("", tokenizer, language, legend))
    while room >= SHORTEST:
        options = RenderOptions(max_chars=CHARS_PER_TOKEN * room, max_tokens=room)
        text = render(call, options, num_tokens=lambda text: len(tokenizer.encode(text, control=False)))
        if not text:
            raise InvalidDataError(
                say("Nobody says anything in the call {call}.", call=call.conversation_id),
                hint=say("`qwenops calls validate` lists all such calls."),
            )
        ids = _framed(text, tokenizer, language, legend)
        if len(ids) <= budget_tokens:
            return ids
        room -= len(ids) - budget_tokens  # where two texts meet, tokens may be cut differently
    raise ConfigError(
        say("A prompt of {budget} tokens leaves no room for a call.", budget=budget_tokens),
        hint=say("Allow longer prompts, or describe fewer classes."),
    )


def _framed(text: str, tokenizer: Tokenizer, language: Language, legend: str) -> tuple[int, ...]:
    parts = [INSTRUCTIONS[language], legend, text, QUESTIONS[language]]
    content = "\n\n".join(part for part in parts if part)
    return tokenizer.render(Messages(messages=(Message(role="user", content=content),), enable_thinking=False)).ids
