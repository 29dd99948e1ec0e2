"""How hard the generator's calls are for models that understand nothing, over several seeds.

    python -m benchmarks.difficulty [--calls 6000] [--seeds 11,12,13]

The figures are those of `tools/difficulty.py`, to which the generator's defaults are tuned: a linear model on character
n-grams, on authors that it knows and on one that it does not, and a forest that sees lengths, times and counts only.
They say that the generator is no toy, and nothing about how well real calls are classified. The process ends with 3
when a goal is not met.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.recording import spread, write_result
from qwenops.calls.generator.generate import generate
from qwenops.calls.generator.options import GeneratorOptions
from tools.difficulty import Scores, scores

IN_DISTRIBUTION = (0.75, 0.85)
LOST = (0.10, 0.20)
MOST_OVER_CHANCE = 0.04
TOY = 0.95
_PLAIN = ("in_distribution", "unseen_author", "hard_negatives", "metadata", "chance", "keyword_share")

Judge = Callable[[int, int], Scores]
"""From a number of calls and a seed to scores."""


def made(calls: int, seed: int) -> Scores:
    """Make calls and judge them."""
    return scores(list(generate(GeneratorOptions(calls=calls, seed=seed))), seed)


def figures(found: Sequence[Scores]) -> dict[str, Any]:
    """Return every score with its spread over the seeds, the authors one by one, and what an unknown author costs."""
    authors = sorted({author for each in found for author in each.by_author})
    return {
        **{name: spread([float(getattr(each, name)) for each in found]) for name in _PLAIN},
        "lost_on_unseen_author": spread([each.in_distribution - each.unseen_author for each in found]),
        "unseen": {author: spread([each.by_author[author] for each in found]) for author in authors},
    }


def judged(found: Mapping[str, Any]) -> dict[str, Any]:
    """Hold every seed against what the generator promises: the lowest and the highest figure must both keep it."""
    over = found["metadata"]["max"] - found["chance"]["min"]
    return {
        "in_distribution": _goal(found["in_distribution"], *IN_DISTRIBUTION),
        "lost_on_unseen_author": _goal(found["lost_on_unseen_author"], *LOST),
        "metadata_over_chance": _goal({"min": over, "max": over}, -1.0, MOST_OVER_CHANCE),
        "is_no_toy": _goal(found["in_distribution"], 0.0, TOY),
    }


def _goal(found: Mapping[str, float], low: float, high: float) -> dict[str, Any]:
    least, most = found["min"], found["max"]
    return {
        "low": low,
        "high": high,
        "found": [round(least, 4), round(most, 4)],
        "met": low <= least and most <= high,
    }


def main(arguments: Iterable[str] | None = None, *, judge: Judge = made) -> int:
    """Measure and write `results/difficulty.json`; 3 when a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=6000, help="for each seed")
    parser.add_argument("--seeds", default="11,12,13", help="with commas between them")
    given = parser.parse_args(None if arguments is None else list(arguments))
    seeds = [int(each) for each in given.seeds.split(",")]
    found: list[Scores] = []
    for seed in seeds:
        found.append(judge(given.calls, seed))
        print(f"  seed {seed}: {dataclasses.asdict(found[-1])}", file=sys.stderr, flush=True)
    results = figures(found)
    goals = judged(results)
    print(
        write_result("difficulty", options={"calls": given.calls, "seeds": seeds}, results={**results, "goals": goals})
    )
    for name, goal in goals.items():
        least, most = goal["found"]
        print(f"{name}: {least} to {most} ({goal['low']} to {goal['high']}): {'met' if goal['met'] else 'NOT met'}")
    return 0 if all(goal["met"] for goal in goals.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
