"""Raw data that travels in a page: columns of whole steps, compressed, as text."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from qwenops.page.document import RawData

COARSER = (1, 10, 100, 1000)
"""By how much the steps of a column may grow until the page has its size."""


def packed(data: RawData, *, max_bytes: int) -> tuple[str, dict[str, float]] | None:
    """Return the data as base64 text of at most `max_bytes`, with each rounded column's step; None if nothing fits."""
    for factor in COARSER:
        steps = {name: step * factor for name, step in data.steps.items()}
        text = _pack(data.columns, steps)
        if len(text) <= max_bytes:
            return text, steps
    return None


def _pack(columns: Mapping[str, Sequence[float | str | None]], steps: Mapping[str, float]) -> str:
    whole = {name: _column(values, steps.get(name)) for name, values in columns.items()}
    plain = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(plain.encode(), mtime=0)).decode()


def _column(values: Sequence[float | str | None], step: float | None) -> dict[str, Any]:
    """Return a column: rounded numbers as differences of whole steps, anything else as places in a list of words."""
    if step is None:
        known: dict[float | str | None, int] = {}
        places = [known.setdefault(value, len(known)) for value in values]
        return {"words": list(known), "at": places}
    whole = [None if value is None else round(float(value) / step) for value in values]
    ascending = all(b >= a for a, b in pairwise(whole) if a is not None and b is not None)
    if not ascending or None in whole:
        return {"step": step, "is": whole}
    return {"step": step, "by": [(b or 0) - (a or 0) for a, b in zip([0, *whole], whole, strict=False)]}
