"""The plots that only some commands have: the knee, the comparison, slopes, the phases of a start."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwenops.bench.compare import blocks_of
from qwenops.bench.conclusion import Conclusion
from qwenops.bench.folder import RecordedRun
from qwenops.bench.segment import Driven
from qwenops.page.document import Block, Figure
from qwenops.page.plot import Axis, Lane, Lanes, Rule
from qwenops.text import say


def verb_blocks(run: RecordedRun, conclusion: Conclusion) -> list[Block]:
    """Return the plots that belong to what the command found."""
    data = conclusion.data
    figures = (comparison_figure(run, data),)
    return [figure for figure in figures if figure is not None]


def comparison_figure(run: RecordedRun, data: Mapping[str, Any]) -> Figure | None:
    """Return the ratios B / A with their intervals, and the ratio of every pair of blocks."""
    ratios = [each for each in (data.get("primary"), *(data.get("secondary") or ())) if each]
    if not ratios:
        return None
    pairs = _pairs(run)
    lanes = [
        Lane(
            title=str(each["measure"]),
            points=_ratios_of(pairs, str(each["measure"])),
            interval=None if each.get("low") is None else (each["low"], each["high"]),
            value=each["ratio"],
            note=f"{each['ratio'] - 1:+.1%}",
        )
        for each in ratios
    ]
    effect = float(data.get("effect", 0.0))
    return Figure(
        title=say("B over A: each pair of blocks, and the ratio with its interval"),
        plot=Lanes(
            x=Axis(title=say("Ratio B / A; left of 1 B is smaller"), scale="log"),
            lanes=lanes,
            rules=[Rule(value=1.0, title=say("equal"), bad=False)],
            zone=(1 / (1 + effect), 1 + effect) if effect else None,
        ),
        caption=say(
            "The first line decides; what lies within the shaded stretch makes no difference that matters ({effect}).",
            effect=f"{effect:.1%}",
        ),
    )


def _pairs(run: RecordedRun) -> list[tuple[Driven, Driven]]:
    sides: dict[str, dict[str, Driven]] = {}
    for driven in run.drivens:
        name, _, side = driven.segment.name.rpartition(" ")
        if name.startswith("block") and side in {"A", "B"}:
            sides.setdefault(name, {})[side] = driven
    return [(found["A"], found["B"]) for found in sides.values() if len(found) == 2]  # noqa: PLR2004 -- A and B


def _ratios_of(pairs: Sequence[tuple[Driven, Driven]], measure: str) -> tuple[float, ...]:
    return tuple(each[1] / each[0] for each in blocks_of(pairs, measure) if each is not None and each[0] > 0)
