"""How figures of an evaluation are written. They are the same in every language."""

from qwenops.classify.evaluate.evaluation import Estimate
from qwenops.page.document import Cell, Tone

UNKNOWN = "–"  # noqa: RUF001 -- says that there is no value


def score(value: float | None) -> str:
    """Return an F1, precision or recall."""
    return UNKNOWN if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    """Return a share as a percentage."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def points(value: float | None) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return UNKNOWN if value is None else f"{100 * value:+.1f}"


def p_value(p: float | None) -> str:
    """Return a p-value; one that is almost nothing says so."""
    if p is None:
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.3f}"  # noqa: PLR2004 -- three decimals show no less


def score_range(found: Estimate | None) -> str:
    """Return the interval of an F1, precision or recall; empty where there is none."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{found.low:.3f}–{found.high:.3f}"  # noqa: RUF001 -- a dash between two numbers


def share_range(found: Estimate | None) -> str:
    """Return the interval of a share; empty where there is none."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{100 * found.low:.1f}–{100 * found.high:.1f} %"  # noqa: RUF001 -- a dash between two numbers


def score_cell(found: Estimate | None, tone: Tone = Tone.PLAIN) -> Cell:
    """Return an F1, precision or recall with its interval."""
    if found is None:
        return Cell(text=UNKNOWN, tone=Tone.NOTE)
    return Cell(text=score(found.value), order=found.value, detail=score_range(found), tone=tone)


def share_cell(found: Estimate | None, tone: Tone = Tone.PLAIN) -> Cell:
    """Return a share with its interval."""
    if found is None:
        return Cell(text=UNKNOWN, tone=Tone.NOTE)
    return Cell(text=share(found.value), order=found.value, detail=share_range(found), tone=tone)


def count_cell(number: int) -> Cell:
    """Return a number of calls."""
    return Cell(text=f"{number:,}", order=number)
