"""Requests and tokens per minute of each key: buckets that reserve first and settle afterwards.

A request reserves its prompt and the longest answer it may get before it enters the line, and gives back what it did
not use. Failed requests count as well: they cost a request and the tokens of their prompt, or an error loop would be
free. Only requests that the server turned away for its own reasons are given back whole.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from qwenops.serve.line import Refusal

_MINUTE_S = 60.0


@dataclass(slots=True)
class Bucket:
    """A token bucket that holds one minute's worth and refills evenly; it may go below zero when settled."""

    per_min: float
    level: float
    at_s: float

    def refill(self, now_s: float) -> None:
        """Add what came in since the last look."""
        self.level = min(self.per_min, self.level + (now_s - self.at_s) * self.per_min / _MINUTE_S)
        self.at_s = now_s

    def wait_s(self, amount: float) -> float:
        """Return the time until `amount` can be taken (0: now). More than a minute's worth needs a full bucket."""
        missing = min(amount, self.per_min) - self.level
        return max(0.0, missing * _MINUTE_S / self.per_min)

    def resize(self, per_min: float) -> None:
        """Take another rate over, keeping what was used."""
        self.level += per_min - self.per_min
        self.per_min = per_min


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What one request has taken in advance."""

    key_id: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted:
    """Which limit is used up, and when a new try makes sense."""

    refusal: Refusal
    limit: int
    retry_after_s: float


@dataclass(slots=True)
class Quota:
    """The buckets of all keys; a key without limits has none."""

    clock: Callable[[], float]
    _requests: dict[str, Bucket] = field(default_factory=dict)
    _tokens: dict[str, Bucket] = field(default_factory=dict)

    def reserve(
        self, key_id: str, *, tokens: int, requests_per_min: int, tokens_per_min: int
    ) -> Reservation | Exhausted:
        """Take one request and `tokens` in advance, or say what is used up; 0 is no limit. Takes all or nothing."""
        now_s = self.clock()
        by_request = self._bucket(self._requests, key_id, requests_per_min, now_s)
        by_token = self._bucket(self._tokens, key_id, tokens_per_min, now_s)
        if by_request and (wait_s := by_request.wait_s(1)):
            return Exhausted(refusal=Refusal.KEY_REQUESTS, limit=requests_per_min, retry_after_s=wait_s)
        if by_token and (wait_s := by_token.wait_s(tokens)):
            return Exhausted(refusal=Refusal.KEY_TOKENS, limit=tokens_per_min, retry_after_s=wait_s)
        if by_request:
            by_request.level -= 1
        if by_token:
            by_token.level -= tokens
        return Reservation(key_id=key_id, tokens=tokens)

    def settle(self, reservation: Reservation, *, used_tokens: int) -> None:
        """Correct a reservation by what the request really used."""
        bucket = self._tokens.get(reservation.key_id)
        if bucket:
            bucket.refill(self.clock())
            bucket.level = min(bucket.per_min, bucket.level + reservation.tokens - used_tokens)

    def give_back(self, reservation: Reservation) -> None:
        """Undo a reservation: the server turned the request away for its own reasons."""
        self.settle(reservation, used_tokens=0)
        bucket = self._requests.get(reservation.key_id)
        if bucket:
            bucket.level = min(bucket.per_min, bucket.level + 1)

    @staticmethod
    def _bucket(buckets: dict[str, Bucket], key_id: str, per_min: int, now_s: float) -> Bucket | None:
        if not per_min:
            buckets.pop(key_id, None)
            return None
        bucket = buckets.setdefault(key_id, Bucket(per_min, per_min, now_s))
        bucket.refill(now_s)
        if bucket.per_min != per_min:
            bucket.resize(per_min)
        return bucket
