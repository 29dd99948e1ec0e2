"""Whether a run's folder still holds every request that was counted when a part of it ended. Pure.

Records can be lost after the run: a disk that was full or failed, a copy that was cut off, a file that was edited. What
is left would give figures, and they would be of another run.
"""

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenops.bench.record import RequestRecord
from qwenops.errors import InvalidRunError
from qwenops.text import say

Lines = Sequence[Mapping[str, Any]]
"""What `segments.jsonl` holds."""


class Counted:
    """Counts the records of a run, part by part, while somebody else reads them.

    Args:
        lines: What `segments.jsonl` holds.
    """

    def __init__(self, lines: Lines) -> None:
        """Begin with none."""
        self._lines = lines
        self._firsts = [line["first_index"] for line in lines if line["event"] == "began"]
        self._found: Counter[int] = Counter()

    def passed(self, records: Iterable[RequestRecord]) -> Iterator[RequestRecord]:
        """Yield the records, each counted."""
        for record in records:
            self._found[bisect.bisect_right(self._firsts, record.index) - 1] += 1
            yield record

    def check(self, path: Path) -> None:
        """Hold what was found against what the parts counted at their end.

        Raises:
            InvalidRunError: Records are missing.
        """
        drops = Counter(line["number"] for line in self._lines if line["event"] == "dropped")
        for line in self._lines:
            if line["event"] != "ended" or line["interrupted"]:
                continue
            number = line["number"]
            due, found = int(line.get("positions", 0)) - drops[number], self._found[number]
            if found < due:
                raise InvalidRunError(
                    say(
                        "Records are missing in {path}: {found} of the {due} requests of a part are left.",
                        path=str(path),
                        found=found,
                        due=due,
                    ),
                    hint=say("Restore requests.jsonl from a copy, or measure again: what is left proves nothing."),
                )
