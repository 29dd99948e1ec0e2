"""Calls for tests of texts, parts and leaks: short to write, with what the test is about."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from qwenops.calls.schema import Call, Label, Redaction, Role, Turn

ROLES = {"a": Role.AGENT, "c": Role.CUSTOMER, "i": Role.IVR, "u": Role.UNKNOWN}
START = datetime(2026, 1, 1, tzinfo=UTC)


def call(
    name: str,
    *said: str,
    customer: str = "",
    agent: str = "",
    day: float | None = None,
    lang: str = "zh",
    redacted: dict[str, int] | None = None,
) -> Call:
    """Return a call; each saying begins with who speaks: `c:我要投诉`."""
    turns = tuple(Turn(role=ROLES[each[0]], text=each[2:]) for each in said)
    return Call(
        conversation_id=name,
        turns=turns,
        customer_id=customer,
        agent_id=agent,
        lang=lang,
        started_at=None if day is None else START + timedelta(days=day),
        redaction=None if redacted is None else Redaction(version="zh-1", counts=redacted),
    )


def label(name: str, primary: str, *, weight: float = 1.0, taxonomy: str = "t@1") -> Label:
    """Return what somebody says about a call."""
    return Label(conversation_id=name, taxonomy=taxonomy, primary=primary, weight=weight)


def sentence(seed: object, length: int = 200) -> str:
    """Return Chinese characters by chance, which no other seed gives."""
    dice = random.Random(str(seed))
    return "".join(chr(dice.randrange(0x4E00, 0x9F00)) for _ in range(length))


def garbled(text: str, seed: object, every: int) -> str:
    """Return a text in which about one character in `every` is another one."""
    dice = random.Random(str(seed))
    return "".join(chr(dice.randrange(0x4E00, 0x9F00)) if not dice.randrange(every) else each for each in text)


def jaccard(one: str, other: str, width: int = 5) -> float:
    """Return how many runs of characters two texts have in common, of all that either has."""
    runs = [{text[first : first + width] for first in range(len(text) - width + 1)} for text in (one, other)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def many(
    count: int, codes: Sequence[str], *, customers: int = 0, days: float | None = None
) -> tuple[list[Call], list[Label]]:
    """Return so many calls with texts of their own, classes and customers by chance, in the order of time if any."""
    dice = random.Random(count)
    calls = [
        call(
            f"c{number}",
            f"c:{sentence(number, 40)}",
            customer=f"h:{dice.randrange(customers)}" if customers else "",
            day=None if days is None else number * days / count,
        )
        for number in range(count)
    ]
    return calls, [label(each.conversation_id, dice.choice(codes)) for each in calls]
