"""Eight made-up calls that show whether a saved model still says what it said when it was saved.

They are no customer's, so an artefact can carry them with the logits that it gave. `fingerprint` says by them whether a
tokenizer and a template still make the same tokens of a call.
"""

import hashlib

from qwenops.calls.schema import Call, Role, Turn
from qwenops.classify.prompt import prompt_ids
from qwenops.models.tokenizer import Tokenizer

_SPOKEN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("zh", ("您好，请问有什么可以帮您？", "我这个月话费多扣了二十块，你给我查查怎么回事。", "好的，我帮您登记核实。")),
    ("zh", ("您好。", "家里宽带从昨天晚上就断了，灯是红的，重启也没用。", "我帮您约师傅上门。")),
    ("zh", ("请讲。", "我就想问一下，你们营业厅周末几点开门？", "九点。")),
    ("zh", ("您好，请说。", "上次那个人说话态度太差了，还挂我电话。", "非常抱歉。")),
    ("zh", ("您好。", "我没开过这个彩铃啊，谁给我开通的？退钱！", "我看一下记录。")),
    ("en", ("How can I help?", "I was charged twice for the same parcel and want my money back.", "Let me look.")),
    ("en", ("Good morning.", "The signal in my street has been gone for a week.", "I will open a ticket.")),
    ("en", ("Hello.", "Just checking when my contract ends, thank you.", "In March.")),
)

GOLDEN_CALLS: tuple[Call, ...] = tuple(
    Call(
        conversation_id=f"golden-{number}",
        lang=language,
        turns=tuple(
            Turn(role=Role.CUSTOMER if place % 2 else Role.AGENT, text=text) for place, text in enumerate(texts)
        ),
    )
    for number, (language, texts) in enumerate(_SPOKEN)
)


def golden_prompts(tokenizer: Tokenizer, *, budget_tokens: int, legend: str = "") -> tuple[tuple[int, ...], ...]:
    """Return the prompts of the golden calls.

    Raises:
        ConfigError: The budget leaves no room for a call.
    """
    return tuple(prompt_ids(call, tokenizer, budget_tokens=budget_tokens, legend=legend) for call in GOLDEN_CALLS)


def fingerprint(tokenizer: Tokenizer, *, budget_tokens: int, legend: str = "") -> str:
    """Return a hash of the golden calls' prompts: of tokenizer, chat template and the form of the prompt together.

    Raises:
        ConfigError: The budget leaves no room for a call.
    """
    digest = hashlib.sha256()
    for ids in golden_prompts(tokenizer, budget_tokens=budget_tokens, legend=legend):
        digest.update(" ".join(map(str, ids)).encode() + b"\n")
    return digest.hexdigest()
