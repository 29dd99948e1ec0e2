"""`bench compare A B` and `bench noise A`: randomised pairs of blocks, then a verdict (`compare`).

Both blocks of a pair send the same requests on the same schedule; which of the two goes first is drawn, as often the
one as the other, so that a machine that warms up or slows down strikes both alike. Before the first pair each target
answers the same requests once, unmeasured. Prompts of different pairs (and, on one server, of different blocks) differ
by their marker, behind the beginning that they share, so that no block finds in a prefix cache what only another block
has put there; prompts from a file get such a marker too, and the result says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenops.bench.compare import (
    FEWEST_PAIRS,
    LENGTH_TOLERANCE,
    Comparison,
    Design,
    Pair,
    Ratio,
    check_design,
    compare,
)
from qwenops.bench.conclusion import Conclusion, Finding, Outcome, Table
from qwenops.bench.record import NS_PER_S, Phase
from qwenops.bench.run import Run
from qwenops.bench.schedule import arrivals
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.tables import show_measure
from qwenops.bench.words import measure_word, outcome_word
from qwenops.bench.workload import Ask, Workload
from qwenops.errors import ConfigError
from qwenops.statistics.samples import Interval
from qwenops.text import Text, say

SIDES = ("A", "B")
_INSTANT_NS = 1_000_000
"""A segment that took less was answered from the journal of an earlier sitting, and nothing has to cool down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a comparison is measured and judged."""

    pairs: int = 8
    extra_pairs: int = 0
    """How many more are measured where the first ones do not decide; decided now, and paid with error rate."""
    requests: int = 8
    """In each block."""
    cool_s: float = 1.0
    """Pause between blocks."""
    primary: str = "e2e mean"
    secondary: tuple[str, ...] = ("ttft mean", "tpot mean", "output_tokens_per_s")
    """With eight pairs, more than six of them could never be significant together."""
    effect: float = 0.03
    alpha: float = 0.05

    @property
    def design(self) -> Design:
        """What the data will be asked.

        Raises:
            ConfigError: The plan cannot decide anything.
        """
        looks = (self.pairs, self.pairs + self.extra_pairs) if self.extra_pairs > 0 else (self.pairs,)
        return check_design(
            Design(primary=self.primary, secondary=self.secondary, effect=self.effect, alpha=self.alpha, looks=looks)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A workload whose warm-up asks the measured requests, so that caches have seen what they will see again."""

    of: Workload

    @property
    def name(self) -> str:
        """As the user named it."""
        return self.of.name

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a result must say about it."""
        return self.of.facts

    @property
    def arrivals_ns(self) -> Sequence[int] | None:
        """When a trace sent its requests."""
        return self.of.arrivals_ns

    def ask(self, index: int) -> Ask:
        """Return the measured request of that number."""
        return self.of.ask(index)

    def warmup(self, index: int) -> Ask:
        """Return the measured request of that number."""
        return self.of.ask(index)


async def compare_targets(run: Run, plan: Plan) -> Conclusion:
    """Measure the run's two targets against each other and say which is better.

    Raises:
        ConfigError: There are not two targets, or the plan cannot decide anything.
    """
    design = plan.design
    if len(run.targets) != len(SIDES):
        raise ConfigError(
            say("A comparison has two targets, not {number}.", number=len(run.targets)),
            hint=say("Write `qwenops bench compare A B`."),
        )
    comparison = await _measured(run, plan, design, tuple(run.targets))
    named = tuple(target.text for target in run.targets.values())
    return Conclusion(
        outcome=comparison.outcome,
        sentences=(verdict(comparison), *remarks(comparison), marker_sentence()),
        tables=(ratio_table(comparison),),
        findings=_findings(comparison),
        data={"a": named[0], "b": named[1], **comparison_data(comparison)},
    )


async def noise(run: Run, plan: Plan) -> Conclusion:
    """Measure the run's only target against itself: what a comparison here cannot see.

    Raises:
        ConfigError: There is not exactly one target, or the plan cannot decide anything.
    """
    design = plan.design
    if len(run.targets) != 1:
        raise ConfigError(
            say("The noise of one target is measured, not of {number}.", number=len(run.targets)),
            hint=say("Write `qwenops bench noise A`."),
        )
    (name,) = run.targets
    comparison = await _measured(run, plan, design, (name, name))
    return Conclusion(
        outcome=Outcome.DONE if comparison.primary else Outcome.INCONCLUSIVE,
        sentences=(*_noise_sentences(comparison), marker_sentence()),
        tables=(ratio_table(comparison),),
        findings=_findings(comparison),
        data=comparison_data(comparison),
    )


def first_sides(pairs: int, seed: int) -> tuple[int, ...]:
    """Return which side of each pair goes first, 0 or 1: as often the one as the other, in random order."""
    import numpy as np

    return tuple(np.random.default_rng(seed).permutation([each % 2 for each in range(pairs)]).tolist())


def ratio_table(comparison: Comparison) -> Table:
    """Return all ratios with their intervals."""
    confidence = 1 - comparison.design.share(comparison.look)
    found = ([comparison.primary] if comparison.primary else []) + list(comparison.secondary)
    return Table(
        title=say("B over A, with {confidence:.1%} intervals (Student's; bootstrap)", confidence=confidence),
        headings=(
            say("Figure"),
            say("A"),
            say("B"),
            say("B / A"),
            say("low"),
            say("high"),
            say("bootstrap low"),
            say("bootstrap high"),
            say("p (corrected)"),
            say("Result"),
        ),
        rows=tuple(_row(each) for each in found),
    )


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison for scripts."""
    return {
        "outcome": comparison.outcome.value,
        "effect": comparison.design.effect,
        "alpha": comparison.design.alpha,
        "looks": list(comparison.design.looks),
        "look": comparison.look,
        "primary": None if comparison.primary is None else _ratio_data(comparison.primary),
        "secondary": [_ratio_data(each) for each in comparison.secondary],
        "detectable": comparison.detectable,
        "pairs_needed": comparison.pairs_needed,
        "failures": {
            "a": comparison.failures[0],
            "b": comparison.failures[1],
            "asked_a": comparison.asked[0],
            "asked_b": comparison.asked[1],
            "p": comparison.failure_p,
        },
        "length_ratio": comparison.length_ratio,
    }


def verdict(comparison: Comparison) -> Text:
    """Say what came out."""
    primary = comparison.primary
    if primary is None or primary.interval is None or primary.pairs < FEWEST_PAIRS:
        return _too_little(comparison)
    change = {
        "measure": measure_word(primary.measure),
        "change": primary.ratio - 1,
        "low": primary.interval.low - 1,
        "high": primary.interval.high - 1,
        "confidence": primary.interval.confidence,
        "effect": comparison.design.effect,
        "pairs": primary.pairs,
    }
    if comparison.outcome is not primary.outcome and not comparison.failures_decide:
        return say(
            "INCONCLUSIVE: {measure} of B is {change:+.1%} against A, but {b} of {asked_b} requests failed at B and "
            "{a} of {asked_a} at A; that is too few to prove anything, and too many for a good word.",
            a=comparison.failures[0],
            b=comparison.failures[1],
            asked_a=comparison.asked[0],
            asked_b=comparison.asked[1],
            **change,
        )
    if comparison.outcome is not primary.outcome:
        return say(
            "{outcome}: the two fail differently often, which outweighs {measure} ({change:+.1%}).",
            outcome=outcome_word(comparison.outcome),
            **change,
        )
    match comparison.outcome:
        case Outcome.IMPROVED | Outcome.REGRESSED:
            return say(
                "{outcome}: {measure} of B is {change:+.1%} against A ({confidence:.1%} interval {low:+.1%} to "
                "{high:+.1%}, {pairs} pairs).",
                outcome=outcome_word(comparison.outcome),
                **change,
            )
        case Outcome.EQUIVALENT:
            return say(
                "EQUIVALENT: {measure} of B is {change:+.1%} against A, and less than {effect:.1%} apart for sure.",
                **change,
            )
        case _:
            return say(
                "INCONCLUSIVE: {measure} of B is {change:+.1%} against A, and anything from {low:+.1%} to {high:+.1%} "
                "is possible ({confidence:.1%} interval, {pairs} pairs).",
                **change,
            )


def _too_little(comparison: Comparison) -> Text:
    """Say what came out where the figure that decides is missing, or nearly so."""
    primary, measure = comparison.primary, comparison.design.primary
    if comparison.outcome is not Outcome.INCONCLUSIVE:
        return say(
            "{outcome}: the two fail differently often, and too few pairs of blocks have the figure {measure}.",
            outcome=outcome_word(comparison.outcome),
            measure=measure_word(measure),
        )
    if primary is None:
        return say("INCONCLUSIVE: no pair of blocks has the figure {measure}.", measure=measure_word(measure))
    return say(
        "INCONCLUSIVE: {pairs} pairs of blocks were measured; fewer than {fewest} decide nothing.",
        pairs=primary.pairs,
        fewest=FEWEST_PAIRS,
    )


def remarks(comparison: Comparison) -> tuple[Text, ...]:
    """Say what else is worth knowing."""
    said = []
    enough = comparison.primary is not None and comparison.primary.pairs >= FEWEST_PAIRS
    undecided = comparison.primary is not None and comparison.primary.outcome is Outcome.INCONCLUSIVE
    if comparison.primary is not None and enough and undecided and comparison.outcome is Outcome.INCONCLUSIVE:
        if comparison.pairs_needed is None:
            said.append(
                say(
                    "No reasonable number of pairs would find {effect:.1%} here: the noise is {noise:.1%}.",
                    effect=comparison.design.effect,
                    noise=comparison.primary.noise,
                )
            )
        else:
            said.append(
                say(
                    "About {pairs} pairs would find {effect:.1%} in 80 % of the cases at this noise ({noise:.1%}).",
                    pairs=comparison.pairs_needed,
                    effect=comparison.design.effect,
                    noise=comparison.primary.noise,
                )
            )
    said.extend(
        say(
            "{measure} differs as well: {change:+.1%} (p {p:.4f} after Holm's correction).",
            measure=measure_word(each.measure),
            change=each.ratio - 1,
            p=each.adjusted_p,
        )
        for each in comparison.secondary
        if each.outcome in {Outcome.IMPROVED, Outcome.REGRESSED}
    )
    return tuple(said)


def marker_sentence() -> Text:
    """Say what one block leaves to the next in a prefix cache."""
    return say(
        "A marker in each prompt keeps a block from finding in a prefix cache what another block has left there."
    )


async def _measured(run: Run, plan: Plan, design: Design, names: tuple[str, ...]) -> Comparison:
    """Drive the pairs, look when the design says so, and stop when it is decided."""
    await _rehearse(run, plan, names)
    pairs: list[Pair] = []
    comparison = compare((), design, look=0)
    for look, until in enumerate(design.looks):
        for first in first_sides(until - len(pairs), run.options.seed + look):
            if (pair := await _pair(run, plan, names, len(pairs) + 1, first)) is None:
                return compare(pairs, design, look=look)
            pairs.append(pair)
            _expect(run, design, len(pairs))
        comparison = compare(pairs, design, look=look)
        if comparison.outcome is not Outcome.INCONCLUSIVE:
            break
    return comparison


async def _rehearse(run: Run, plan: Plan, names: tuple[str, ...]) -> None:
    """Let each target answer the requests once, unmeasured."""
    load = ClosedLoop(users=run.options.users or 1, requests=plan.requests)
    for name in dict.fromkeys(names):
        side = SIDES[names.index(name)]
        rehearsal = Rehearsal(of=_marked(run.workload, f"before {side}"))
        await run.drive(
            Segment(name=f"before {side}", load=load, phase=Phase.WARMUP, first_item=0), name, workload=rehearsal
        )


async def _pair(run: Run, plan: Plan, names: tuple[str, ...], number: int, first: int) -> Pair | None:
    """Drive both blocks of a pair; None when the run is stopped before both are over."""
    found: dict[str, Driven] = {}
    one_server = _place(run, names[0]) == _place(run, names[1])
    for side in (SIDES[first], SIDES[1 - first]):
        workload = _marked(run.workload, f"{number}{side}" if one_server else f"{number}")
        before_ns = run.clock.now_ns()
        found[side] = await run.drive(_block(run, plan, number, side), names[SIDES.index(side)], workload=workload)
        if run.interrupted or found[side].interrupted:
            return None
        if run.clock.now_ns() - before_ns > _INSTANT_NS:
            await run.clock.sleep_until_ns(run.clock.now_ns() + round(plan.cool_s * NS_PER_S))
    return found["A"], found["B"]


def _block(run: Run, plan: Plan, number: int, side: str) -> Segment:
    options = run.options
    load: OpenLoop | ClosedLoop = ClosedLoop(users=options.users or 1, requests=plan.requests)
    if options.rate:
        load = OpenLoop(
            offsets_ns=arrivals(
                options.arrivals,
                options.rate,
                count=plan.requests,
                seed=options.seed + number,
                burstiness=options.burstiness,
            )
        )
    return Segment(name=f"block {number} {side}", load=load, first_item=0)


def _marked(workload: Workload, block: str) -> Workload:
    """Return the workload with markers of its own, where it can have them."""
    salted = getattr(workload, "salted", None)
    return workload if salted is None else salted(f"{workload.facts.get('salt', '')}/{block}")


def _place(run: Run, name: str) -> str:
    return run.targets[name].url or run.targets[name].text


def _expect(run: Run, design: Design, done: int) -> None:
    """Tell the live view how long the first stage will take."""
    if done < design.looks[0]:
        run.expected_s = run.now_ns() / NS_PER_S * design.looks[0] / done


def _noise_sentences(comparison: Comparison) -> tuple[Text, ...]:
    primary = comparison.primary
    if primary is None or comparison.detectable is None:
        return (
            say(
                "INCONCLUSIVE: too few pairs of blocks have the figure {measure}.",
                measure=measure_word(comparison.design.primary),
            ),
        )
    said = [
        say(
            "{measure} varies by {noise:.1%} from one pair of blocks to the next; {pairs} pairs find a change of "
            "{detectable:.1%} in 80 % of the cases.",
            measure=measure_word(primary.measure),
            noise=primary.noise,
            pairs=primary.pairs,
            detectable=comparison.detectable,
        )
    ]
    if comparison.pairs_needed is None:
        said.append(say("No reasonable number of pairs would find {effect:.1%} here.", effect=comparison.design.effect))
    else:
        said.append(
            say(
                "To find {effect:.1%}, measure {pairs} pairs.",
                effect=comparison.design.effect,
                pairs=comparison.pairs_needed,
            )
        )
    if comparison.outcome in {Outcome.IMPROVED, Outcome.REGRESSED}:
        said.append(
            say(
                "The target differs from itself by {change:+.1%}: a false alarm, which happens in {alpha:.0%} of such "
                "runs, or something here favours one of two blocks. Repeat it before you compare anything.",
                change=primary.ratio - 1,
                alpha=comparison.design.alpha,
            )
        )
    return tuple(said)


def _findings(comparison: Comparison) -> tuple[Finding, ...]:
    found = []
    ratio = comparison.length_ratio
    timed = comparison.design.primary.startswith("e2e")
    if ratio is not None and abs(ratio - 1) > LENGTH_TOLERANCE and timed:
        text = say(
            "The answers of B have {ratio:.2f} times the tokens of those of A: their whole latencies are not "
            "comparable. Compare tpot, or force the length.",
            ratio=ratio,
        )
        found.append(Finding(text=text, severity="warning"))
    if any(comparison.failures):
        text = say(
            "{a} of {asked_a} requests failed at A and {b} of {asked_b} at B (p {p:.4f}); latencies are compared over "
            "what both answered.",
            a=comparison.failures[0],
            b=comparison.failures[1],
            asked_a=comparison.asked[0],
            asked_b=comparison.asked[1],
            p=comparison.failure_p,
        )
        found.append(Finding(text=text, severity="warning"))
    return tuple(found)


def _row(ratio: Ratio) -> tuple[str | float | None, ...]:
    return (
        measure_word(ratio.measure),
        show_measure(ratio.measure, ratio.a),
        show_measure(ratio.measure, ratio.b),
        ratio.ratio,
        *_ends(ratio.interval),
        *_ends(ratio.bootstrap),
        ratio.adjusted_p,
        outcome_word(ratio.outcome),
    )


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _ratio_data(ratio: Ratio) -> dict[str, Any]:
    low, high = _ends(ratio.interval)
    bootstrap_low, bootstrap_high = _ends(ratio.bootstrap)
    return {
        "measure": ratio.measure,
        "better": ratio.better,
        "pairs": ratio.pairs,
        "a": ratio.a,
        "b": ratio.b,
        "ratio": ratio.ratio,
        "low": low,
        "high": high,
        "confidence": None if ratio.interval is None else ratio.interval.confidence,
        "bootstrap_low": bootstrap_low,
        "bootstrap_high": bootstrap_high,
        "noise": ratio.noise,
        "p": ratio.p,
        "adjusted_p": ratio.adjusted_p,
        "equivalence_p": ratio.equivalence_p,
        "outcome": ratio.outcome.value,
    }
