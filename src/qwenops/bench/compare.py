"""Whether B is better than A: blocks of the same requests, their ratios, a verdict with a known error rate. Pure.

The two are measured in pairs of blocks, in random order, so that what the machine does meanwhile strikes both. Each
pair gives one log-ratio B / A of each figure, over the requests that both answered; the pairs are independent, and all
that follows is about their mean:

* the ratio is their geometric mean; Student's interval and the bootstrap's (BCa) stand beside each other;
* a difference must be shown by Student's test and by flipping signs: one is exact for normal noise, the other for any
  symmetric noise, so a verdict is wrong at most as often as asked for if either fits;
* EQUIVALENT means that two one-sided tests show the difference to be smaller than the effect that matters;
* one figure decides, unless one of the two surely fails more often (Fisher's exact test over the requests, which are
  worth fewer where failures come in blocks); while B is only seen to fail more by over 1 %, nothing good is said of it;
* the other figures are corrected for their number (Holm) and reported beside it.

More pairs may be measured when the first ones do not decide, by a rule that is fixed before: each look at the data has
its share of the error rate (the first 70 %), and the shares add up to what was asked for.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qwenops.bench.conclusion import Outcome
from qwenops.bench.definitions import Better, Metric
from qwenops.bench.record import RequestRecord
from qwenops.bench.segment import Driven
from qwenops.bench.stats import distribution, parse_measure, summarise
from qwenops.errors import ConfigError
from qwenops.statistics.hypotheses import bootstrap_bca, fisher_p, holm, sign_flip_p, t_test_p, tost_p
from qwenops.statistics.samples import Interval, Values, mean_interval
from qwenops.statistics.special import t_quantile
from qwenops.text import say

FEWEST_PAIRS = 6
"""Five pairs cannot reach 5 % by flipping signs (2 / 2^5 is 6.25 %)."""
FIRST_SHARE = 0.7
"""Of the error rate, for the first look; six pairs can still reach it (2 / 2^6 is 3.1 %)."""
FAILURE_SHARE = 0.2
"""Of a look's error rate, for the question who fails more often; only where something failed."""
MORE_FAILURES = 0.01
"""So much more of B's requests failing, proved or not, is no improvement and no equivalence."""
POWER = 0.8
LENGTH_TOLERANCE = 0.02
_SEED = 20_260_101
"""Of the bootstrap; the same data give the same interval."""

Pair = tuple[Driven, Driven]
"""A block of A and the block of B that asked the same."""
Blocks = Sequence[tuple[float, float] | None]
"""A figure in each pair: of A and of B; None where a pair has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is decided before anything is measured."""

    primary: str = "e2e mean"
    """The figure that decides, as `stats.parse_measure` reads it."""
    secondary: tuple[str, ...] = ("ttft mean", "tpot mean", "output_tokens_per_s")
    effect: float = 0.03
    """The smallest change that matters, as a share."""
    alpha: float = 0.05
    """How often A against A may come out as different."""
    looks: tuple[int, ...] = (8,)
    """After how many pairs the data are looked at, ascending."""

    def share(self, look: int) -> float:
        """Return the part of the error rate that a look, counted from 0, may use."""
        later = len(self.looks) - 1
        if not later:
            return self.alpha
        return self.alpha * (FIRST_SHARE if look == 0 else (1 - FIRST_SHARE) / later)

    def share_for_failures(self, look: int) -> float:
        """Return how much of a look's error rate failures take; flipping the signs of its pairs can reach the rest."""
        whole, flips = self.share(look), 2.0 ** (1 - self.looks[look])
        spare = whole - flips * (1 + 1e-6)
        return min(whole * FAILURE_SHARE, spare) if spare > 0 else whole * FAILURE_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What log-ratios prove."""

    outcome: Outcome
    p: float
    """That they are 1 on average: the larger of Student's and the sign flips' p-values."""
    equivalence_p: float
    """That the difference is at least the effect that matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One figure of B over that of A."""

    measure: str
    better: Better
    pairs: int
    """Those in which both have it."""
    a: float
    b: float
    """Geometric means over the blocks."""
    ratio: float
    interval: Interval | None
    """Student's."""
    bootstrap: Interval | None
    """Bias-corrected and accelerated."""
    noise: float
    """Standard deviation of a pair's ratio, as a share."""
    p: float
    adjusted_p: float
    """Holm's, among the secondary figures; of the primary one, its own."""
    equivalence_p: float
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All figures, and the verdict of the one that decides."""

    design: Design
    look: int
    outcome: Outcome
    primary: Ratio | None
    """None where no pair has it."""
    secondary: tuple[Ratio, ...]
    detectable: float | None
    """The effect that so many pairs at this noise find in 80 % of the cases, as a share."""
    pairs_needed: int | None
    """How many pairs would find the effect that matters in 80 % of the cases at this noise."""
    failures: tuple[int, int]
    """Failed requests of A and of B."""
    asked: tuple[int, int]
    """How many there were, interrupted ones apart."""
    failure_p: float
    """That both fail equally often."""
    failures_decide: bool
    """Whether one surely fails more often."""
    length_ratio: float | None
    """Tokens of B's answers over those of A's: times of answers of different lengths are not comparable."""


def check_design(design: Design) -> Design:
    """Return a design that can decide something.

    Raises:
        ConfigError: It has too few pairs, an effect or an error rate out of range, or an unknown figure.
    """
    for text in (design.primary, *design.secondary):
        parse_measure(text)
    if not design.looks or design.looks[0] < FEWEST_PAIRS or list(design.looks) != sorted(set(design.looks)):
        raise ConfigError(
            say("{looks} pairs of blocks cannot decide anything.", looks=", ".join(map(str, design.looks)) or "0"),
            hint=say("Measure at least {fewest} pairs.", fewest=FEWEST_PAIRS),
        )
    if not 0 < design.effect < 1 or not 0 < design.alpha < 0.5:  # noqa: PLR2004 -- more is no error rate
        raise ConfigError(
            say(
                "An effect of {effect} at an error rate of {alpha} makes no test.",
                effect=design.effect,
                alpha=design.alpha,
            ),
            hint=say("Give the effect as a share such as 0.03, the error rate as one such as 0.05."),
        )
    return design


def compare(pairs: Sequence[Pair], design: Design, *, look: int | None = None) -> Comparison:
    """Return what pairs of blocks prove at a look (by default the last one of the design)."""
    look = len(design.looks) - 1 if look is None else look
    failures, asked = _failures(pairs, 0), _failures(pairs, 1)
    failure_p = failures_p(pairs)
    more = failures[1] / max(asked[1], 1) - failures[0] / max(asked[0], 1)
    whole = design.share(look)
    for_failures = design.share_for_failures(look) if any(failures) else 0.0
    share = whole - for_failures
    primary = _ratio(design.primary, blocks_of(pairs, design.primary), design.effect, share)
    others = [
        found
        for text in design.secondary
        if text != design.primary and (found := _ratio(text, blocks_of(pairs, text), design.effect, share))
    ]
    outcome = primary.outcome if primary else Outcome.INCONCLUSIVE
    proved = failure_p < for_failures
    if proved:
        outcome = _with_failures(outcome, b_fails_more=more > 0)
    elif more > MORE_FAILURES and outcome in {Outcome.IMPROVED, Outcome.EQUIVALENT}:
        outcome = Outcome.INCONCLUSIVE
    return Comparison(
        design=design,
        look=look,
        outcome=outcome,
        primary=primary,
        secondary=_corrected(others, share),
        detectable=_detectable(primary, share),
        pairs_needed=_pairs_needed(primary, design, share),
        failures=failures,
        asked=asked,
        failure_p=failure_p,
        failures_decide=proved,
        length_ratio=_length_ratio(pairs),
    )


def judge_logs(logs: Values, better: Better, effect: float, alpha: float) -> Judged:
    """Return what independent log-ratios B / A prove at an error rate."""
    if len(logs) < FEWEST_PAIRS:
        return Judged(outcome=Outcome.INCONCLUSIVE, p=1.0, equivalence_p=1.0)
    p = max(t_test_p(logs), sign_flip_p(logs))
    margin = math.log1p(effect)
    equivalence_p = tost_p(logs, -margin, margin)
    rises = float(np.mean(logs)) > 0
    return Judged(
        outcome=_outcome(p, equivalence_p, alpha, rises=rises, better=better), p=p, equivalence_p=equivalence_p
    )


def blocks_of(pairs: Sequence[Pair], text: str) -> Blocks:
    """Return a figure in each pair, over the requests that both blocks answered."""
    metric, statistic = parse_measure(text)
    return [_block(a, b, metric, statistic) for a, b in pairs]


def _block(a: Driven, b: Driven, metric: Metric, statistic: str) -> tuple[float, float] | None:
    if not statistic:
        found = (summarise(a).rates[metric.name], summarise(b).rates[metric.name])
    else:
        answered_a, answered_b = answered(a), answered(b)
        both = [key for key in answered_a if key in answered_b]
        found = (
            _statistic([answered_a[key] for key in both], metric, statistic),
            _statistic([answered_b[key] for key in both], metric, statistic),
        )
    first, second = found
    return (first, second) if first and second else None


def answered(driven: Driven) -> dict[tuple[str, int], RequestRecord]:
    """Return the good answers of a block by item, and by how often it had been asked before in the block."""
    asked: Counter[str] = Counter()
    found = {}
    for record in sorted(driven.records, key=lambda each: each.index):
        if record.failure is None:
            found[record.item, asked[record.item]] = record
        asked[record.item] += 1
    return found


def _statistic(records: Sequence[RequestRecord], metric: Metric, statistic: str) -> float | None:
    if metric.of_request is not None:
        values = [value for record in records if (value := metric.of_request(record)) is not None]
    elif metric.of_gaps is not None:
        values = [gap for record in records for gap in metric.of_gaps(record) or ()]
    else:
        values = []
    found = distribution(values)
    return found.mean if statistic == "mean" else found.percentiles[int(statistic[1:])].value


def _ratio(text: str, blocks: Blocks, effect: float, alpha: float) -> Ratio | None:
    known = [each for each in blocks if each is not None]
    if not known:
        return None
    metric, _ = parse_measure(text)
    values = np.log(np.asarray(known, dtype=np.float64))
    logs = values[:, 1] - values[:, 0]
    judged = judge_logs(logs, metric.better, effect, alpha)
    several = logs.size > 1
    return Ratio(
        measure=text,
        better=metric.better,
        pairs=logs.size,
        a=math.exp(values[:, 0].mean()),
        b=math.exp(values[:, 1].mean()),
        ratio=math.exp(logs.mean()),
        interval=_exponent(mean_interval(logs, 1 - alpha)),
        bootstrap=_exponent(bootstrap_bca(logs, seed=_SEED, confidence=1 - alpha)) if several else None,
        noise=math.expm1(float(logs.std(ddof=1))) if several else 0.0,
        p=judged.p,
        adjusted_p=judged.p,
        equivalence_p=judged.equivalence_p,
        outcome=judged.outcome,
    )


def _corrected(ratios: Sequence[Ratio], alpha: float) -> tuple[Ratio, ...]:
    """Correct for the number of figures: one false alarm among all of them is as rare as asked for."""
    differing = holm([each.p for each in ratios])
    equal = holm([each.equivalence_p for each in ratios])
    return tuple(
        replace(
            each,
            adjusted_p=p,
            equivalence_p=equivalence_p,
            outcome=_outcome(p, equivalence_p, alpha, rises=each.ratio > 1, better=each.better),
        )
        for each, p, equivalence_p in zip(ratios, differing, equal, strict=True)
    )


def _outcome(p: float, equivalence_p: float, alpha: float, *, rises: bool, better: Better) -> Outcome:
    if equivalence_p < alpha:  # also where there surely is a difference: it is too small to matter
        return Outcome.EQUIVALENT
    if p >= alpha:
        return Outcome.INCONCLUSIVE
    return Outcome.IMPROVED if rises == (better == "higher") else Outcome.REGRESSED


def _exponent(interval: Interval | None) -> Interval | None:
    if interval is None:
        return None
    return Interval(low=math.exp(interval.low), high=math.exp(interval.high), confidence=interval.confidence)


def _detectable(primary: Ratio | None, alpha: float) -> float | None:
    if primary is None or primary.pairs < FEWEST_PAIRS:
        return None
    return math.expm1(_reach(math.log1p(primary.noise), primary.pairs, alpha))


def _pairs_needed(primary: Ratio | None, design: Design, alpha: float, most: int = 1000) -> int | None:
    """Return how many pairs find the effect that matters; None if more than anybody would measure."""
    if primary is None or primary.pairs < 2:  # noqa: PLR2004 -- one pair has no noise
        return None
    sd, wanted = math.log1p(primary.noise), math.log1p(design.effect)
    return next((n for n in range(FEWEST_PAIRS, most + 1) if _reach(sd, n, alpha) <= wanted), None)


def _reach(sd: float, pairs: int, alpha: float) -> float:
    """Return the log-ratio that Student's test finds with the wanted power."""
    degrees = pairs - 1
    return (t_quantile(1 - alpha / 2, degrees) + t_quantile(POWER, degrees)) * sd / math.sqrt(pairs)


def failures_p(pairs: Sequence[Pair]) -> float:
    """Return how likely both sides fail equally often, for all that is seen.

    Fisher's exact test over all requests, however few the pairs. Where failures come in blocks (a server that is gone
    for a while), the blocks differ by more than chance, and the requests count for as many fewer as those say, made
    larger by one standard error; so eight failures in one block prove no more than one.
    """
    counted = [(_failed_and_asked(a), _failed_and_asked(b)) for a, b in pairs]
    sides = np.array(counted, dtype=np.float64).reshape(-1, 2, 2)
    failed, asked = sides[:, :, 0].sum(axis=0), sides[:, :, 1].sum(axis=0)
    if not failed.any() or not asked.all():
        return 1.0
    worth = _worth(sides)
    numbers = [math.floor(each / worth + 1e-9) for each in asked]
    less = int(failed[1] / asked[1] < failed[0] / asked[0])  # the side that fails less often
    found = [0, 0]
    found[less] = min(math.ceil(failed[less] / worth - 1e-9), numbers[less])
    found[1 - less] = min(math.floor(failed[1 - less] / worth + 1e-9), numbers[1 - less])
    if found[1 - less] * numbers[less] <= found[less] * numbers[1 - less]:
        return 1.0
    return fisher_p(found[0], numbers[0], found[1], numbers[1])


def _worth(sides: npt.NDArray[np.float64]) -> float:
    """Return how many requests are worth one, from how much more the blocks of a side differ than chance lets them."""
    sides = sides[(sides[:, :, 1] > 0).all(axis=1)]
    if len(sides) < 2:  # noqa: PLR2004 -- one block says nothing about blocks
        return max(1.0, float(sides[:, :, 1].max(initial=1.0)))
    shares, size = sides[:, :, 0] / sides[:, :, 1], float(sides[:, :, 1].mean())
    middle = sides[:, :, 0].sum(axis=0) / sides[:, :, 1].sum(axis=0)
    by_chance = float((middle * (1 - middle)).sum()) / size
    ratio = float(shares.var(axis=0, ddof=1).sum()) / by_chance if by_chance > 0 else 1.0
    return min(ratio * (1 + 1 / math.sqrt(len(sides) - 1)), max(1.0, size)) if ratio > 1 else 1.0


def _failed_and_asked(driven: Driven) -> tuple[int, int]:
    counts = summarise(driven).counts
    return counts.failed + counts.dropped, counts.ok + counts.failed + counts.dropped


def _failures(pairs: Sequence[Pair], which: int) -> tuple[int, int]:
    """Return of A and of B how many requests failed (0), or how many there were (1)."""
    return (
        sum(_failed_and_asked(a)[which] for a, _ in pairs),
        sum(_failed_and_asked(b)[which] for _, b in pairs),
    )


def _with_failures(outcome: Outcome, *, b_fails_more: bool) -> Outcome:
    """Return the verdict where one surely fails more often: an answer that does not come is not quick."""
    if b_fails_more:
        return Outcome.REGRESSED
    return Outcome.INCONCLUSIVE if outcome is Outcome.REGRESSED else Outcome.IMPROVED


def _length_ratio(pairs: Sequence[Pair]) -> float | None:
    sums = [0, 0]
    for a, b in pairs:
        first, second = answered(a), answered(b)
        for key in first.keys() & second.keys():
            lengths = first[key].completion_tokens, second[key].completion_tokens
            if lengths[0] is not None and lengths[1] is not None:
                sums[0] += lengths[0]
                sums[1] += lengths[1]
    return sums[1] / sums[0] if sums[0] else None
