"""A classifier for tests of the service: what it says follows from what the customer says, and it can be promoted."""

import asyncio
from collections.abc import Sequence

from qwenops.calls.redact import redact
from qwenops.calls.schema import Call
from qwenops.errors import EngineCrashedError, InvalidRequestError, ModelLoadError
from qwenops.serve.champion import About, CarriedTurns, Champion, Judgement

LEAVES = ("billing.fee", "network.down", "network.broadband_fault", "safety.threat", "other")
WORDS = {"billing.fee": "多扣", "network.down": "断网", "safety.threat": "炸"}
SECRET = b"a secret for tests only, of any length"


def about(version: str = "1-abc") -> About:
    return About(
        name="complaints",
        ref=f"complaints@{version}",
        taxonomy="made@1",
        classes=LEAVES,
        critical=frozenset({"safety.threat"}),
        axes={"urgency": ("normal", "high")},
        names={"billing.fee": ("多扣费", "Overcharged"), "network.down": ("断网", "No network")},
        budget_tokens=512,
    )


class FakeClassifier:
    """Files a call under the class whose word is said, and leaves to a person what has none or several."""

    def __init__(self, version: str = "1-abc", *, pause_s: float = 0.0) -> None:
        self.about = about(version)
        self.pause_s = pause_s
        self.calls: list[Call] = []
        self.running = 0
        self.closed = 0
        self.crashes = 0

    async def classify(self, calls: Sequence[Call], *, evidence: bool = False) -> Sequence[Judgement]:
        assert not self.closed, "a request came after the end"
        self.running += 1
        try:
            await asyncio.sleep(self.pause_s)
            if self.crashes:
                self.crashes -= 1
                raise EngineCrashedError("The engine died.")
            assert not self.closed, "it was closed while it worked"
            return [self._judged(place, call, evidence=evidence) for place, call in enumerate(calls)]
        finally:
            self.running -= 1

    def _judged(self, place: int, given: Call, *, evidence: bool) -> Judgement:
        if not any(turn.text.strip() for turn in given.turns):
            raise InvalidRequestError("Nobody says anything in the call.", param=f"input[{place}]")
        call = redact(given, secret=SECRET).call
        self.calls.append(call)
        said = "".join(turn.text for turn in call.turns)
        hits = [leaf for leaf, word in WORDS.items() if word in said]
        label = hits[0] if hits else "other"
        p = 0.94 if len(hits) == 1 else 0.4
        rest = (1 - p) / (len(LEAVES) - 1)
        return Judgement(
            call=call,
            label=label,
            path=tuple(dict.fromkeys((label.partition(".")[0], label))),
            p=p,
            probabilities={leaf: p if leaf == label else rest for leaf in LEAVES},
            decision="auto" if len(hits) == 1 else "review",
            threshold=0.8,
            tokens=len(said),
            latency_s=0.01,
            carried=(CarriedTurns(turns=(0,), drop=0.5),) if evidence else None,
        )

    async def aclose(self) -> None:
        assert not self.running, "requests were cut off"
        self.closed += 1


class FakeSource:
    """A registry whose pointer tests move."""

    def __init__(self, key: str = "1-abc") -> None:
        self.key = key
        self.opened: list[FakeClassifier] = []
        self.damaged: set[str] = set()
        self.pause_s = 0.0
        self.open_s = 0.0

    def pointed(self) -> str:
        return self.key

    async def open(self, key: str) -> FakeClassifier:
        await asyncio.sleep(self.open_s)
        if key in self.damaged:
            raise ModelLoadError("The artefact is damaged: a byte of it changed.")
        self.opened.append(FakeClassifier(key, pause_s=self.pause_s))
        return self.opened[-1]


async def following(source: FakeSource) -> Champion:
    """Return what follows a source, after its first look."""
    champion = Champion(source, name="complaints", look_every_s=0.005)
    await champion.look()
    return champion
