"""`python -m tests.classify.batching SOURCE OUT [PAUSE_S]`: a batch with a judge that needs no model, to be killed."""

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from qwenops.calls.readers import open_calls
from qwenops.calls.schema import Call
from qwenops.classify.batch import BatchSummary, Judged, SoFar, classify_all, portions
from qwenops.classify.prediction import DecisionKind, Prediction
from qwenops.classify.score import Prepared, Refused
from qwenops.classify.shards import open_folder
from qwenops.generation import Tokens
from qwenops.text import say

SIZE = 16


class HashJudge:
    """Gives every call the class that a hash of its id says; a call that says nothing is refused."""

    ref = "hash@1-abc"

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.judged: list[str] = []

    def prepare(self, calls: Sequence[Call]) -> Prepared:
        refused = tuple(
            Refused(place=place, call=call, reason=say("Nobody says anything."))
            for place, call in enumerate(calls)
            if not call.turns
        )
        ready = tuple(call for call in calls if call.turns)
        return Prepared(calls=ready, prompts=tuple(Tokens(ids=(1, 2, 3)) for _ in ready), refused=refused)

    async def judge(self, prepared: Prepared) -> list[Prediction]:
        await asyncio.sleep(self.pause_s)
        self.judged += [call.conversation_id for call in prepared.calls]
        return [prediction_of(call.conversation_id) for call in prepared.calls]


def prediction_of(name: str) -> Prediction:
    digest = hashlib.sha256(name.encode()).digest()
    p = digest[0] / 255
    kind = DecisionKind.AUTO if p > 0.5 else DecisionKind.REVIEW
    return Prediction(
        conversation_id=name, model="hash@1-abc", primary=f"class-{digest[1] % 5}", p=p, decision=kind, tokens=3
    )


def write_calls(path: Path, count: int, *, first: int = 0) -> Path:
    with path.open("a", encoding="utf-8") as out:
        for number in range(first, first + count):
            turn = f'{{"role":"customer","text":"这是第{number}通电话，我要投诉。"}}'
            out.write(f'{{"schema":"qwenops.call/1","conversation_id":"c-{number:06d}","turns":[{turn}]}}\n')
    return path


def classify(
    source: Path, out: Path, judge: HashJudge, *, size: int = SIZE, told: list[str] | None = None
) -> BatchSummary:
    """Do what `qwenops classify` does, with this judge."""
    with open_folder(out.with_name(f"{out.name}.parts"), model=judge.ref) as folder:

        def finish(judged: Judged) -> None:
            folder.finish(judged.predictions, judged.problems)

        so_far = SoFar()
        waiting = portions(open_calls(source, report=so_far.note), judge, folder.seen, size=size, so_far=so_far)
        summary = asyncio.run(
            classify_all(
                waiting,
                judge,
                finish,
                so_far=so_far,
                report=lambda _fraction, doing: None if told is None else told.append(str(doing)),
            )
        )
        folder.assemble(out)
        folder.assemble_rejected(out.with_name(f"{out.name}.rejected.jsonl"))
    return summary


if __name__ == "__main__":
    classify(Path(sys.argv[1]), Path(sys.argv[2]), HashJudge(float(sys.argv[3])), size=SIZE)
