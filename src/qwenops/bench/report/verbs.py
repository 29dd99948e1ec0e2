"""The plots that only some commands have: the knee, the comparison, slopes, the phases of a start."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenops.bench.compare import blocks_of
from qwenops.bench.conclusion import Conclusion, Outcome
from qwenops.bench.drift import Kind, judge_drift, latency, memory_and_descriptors
from qwenops.bench.drift import Series as Watched
from qwenops.bench.drift import blocks_of as drift_blocks
from qwenops.bench.folder import RecordedRun
from qwenops.bench.knee import Level, level_of, still_grows
from qwenops.bench.record import Phase
from qwenops.bench.report.figures import seconds
from qwenops.bench.segment import ClosedLoop, Driven
from qwenops.bench.words import measure_word, series_word
from qwenops.page.document import Block, Figure, Tile
from qwenops.page.plot import Axis, Band, Bar, Chart, Dots, Lane, Lanes, Line, Panel, Rule, Series
from qwenops.page.ticks import number
from qwenops.text import Text, say

_FEWEST_STEPS = 3
_ENGINE_MEMORY = "engine_memory_bytes"
_MANY_USERS = 16


def verb_blocks(run: RecordedRun, conclusion: Conclusion) -> list[Block]:
    """Return the plots that belong to what the command found."""
    data = conclusion.data
    figures = (
        comparison_figure(run, data),
        knee_figure(run, data),
        objective_figure(data),
        *(drift_figures(run) if run.manifest.get("verb") == "soak" else ()),
        startup_figure(data),
    )
    return [figure for figure in figures if figure is not None]


def verb_tiles(data: Mapping[str, Any]) -> list[Tile]:
    """Return the headline figures that belong to what the command found."""
    found = []
    if primary := data.get("primary"):
        interval: Text | str = ""
        if primary.get("low") is not None:
            low, high = f"{primary['low'] - 1:+.1%}", f"{primary['high'] - 1:+.1%}"
            interval = say("{low} to {high}", low=low, high=high)
        name = say("{measure}, B against A", measure=measure_word(primary["measure"]))
        found.append(Tile(name=name, value=f"{primary['ratio'] - 1:+.1%}", detail=interval))
        found.append(Tile(name=say("Noise of a pair"), value=f"{primary['noise']:.1%}"))
    if data.get("capacity_per_s") is not None:
        low, high = number(data["capacity_low_per_s"]), number(data["capacity_high_per_s"])
        interval = say("an estimate: {low} to {high}", low=low, high=high)
        found.append(
            Tile(name=say("Limit seems to be at"), value=f"{number(data['capacity_per_s'])} 1/s", detail=interval)
        )
    if _is_proved(data):
        rate, proved = f"{number(data['advised_per_s'])} 1/s", say("proved to keep the objective")
        found.append(Tile(name=say("Advised"), value=rate, detail=proved))
    if data.get("knee_users") is not None and not _unsaturated(data):
        found.append(Tile(name=say("Knee, in callers"), value=number(data["knee_users"])))
    return found


def _is_proved(data: Mapping[str, Any]) -> bool:
    """Tell whether the requests at the rate that is advised prove it."""
    return data.get("advised_per_s") is not None and (data.get("proof") or {}).get("decision") == Outcome.PASS


def _unsaturated(data: Mapping[str, Any]) -> bool:
    """Tell whether the last step of a ladder still brought more."""
    climbs = [_climb("", each["levels"], {}) for each in data.get("climbs") or ()]
    return any(still_grows(each.per_s) for each in climbs)


def comparison_figure(run: RecordedRun, data: Mapping[str, Any]) -> Figure | None:
    """Return the ratios B / A with their intervals, and the ratio of every pair of blocks."""
    ratios = [each for each in (data.get("primary"), *(data.get("secondary") or ())) if each]
    if not ratios:
        return None
    pairs = _pairs(run)
    lanes = [
        Lane(
            title=measure_word(str(each["measure"])),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """What more and more callers got done, under one limit of the machine."""

    name: str
    users: Sequence[int]
    per_s: Sequence[float]
    error: Sequence[float]
    """Standard errors."""
    residence_s: Sequence[float | None]
    law: Mapping[str, float]
    """The fitted Universal Scalability Law; empty where none was."""


def knee_figure(run: RecordedRun, data: Mapping[str, Any]) -> Figure | None:
    """Return answers per second by callers, with the law that was fitted; None for fewer than three steps."""
    climbs = [each for each in _climbs(run, data) if len(each.users) >= _FEWEST_STEPS]
    if not climbs:
        return None
    rates: list[Series] = []
    stays: list[Series] = []
    rules = []
    growing: list[str] = []
    most = max(climb.users[-1] for climb in climbs)
    for hue, climb in enumerate(climbs):
        name = climb.name or say("Measured")
        spread = [(rate - 2 * error, rate + 2 * error) for rate, error in zip(climb.per_s, climb.error, strict=True)]
        low, high = [max(0.0, each) for each, _ in spread], [each for _, each in spread]
        rates.append(Dots(title=name, x=climb.users, y=climb.per_s, low=low, high=high, hue=hue))
        if all(climb.law.get(key) is not None for key in ("one_per_s", "contention", "coherence")):
            x = [(most * 1.2) ** (step / 80) for step in range(81)]
            title = say("Universal Scalability Law") if len(climbs) == 1 else ""
            rates.append(Line(title=title, x=x, y=[_usl(each, climb.law) for each in x], hue=hue, dashed=True))
        grows = still_grows(climb.per_s)
        growing += [name] if grows else []
        if climb.law.get("knee_users") is not None and not grows:
            knee = climb.law["knee_users"]
            title = say("knee: {users}", users=number(knee)) if len(climbs) == 1 else climb.name
            rules.append(Rule(value=knee, title=title, bad=False))
        stays.append(Line(title=climb.name, x=climb.users, y=climb.residence_s, hue=hue))
    panels = [
        Panel(y=Axis(title=say("Answers"), unit="1/s"), series=rates, height=190),
        Panel(y=Axis(title=say("Time of a caller in the server, mean"), unit="s"), series=stays, height=120),
    ]
    return Figure(
        title=say("What more callers bring, and what they cost"),
        plot=Chart(
            x=Axis(title=say("Callers at the same time"), scale="log" if most >= _MANY_USERS else "linear"),
            panels=panels,
            rules=rules,
        ),
        caption=_knee_caption(growing, single=len(climbs) == 1),
    )


def _knee_caption(growing: Sequence[str], *, single: bool) -> Text:
    """Say what the whiskers are, and where no knee is drawn because none was reached."""
    if not growing:
        return say("Whiskers are two standard errors.")
    if single:
        return say(
            "Whiskers are two standard errors. The last step still brought more: neither a knee nor a maximum was "
            "reached."
        )
    return say(
        "Whiskers are two standard errors. The last step still brought more, and neither a knee nor a maximum was "
        "reached, with: {names}.",
        names=", ".join(growing),
    )


def _climbs(run: RecordedRun, data: Mapping[str, Any]) -> list[Climb]:
    """Return what the command found, or what the closed loops of the run show."""
    said = data.get("climbs")
    if said is not None:
        return [_climb(str(each.get("limits") or ""), each["levels"], each.get("usl") or {}) for each in said]
    measured = [driven for driven in run.drivens if driven.segment.phase is Phase.MEASURE and driven.records]
    levels: dict[str, dict[int, Level]] = {}
    for driven in measured:
        if isinstance(driven.segment.load, ClosedLoop):
            users = driven.segment.load.users
            levels.setdefault(driven.records[0].target, {})[users] = level_of(driven, users)
    if sum(map(len, levels.values())) < len(measured):  # the same number of callers again, or an open loop: no ladder
        return []
    names = ("users", "per_s", "error", "residence_s")
    return [
        _climb(target, [{name: getattr(each, name) for name in names} for each in found.values()], {})
        for target, found in levels.items()
    ]


def _climb(name: str, levels: Sequence[Mapping[str, Any]], law: Mapping[str, float]) -> Climb:
    ordered = sorted(levels, key=lambda each: int(each["users"]))
    return Climb(
        name=name,
        users=[each["users"] for each in ordered],
        per_s=[each["per_s"] for each in ordered],
        error=[each.get("error") or 0.0 for each in ordered],
        residence_s=[each.get("residence_s") for each in ordered],
        law=law,
    )


def _usl(users: float, law: Mapping[str, float]) -> float:
    contended = 1 + law["contention"] * (users - 1) + law["coherence"] * users * (users - 1)
    return law["one_per_s"] * users / contended


def objective_figure(data: Mapping[str, Any]) -> Figure | None:
    """Return the share of requests that kept the objective at each rate that was tried."""
    tried = [(float(each["rate_per_s"]), each["verdict"]["attainment"]) for each in data.get("loads") or ()]
    loads = sorted((rate, float(share)) for rate, share in tried if share is not None)
    if len(loads) < _FEWEST_STEPS:
        return None
    rules = [
        Rule(value=float(data[key]), title=title, bad=False)
        for key, title in (("capacity_per_s", say("limit, by estimate")), ("advised_per_s", say("advised")))
        if data.get(key) is not None and (key != "advised_per_s" or _is_proved(data))
    ]
    dots = Dots(title="", x=[rate for rate, _ in loads], y=[share * 100 for _, share in loads], hue=0)
    panel = Panel(y=Axis(title=say("Requests that kept the objective"), unit="%", low=0.0, high=100.0), series=[dots])
    chart = Chart(x=Axis(title=say("Requests sent"), unit="1/s", scale="log"), panels=[panel], rules=rules)
    return Figure(title=say("The objective by the rate of requests"), plot=chart)


def drift_figures(run: RecordedRun) -> list[Figure]:
    """Return the level of every watched quantity over the time of a long run, with its slope."""
    records = [record for driven in run.drivens for record in driven.records if record.phase is Phase.MEASURE]
    series = [*(latency(records, name) for name in ("ttft", "e2e")), *memory_and_descriptors(run.host)]
    asked = [each for each in run.engine if isinstance(each.get(_ENGINE_MEMORY), int | float)]
    if asked:
        times = [each["at_ns"] / 1e9 for each in asked]
        values = [float(each[_ENGINE_MEMORY]) for each in asked]
        series.append(Watched(name=_ENGINE_MEMORY, kind=Kind.MEMORY, times_s=times, values=values))
    trends = {trend.name: trend for trend in judge_drift(series).trends}
    panels = []
    for each in series:
        at_s, levels = drift_blocks(each)
        trend = trends.get(each.name)
        if trend is None or not at_s.size:
            continue
        factor, unit = (
            (1 / 2**20, "MiB") if each.kind is Kind.MEMORY else (1.0, "s" if each.kind is Kind.LATENCY else "")
        )
        middle = float(at_s.mean())
        around = {
            name: [(trend.level + slope * (float(at) - middle)) * factor for at in at_s]
            for name, slope in (("value", trend.slope.value), ("low", trend.slope.low), ("high", trend.slope.high))
        }
        x = at_s.tolist()
        edges = list(zip(around["low"], around["high"], strict=True))
        parts: list[Series] = [Dots(title=say("Level"), x=x, y=(levels * factor).tolist(), hue=0)]
        parts.append(Line(title=say("Slope"), x=x, y=around["value"], hue=1, dashed=True))
        if all(map(math.isfinite, (trend.slope.low, trend.slope.high))):
            low, high = [min(pair) for pair in edges], [max(pair) for pair in edges]
            parts.append(Band(title=say("Its interval"), x=x, low=low, high=high, hue=1))
        panels.append(Panel(y=Axis(title=series_word(each.name), unit=unit), series=parts, height=110))
    if not panels:
        return []
    axis = Axis(title=say("Time since the beginning"), scale="time", low=0.0)
    title = say("What hours of the same load did")
    caption = say("Each dot is a twentieth of the time. From zero, so that small changes look small.")
    return [Figure(title=title, plot=Chart(x=axis, panels=panels), caption=caption)]


def startup_figure(data: Mapping[str, Any]) -> Figure | None:
    """Return the phases of every start as bars."""
    rounds = [each for each in data.get("rounds") or () if each.get("ready_s") is not None]
    if not rounds:
        return None
    states = {"cold": say("cold"), "warm": say("warm")}
    lanes = []
    for num, each in enumerate(rounds, 1):
        edges = [0.0, each.get("running_s"), each.get("listening_s"), each["ready_s"], each.get("first_token_s")]
        bars, begin = [], 0.0
        for hue, (end, title) in enumerate(zip(edges[1:], _PHASES, strict=True)):
            if end is not None and end >= begin:
                bars.append(Bar(begin=begin, end=end, title=title, hue=hue))
                begin = end
        title = say("{number}, {state}", number=num, state=states.get(each["state"], each["state"]))
        lanes.append(Lane(title=title, bars=bars, note=seconds(begin)))
    return Figure(
        title=say("The phases of every start"),
        plot=Lanes(x=Axis(title=say("Time since the start"), unit="s", low=0.0), lanes=lanes),
    )


_PHASES = (say("until it runs"), say("until it listens"), say("until it is ready"), say("until its first token"))
