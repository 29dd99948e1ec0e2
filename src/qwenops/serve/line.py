"""Who is served next: the waiting line in front of the engine, without clocks, tasks or sockets.

Within a priority each key has its own first-in-first-out queue, and the keys share the engine by start-time fair
queueing: a request gets the tag `max(virtual time, its key's last finish)`, the smallest tag starts next, and the
virtual time is the tag that started last. A key that sends a thousand requests therefore waits behind its own, not in
front of everybody else's. Batch requests start when no interactive one waits, and every `BATCH_TURN`-th time anyway, so
they are slow and never stuck. A request for several answers takes a place of the engine for each; it waits at the
front until so many are free, and one that wants more than there are runs alone.
"""

import heapq
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

BATCH_TURN = 8
"""One start in so many goes to a waiting batch request even while interactive ones wait."""


class Priority(IntEnum):
    """Who goes first; a person in front of a screen before a job in the night."""

    INTERACTIVE = 0
    BATCH = 1


class Refusal(StrEnum):
    """Why a request was not let in; the label of the metric of shed requests."""

    QUEUE_REQUESTS = "queue_requests"
    QUEUE_TOKENS = "queue_tokens"
    KEY_CONCURRENCY = "key_concurrency"
    KEY_REQUESTS = "key_requests"
    KEY_TOKENS = "key_tokens"
    DEADLINE = "deadline"
    MAX_WAIT = "max_wait"
    NOT_READY = "not_ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One request in the line or in the engine."""

    id: int
    key_id: str
    priority: Priority
    prompt_tokens: int
    output_tokens: int
    """What it is expected to generate."""
    tag: float
    places: int = 1
    """Of the engine, one for each answer."""


@dataclass(slots=True)
class _Key:
    open: int = 0
    finish: float = 0.0


@dataclass(slots=True, kw_only=True)
class Line:
    """Requests that run and requests that wait. Every operation is O(log n)."""

    slots: int
    """Places: answers that may be made at the same time."""
    max_requests: int
    """Requests that may wait."""
    max_tokens: int
    """Prompt tokens that may wait."""
    running: dict[int, Entry] = field(default_factory=dict)
    waiting: dict[int, Entry] = field(default_factory=dict)
    running_places: int = 0
    waiting_places: int = 0
    waiting_prompt_tokens: int = 0
    waiting_output_tokens: int = 0
    _heaps: dict[Priority, list[tuple[float, int]]] = field(default_factory=lambda: {each: [] for each in Priority})
    _num_waiting: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))
    _keys: dict[str, _Key] = field(default_factory=dict)
    _virtual: float = 0.0
    _next_id: int = 0
    _since_batch: int = 0

    def open_of(self, key_id: str) -> int:
        """Return how many requests of a key run or wait."""
        key = self._keys.get(key_id)
        return key.open if key else 0

    def refusal(self, key_id: str, *, prompt_tokens: int, places: int = 1, key_concurrency: int = 0) -> Refusal | None:
        """Say why a request may not come in now; None when it may. Nothing changes."""
        if key_concurrency and self.open_of(key_id) >= key_concurrency:
            return Refusal.KEY_CONCURRENCY
        if not self.waiting and self._has_room(places):
            return None
        if len(self.waiting) >= self.max_requests:
            return Refusal.QUEUE_REQUESTS
        if self.waiting_prompt_tokens + prompt_tokens > self.max_tokens:
            return Refusal.QUEUE_TOKENS
        return None

    def enter(
        self,
        key_id: str,
        *,
        priority: Priority,
        prompt_tokens: int,
        output_tokens: int,
        places: int = 1,
        cost: float = 1.0,
    ) -> Entry:
        """Let a request wait that `refusal` has nothing against; `cost` is its share of the engine's time."""
        key = self._keys.setdefault(key_id, _Key())
        tag = max(self._virtual, key.finish)
        key.finish = tag + cost
        key.open += 1
        self._next_id += 1
        entry = Entry(
            id=self._next_id,
            key_id=key_id,
            priority=priority,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            tag=tag,
            places=places,
        )
        self.waiting[entry.id] = entry
        self.waiting_places += places
        self.waiting_prompt_tokens += prompt_tokens
        self.waiting_output_tokens += output_tokens
        self._num_waiting[priority] += 1
        heapq.heappush(self._heaps[priority], (tag, entry.id))
        return entry

    def start(self) -> list[Entry]:
        """Move those whose turn it is from waiting to running, and return them."""
        started = []
        while self.waiting:
            entry = self._first(self._whose_turn())
            if not self._has_room(entry.places):
                break
            self._count_turn(entry.priority)
            heapq.heappop(self._heaps[entry.priority])
            self._forget_waiting(entry)
            self.running[entry.id] = entry
            self.running_places += entry.places
            self._virtual = max(self._virtual, entry.tag)
            started.append(entry)
        return started

    def leave(self, entry_id: int) -> None:
        """Take a request out, whether it waits or runs; one that is not there is fine."""
        entry = self.waiting.get(entry_id)
        if entry is not None:
            self._forget_waiting(entry)
            self._compact(entry.priority)
        elif (entry := self.running.pop(entry_id, None)) is not None:
            self.running_places -= entry.places
        else:
            return
        self._keys[entry.key_id].open -= 1
        self._forget_idle_keys(entry.key_id)

    def _has_room(self, places: int) -> bool:
        return not self.running or self.running_places + places <= self.slots

    def _whose_turn(self) -> Priority:
        interactive, batch = self._num_waiting[Priority.INTERACTIVE], self._num_waiting[Priority.BATCH]
        if batch and (not interactive or self._since_batch + 1 >= BATCH_TURN):
            return Priority.BATCH
        return Priority.INTERACTIVE

    def _count_turn(self, priority: Priority) -> None:
        if priority is Priority.BATCH:
            self._since_batch = 0
        elif self._num_waiting[Priority.BATCH]:
            self._since_batch += 1

    def _first(self, priority: Priority) -> Entry:
        """Return who waits at the front, behind whoever gave up."""
        heap = self._heaps[priority]
        while heap[0][1] not in self.waiting:
            heapq.heappop(heap)
        return self.waiting[heap[0][1]]

    def _forget_waiting(self, entry: Entry) -> None:
        del self.waiting[entry.id]
        self.waiting_places -= entry.places
        self.waiting_prompt_tokens -= entry.prompt_tokens
        self.waiting_output_tokens -= entry.output_tokens
        self._num_waiting[entry.priority] -= 1

    def _compact(self, priority: Priority) -> None:
        """Drop the heap's entries of requests that gave up, before they outnumber those that wait."""
        heap = self._heaps[priority]
        if len(heap) > 64 + 2 * self._num_waiting[priority]:
            heap[:] = [each for each in heap if each[1] in self.waiting]
            heapq.heapify(heap)

    def _forget_idle_keys(self, key_id: str) -> None:
        """Keep no memory of keys that owe nothing."""
        key = self._keys[key_id]
        if not key.open and key.finish <= self._virtual:
            del self._keys[key_id]
        if not self.running and not self.waiting:
            self._keys.clear()
            self._virtual = 0.0
