"""Calls made for the tests of training: four classes, each known by words that only its calls have."""

import random
from dataclasses import replace
from pathlib import Path

from qwenops.calls.classes import Taxonomy
from qwenops.calls.schema import Call, Label, LabelSource, Redaction, Role, Turn
from qwenops.calls.taxonomy import load

SOURCE = Path(__file__).parent / "made.yaml"
TAXONOMY: Taxonomy = load(SOURCE)

Pair = tuple[Call, Label]

_WORDS = {
    "billing.fee": ("多扣了钱", "话费不对", "扣费"),
    "network.down": ("宽带断了", "没有信号", "上不了网"),
    "service.rude": ("态度差", "挂我电话", "骂人"),
    "inquiry": ("几点开门", "怎么办理", "问一下"),
}
_FILLERS = ("嗯", "那个", "就是说", "我跟你讲", "麻烦你了", "昨天也打过", "等了半天")


def pairs(count: int, *, seed: int, noise: float = 0.0) -> list[Pair]:
    """Return labelled calls; the same seed gives the same ones. `noise` is the share of wrong labels."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        leaf = TAXONOMY.leaves[number % len(TAXONOMY.leaves)]
        said = [rng.choice(_FILLERS) for _ in range(rng.randint(1, 8))]
        said.insert(rng.randrange(len(said) + 1), rng.choice(_WORDS[leaf]))
        turns = (
            Turn(role=Role.AGENT, text="您好，请讲。"),
            Turn(role=Role.CUSTOMER, text="，".join(said)),
            Turn(role=Role.AGENT, text="好的。"),
        )
        call = Call(conversation_id=f"s{seed}-{number}", turns=turns, lang="zh", redaction=Redaction(version="zh-1"))
        wrong = rng.random() < noise
        label = Label(
            conversation_id=call.conversation_id,
            taxonomy=TAXONOMY.ref,
            primary=rng.choice(TAXONOMY.leaves) if wrong else leaf,
            source=LabelSource.SYNTHETIC,
            weight=0.5 if number % 5 == 4 else 1.0,
        )
        found.append((call, label))
    return found


def unredacted(pair: Pair) -> Pair:
    """Return a call from which nothing has removed personal data."""
    return replace(pair[0], redaction=None), pair[1]
