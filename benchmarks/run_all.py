"""Run every benchmark at its full length, one after the other, and fill the READMEs' tables (`make prove`)."""

import runpy
import sys
from collections.abc import Sequence

RUNS: tuple[tuple[str, Sequence[str]], ...] = (
    ("benchmarks.convert", ()),
    ("benchmarks.logits_check", ()),
    ("benchmarks.greedy_check", ()),
    ("benchmarks.quality", ()),
    ("benchmarks.engine", ()),
    ("benchmarks.engine", ("--model", "random:1.7b", "--schemes", "int8,int4", "--name", "engine-1.7b")),
    ("benchmarks.scoring", ()),
    ("benchmarks.training", ()),
    ("benchmarks.training_quality", ()),
    ("benchmarks.learning", ()),
    ("benchmarks.batch", ()),
    ("benchmarks.redaction", ()),
    ("benchmarks.difficulty", ()),
    ("benchmarks.served", ()),
    ("benchmarks.client_cost", ()),
    ("benchmarks.measuring", ()),
    ("benchmarks.tables", ()),
)


GOAL_NOT_MET = 3


def main() -> int:
    """Run them as if each had been started by itself; one whose goal is not met does not stop the others."""
    worst = 0
    for module, arguments in RUNS:
        print(f"== {module} {' '.join(arguments)}", flush=True)
        sys.argv = [module, *arguments]
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as ended:
            if ended.code not in (None, 0, GOAL_NOT_MET):
                raise
            worst = max(worst, int(ended.code or 0))
    return worst


if __name__ == "__main__":
    sys.exit(main())
