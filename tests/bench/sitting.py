"""One sitting of a run in a process of its own, so that tests can kill it: `python -m tests.bench.sitting JSON`."""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwenops.bench.clock import running_clock
from qwenops.bench.comparing import Plan, compare_targets
from qwenops.bench.conclusion import Conclusion
from qwenops.bench.latency import latency
from qwenops.bench.load import load
from qwenops.bench.options import BenchOptions
from qwenops.bench.quick import quick
from qwenops.bench.run import Opening, Run, begin, finish
from qwenops.bench.simulated import loop
from qwenops.bench.slo import slo
from qwenops.bench.soak import soak
from qwenops.bench.stress import stress
from qwenops.bench.targets import open_target


async def compare(run: Run) -> Conclusion:
    return await compare_targets(run, Plan(requests=6, pairs=6, extra_pairs=0, cool_s=0.1))


async def climb(run: Run) -> Conclusion:
    return await stress(run, users=(1, 2))


VERBS = {
    "load": load,
    "soak": soak,
    "quick": quick,
    "latency": latency,
    "slo": slo,
    "stress": climb,
    "compare": compare,
}


@dataclass
class Sitting:
    verb: str
    target: str
    folder: str
    options: dict[str, Any] = field(default_factory=dict)
    resumed: bool = False
    virtual: bool = False
    other: str = ""
    """The second target of a comparison."""

    def argv(self) -> list[str]:
        return [sys.executable, "-m", "tests.bench.sitting", json.dumps(asdict(self))]

    async def sit(self) -> Conclusion:
        options = BenchOptions(**{"folder": Path("unused"), **self.options})
        folder = Path(self.folder)
        where = Opening(resume_from=folder, calibrate_s=0) if self.resumed else Opening(out=folder, calibrate_s=0)
        texts = {"A": self.target, "B": self.other} if self.other else {"": self.target}
        targets = {name: await open_target(text, options, model="simulated") for name, text in texts.items()}
        try:
            clock = running_clock()
            async with begin(self.verb, targets, options, clock=clock, opening=where) as run:
                return finish(run, await self._act(run))
        finally:
            for target in targets.values():
                await target.engine.aclose()

    async def _act(self, run: Run) -> Conclusion:
        act: Any = VERBS[self.verb]
        conclusion: Conclusion = await act(run)
        return conclusion

    def run(self) -> Conclusion:
        return loop.run(self.sit()) if self.virtual else asyncio.run(self.sit())


if __name__ == "__main__":
    Sitting(**json.loads(sys.argv[1])).run()
