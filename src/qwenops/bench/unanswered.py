"""What the requests without a good answer have in common: what was said most often, and since when nothing answers.

A table of failures by kind does not tell an operator what to do; the server's own words do. Pure.
"""

from collections import Counter
from collections.abc import Callable

from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.text import Text, say

SILENT = 3
"""So many failures in a row, up to the end, mean that nothing answers any more."""
_MOST_MESSAGES = 1000
_LONGEST = 300


class Unanswered:
    """Looks at each request of a run that is measured, in the order in which they end."""

    def __init__(self) -> None:
        """Begin with none."""
        self.answered = 0
        self.failed = 0
        self._messages: dict[Failure, Counter[str]] = {}
        self._silent: Counter[tuple[Failure, str]] = Counter()
        self._silent_since_ns = 0

    def look(self, record: RequestRecord) -> None:
        """Take note of how a request ended; one that was interrupted or warmed up says nothing."""
        if record.phase is Phase.WARMUP or record.failure is Failure.INTERRUPTED:
            return
        if record.failure is None:
            self.answered += 1
            self._silent.clear()
            return
        self.failed += 1
        message = record.message[:_LONGEST]
        said = self._messages.setdefault(record.failure, Counter())
        if message in said or len(said) < _MOST_MESSAGES:
            said[message] += 1
        if not self._silent:
            self._silent_since_ns = record.ended_ns or record.scheduled_ns
        if (record.failure, message) in self._silent or len(self._silent) < _MOST_MESSAGES:
            self._silent[record.failure, message] += 1

    @property
    def nothing_worked(self) -> bool:
        """Whether requests were sent and none had a good answer."""
        return bool(self.failed) and not self.answered

    def sentences(self, moment: Callable[[int], str]) -> tuple[Text, ...]:
        """Say what was heard most often for each kind of failure, and since when there was nothing else.

        Args:
            moment: Says a moment of the run, in nanoseconds since its origin, for people.
        """
        found = []
        for failure, said in sorted(self._messages.items(), key=lambda each: -each[1].total()):
            (message, number), *_ = said.most_common(1)
            found.append(
                say(
                    "Failures ({failure}): {number}; said most often ({same}): {message}",
                    number=said.total(),
                    failure=failure.value,
                    same=number,
                    message=message or "-",
                )
            )
        silent = self._silent.total()
        if self.answered and silent >= SILENT:
            ((_, message), _), *_ = self._silent.most_common(1)
            found.append(
                say(
                    "From {moment} on nothing was answered any more: the last {number} requests failed. {message}",
                    moment=moment(self._silent_since_ns),
                    number=silent,
                    message=message,
                )
            )
        return tuple(found)
