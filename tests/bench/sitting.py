"""One sitting of a run in a process of its own, so that tests can kill it: `python -m tests.bench.sitting JSON`."""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwenops.bench.conclusion import Conclusion
from qwenops.bench.latency import latency
from qwenops.bench.load import load
from qwenops.bench.options import BenchOptions
from qwenops.bench.quick import quick
from qwenops.bench.run import Opening, Run, begin, finish
from qwenops.bench.simulated import loop
from qwenops.bench.soak import soak
from qwenops.bench.targets import open_target

VERBS = {"load": load, "soak": soak, "quick": quick, "latency": latency}


@dataclass
class Sitting:
    verb: str
    target: str
    folder: str
    options: dict[str, Any] = field(default_factory=dict)
    resumed: bool = False
    virtual: bool = False

    def argv(self) -> list[str]:
        return [sys.executable, "-m", "tests.bench.sitting", json.dumps(asdict(self))]

    async def sit(self) -> Conclusion:
        options = BenchOptions(**{"folder": Path("unused"), **self.options})
        folder = Path(self.folder)
        where = Opening(resume_from=folder, calibrate_s=0) if self.resumed else Opening(out=folder, calibrate_s=0)
        target = await open_target(self.target, options, model="simulated")
        try:
            clock = loop.running_clock()
            async with begin(self.verb, {"": target}, options, clock=clock, opening=where) as run:
                return finish(run, await self._act(run))
        finally:
            await target.engine.aclose()

    async def _act(self, run: Run) -> Conclusion:
        act: Any = VERBS[self.verb]
        conclusion: Conclusion = await act(run)
        return conclusion

    def run(self) -> Conclusion:
        return loop.run(self.sit()) if self.virtual else asyncio.run(self.sit())


if __name__ == "__main__":
    Sitting(**json.loads(sys.argv[1])).run()
