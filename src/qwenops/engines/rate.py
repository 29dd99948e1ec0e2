"""How fast an engine was lately."""

FORGET = 0.95
"""What a step's share in the measured rates keeps with each later step."""


class Rate:
    """Tokens per second over the recent past."""

    __slots__ = ("_seconds", "_tokens")

    def __init__(self) -> None:
        """Know nothing yet."""
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count one step."""
        self._tokens = self._tokens * FORGET + tokens
        self._seconds = self._seconds * FORGET + seconds

    @property
    def per_s(self) -> float:
        """The rate; 0 while nothing was counted."""
        return self._tokens / self._seconds if self._seconds > 0 else 0.0
