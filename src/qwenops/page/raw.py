"""Raw data that travels in a page: columns of whole steps, compressed, as text."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from qwenops.page.document import RawData

COARSER = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""By how much the steps of a column may grow until the page has its size."""


def packed(data: RawData, *, max_bytes: int) -> tuple[str, dict[str, float]] | None:
    """Return the data as base64 text of at most `max_bytes`, with each rounded column's step; None if nothing fits."""
    for factor in COARSER:
        steps = {name: step * factor for name, step in data.steps.items()}
        text = _pack(data, steps)
        if len(text) <= max_bytes:
            return text, steps
    return None


def _pack(data: RawData, steps: Mapping[str, float]) -> str:
    whole = {name: _column(values, steps.get(name)) for name, values in data.columns.items()}
    for name, base in data.after.items():
        if name in whole and base in whole:
            whole[name] = _after(data.columns[name], data.columns[base], base, steps[name])
    plain = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(plain.encode(), mtime=0)).decode()


def _after(
    values: Sequence[float | str | None], bases: Sequence[float | str | None], base: str, step: float
) -> dict[str, Any]:
    """Return a column as what it is more than another one of the same step, which takes fewer digits."""
    wholes = zip(_whole(values, step), _whole(bases, step), strict=True)
    return {"step": step, "after": base, "is": [None if a is None else a - (b or 0) for a, b in wholes]}


def _whole(values: Sequence[float | str | None], step: float) -> list[int | None]:
    return [None if value is None else round(float(value) / step) for value in values]


def _column(values: Sequence[float | str | None], step: float | None) -> dict[str, Any]:
    """Return a column: rounded numbers as differences of whole steps, anything else as places in a list of words."""
    if step is None:
        known: dict[float | str | None, int] = {}
        places = [known.setdefault(value, len(known)) for value in values]
        return {"words": list(known), "at": places}
    whole = _whole(values, step)
    ascending = all(b >= a for a, b in pairwise(whole) if a is not None and b is not None)
    if not ascending or None in whole:
        return {"step": step, "is": whole}
    return {"step": step, "by": [(b or 0) - (a or 0) for a, b in zip([0, *whole], whole, strict=False)]}
