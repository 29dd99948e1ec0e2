"""What Locust's processes, and this one, take of the machine's CPU while they measure: they are the client."""

from collections.abc import Callable, Sequence

Read = Callable[[int], int | None]
"""Returns the CPU time of a process in nanoseconds; None where it is gone, or may not be looked at."""


def cpu_ns(process_id: int) -> int | None:
    """Return the CPU time that a process has used, user and system."""
    import psutil

    try:
        used = psutil.Process(process_id).cpu_times()
    except (psutil.Error, OSError):
        return None
    return round((used.user + used.system) * 1e9)


class Effort:
    """Adds up the CPU time of processes between the first look at each and the last one.

    Args:
        process_ids: Whose.
        read: Reads it.
    """

    def __init__(self, process_ids: Sequence[int], read: Read = cpu_ns) -> None:
        """Begin with nothing seen."""
        self._process_ids = process_ids
        self._read = read
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._began_ns: int | None = None
        self._seen_ns = 0

    def look(self, now_ns: int) -> None:
        """See how much it is by now."""
        for each in self._process_ids:
            used_ns = self._read(each)
            if used_ns is None:
                continue
            self._first.setdefault(each, used_ns)
            self._last[each] = used_ns
            self._began_ns = now_ns if self._began_ns is None else self._began_ns
            self._seen_ns = now_ns

    def total(self) -> tuple[int, int] | None:
        """Return the CPU time and the time in which it was used; None unless each process was seen twice."""
        if self._began_ns is None or self._seen_ns <= self._began_ns or len(self._last) < len(self._process_ids):
            return None
        return sum(self._last[each] - first for each, first in self._first.items()), self._seen_ns - self._began_ns
