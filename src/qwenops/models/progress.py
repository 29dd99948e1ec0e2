"""How far a download is: bytes, total and the rate of the last seconds."""

from collections.abc import Callable
from dataclasses import dataclass, field

from qwenops.text import say

REPORT_EVERY_S = 0.1
RATE_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far something is; `what` is a sentence for people."""

    what: str
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float = 0.0

    @property
    def fraction(self) -> float:
        """From 0 to 1; 0 while the total is unknown."""
        return self.done_bytes / self.total_bytes if self.total_bytes else 0.0


Report = Callable[[Progress], None]


@dataclass(slots=True, kw_only=True)
class Meter:
    """Adds up what arrives for several files and reports it, with the rate of the last seconds."""

    total_bytes: int
    report: Report
    monotonic: Callable[[], float]
    host: str
    per_file: dict[str, int] = field(default_factory=dict)
    seen: list[tuple[float, int]] = field(default_factory=list)

    def arrived(self, path: str, count: int) -> None:
        """Note that `count` bytes of a file are there."""
        self.per_file[path] = count
        now = self.monotonic()
        if not self.seen or now - self.seen[-1][0] >= REPORT_EVERY_S:
            self._tell(now)

    def finish(self) -> None:
        """Say that all is there."""
        self._tell(self.monotonic())

    def _tell(self, now: float) -> None:
        done = sum(self.per_file.values())
        self.seen = [each for each in self.seen if now - each[0] <= RATE_WINDOW_S] + [(now, done)]
        since, before = self.seen[0]
        rate = max(0.0, (done - before) / (now - since)) if now > since else 0.0
        self.report(
            Progress(
                what=say("Fetching from {host}", host=self.host),
                done_bytes=done,
                total_bytes=self.total_bytes,
                bytes_per_s=rate,
            )
        )
