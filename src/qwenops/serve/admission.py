"""The door of the engine: a bounded line, limits per key, priorities, deadlines, and an honest Retry-After.

429 is the caller's own limit, 503 is the server's. A request that the line has no room for is refused at once and
costs next to nothing; one that waits gives up its place when its client goes away. Probes and metrics never come
through here.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from qwenops.errors import DeadlineError, InvalidRequestError, LimitExceededError, OverloadedError, QwenOpsError
from qwenops.serve.line import Entry, Line, Priority, Refusal
from qwenops.serve.options import LimitOptions
from qwenops.serve.quota import Quota, Reservation
from qwenops.state.keys import NO_LIMITS, KeyLimits
from qwenops.text import say

__all__ = ["Admission", "Priority", "Refusal", "Speed", "Ticket", "Work", "parse_deadline", "seconds_of"]

_LONGEST_RETRY_S = 3600
_LONGEST_DEADLINE_S = 7 * 86_400.0
_RECENT_OUTPUTS = 32
_Piece = TypeVar("_Piece")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What waits."""

    requests: int = 0
    """To the engine: one for each answer."""
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast the engine was in the recent past, all running requests together; 0 is unknown."""

    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    requests_per_s: float = 0.0


def seconds_of(work: Work, speed: Speed) -> float:
    """Return how long `work` takes at `speed`: by tokens where both speeds are known, else by requests.

    Before anything was measured a request counts as one second.
    """
    if speed.prefill_tokens_per_s > 0 and speed.decode_tokens_per_s > 0:
        return work.prompt_tokens / speed.prefill_tokens_per_s + work.output_tokens / speed.decode_tokens_per_s
    return work.requests / (speed.requests_per_s if speed.requests_per_s > 0 else 1.0)


def parse_deadline(text: str, *, now: datetime) -> float:
    """Return the seconds that an `X-Request-Deadline` leaves: a number of seconds, or a time as in ISO 8601.

    Raises:
        InvalidRequestError: It is neither.
    """
    try:
        left_s = float(text.removesuffix("s"))
    except ValueError:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            left_s = math.nan
        else:
            left_s = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    if not math.isfinite(left_s):
        raise InvalidRequestError(
            say("The deadline {text!r} is neither seconds nor a time.", text=text[:64]),
            hint=say("Write X-Request-Deadline as `30` or as `2030-01-01T12:00:00Z`."),
            param="X-Request-Deadline",
        )
    return left_s


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """The right to use the engine, and what happened on the way to it."""

    entry: Entry
    arrived_s: float
    deadline_s: float | None
    """On the clock of the event loop; None is none."""
    started_s: float = 0.0
    completion_tokens: int = 0
    """Set by whoever counts them; what is used of the key's tokens per minute."""
    _scopes: set[asyncio.Timeout] = field(default_factory=set)
    _interruption: QwenOpsError | None = None

    @property
    def queue_s(self) -> float:
        """Time from arrival to its turn."""
        return self.started_s - self.arrived_s

    def interrupt(self, error: QwenOpsError) -> None:
        """Make `watch` raise `error` at its next or present wait."""
        self._interruption = error
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())

    async def watch(self, pieces: AsyncIterator[_Piece]) -> AsyncIterator[_Piece]:
        """Yield the pieces of an answer until it ends, its deadline passes or the server must stop.

        Several answers behind one ticket may be watched at the same time.

        Raises:
            DeadlineError: The deadline passed.
            OverloadedError: The server stopped before the answer was complete.
        """
        while True:
            if self._interruption is not None:
                raise self._interruption
            scope = asyncio.timeout_at(self.deadline_s)
            try:
                async with scope:
                    self._scopes.add(scope)
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not scope.expired():
                    raise
                raise (self._interruption or _late()) from None
            finally:
                self._scopes.discard(scope)
            yield piece


def _late() -> DeadlineError:
    return DeadlineError(
        say("The deadline of the request passed before its answer was complete."),
        hint=say("Allow more time, or ask for fewer tokens."),
    )


class Admission:
    """Lets requests through to the engine, as many at a time as it computes together."""

    def __init__(
        self,
        limits: LimitOptions,
        *,
        slots: int = 1,
        clock: Callable[[], float] = time.monotonic,
        speed: Callable[[], Speed] = Speed,
        check_open: Callable[[], None] | None = None,
        on_shed: Callable[[Refusal], None] | None = None,
    ) -> None:
        """Start with nobody in line.

        Args:
            limits: Lengths of the line and its wait.
            slots: Answers that the engine computes together.
            clock: Seconds that never run back.
            speed: What the engine measured itself; where it knows nothing, the rate of finished requests stands in.
            check_open: Raises while the server takes no requests (starting, stopping).
            on_shed: Told why, for each request that is turned away.
        """
        self.limits = limits
        self.line = Line(slots=slots, max_requests=limits.queue_requests, max_tokens=limits.queue_tokens)
        self.quota = Quota(clock)
        self._clock = clock
        self._speed = speed
        self._check_open = check_open
        self._on_shed = on_shed
        self._turns: dict[int, asyncio.Future[None]] = {}
        self._tickets: dict[int, Ticket] = {}
        self._outputs: deque[float] = deque(maxlen=_RECENT_OUTPUTS)
        """Tokens of an answer, of the last requests."""
        self._rate = FinishRate()

    @property
    def num_running(self) -> int:
        """Requests that the engine has."""
        return len(self.line.running)

    @property
    def num_waiting(self) -> int:
        """Requests in the line."""
        return len(self.line.waiting)

    @property
    def num_open(self) -> int:
        """Requests that wait or run."""
        return self.num_running + self.num_waiting

    @property
    def queued_work(self) -> Work:
        """What waits in the line."""
        return Work(
            requests=self.line.waiting_places,
            prompt_tokens=self.line.waiting_prompt_tokens,
            output_tokens=self.line.waiting_output_tokens,
        )

    @property
    def saturation_ratio(self) -> float:
        """Answers that are made or waited for, by places: 1 is exactly full, above 1 requests wait."""
        return (self.line.running_places + self.line.waiting_places) / self.line.slots

    @property
    def estimated_wait_s(self) -> float:
        """How long a request that came now would wait."""
        if self.line.running_places < self.line.slots:
            return 0.0
        return seconds_of(self.queued_work, self.speed())

    def speed(self) -> Speed:
        """Return what the engine measured, completed by the rate of finished requests."""
        return replace(self._speed(), requests_per_s=self._rate.per_s(self._clock()))

    def retry_after_s(self) -> int:
        """Return whole seconds for the Retry-After header, from 1 to an hour: queued work by measured speed."""
        return max(1, math.ceil(min(_LONGEST_RETRY_S, seconds_of(self.queued_work, self.speed()))))

    def reconfigure(self, limits: LimitOptions) -> None:
        """Take other limits over; those who wait already stay."""
        self.limits = limits
        self.line.max_requests = limits.queue_requests
        self.line.max_tokens = limits.queue_tokens

    def resize(self, slots: int) -> None:
        """Let another number of answers be made together, from now on."""
        self.line.slots = max(1, slots)
        self._start_next()

    def refuse_if_full(self, key_id: str = "", *, limits: KeyLimits = NO_LIMITS) -> None:
        """Turn a request away before its prompt is even read or tokenised, if nothing could come of it.

        Raises:
            LimitExceededError: The key has as many requests open as it may.
            OverloadedError: The line is full, or the server takes no requests.
        """
        self._refuse(key_id, prompt_tokens=0, places=1, limits=limits)

    @asynccontextmanager
    async def admit(
        self,
        *,
        key_id: str = "",
        prompt_tokens: int,
        max_tokens: int,
        places: int = 1,
        deadline_s: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
        limits: KeyLimits = NO_LIMITS,
    ) -> AsyncIterator[Ticket]:
        """Wait for a turn, hold a place while the body runs, and free it however the body ends.

        Args:
            key_id: Whose request it is; keys share the engine fairly.
            prompt_tokens: Length of the prompt.
            max_tokens: Longest answer, or of several answers all together.
            places: Answers, each of which takes a place of the engine.
            deadline_s: Seconds from now after which the caller has no use for an answer; None is no deadline.
            priority: Batch requests yield to interactive ones.
            limits: Of the key.

        Raises:
            LimitExceededError: The key is over its own limit (429).
            OverloadedError: The line is full, the wait too long, or the server takes no requests (503).
            DeadlineError: The deadline passed while it waited (504).
        """
        arrived_s = self._clock()
        self._refuse(key_id, prompt_tokens=prompt_tokens, places=places, limits=limits)
        self._refuse_hopeless(deadline_s)
        reservation = self._reserve(key_id, prompt_tokens + max_tokens, limits)
        expected = self._expected_output(max_tokens, places)
        work = Work(requests=places, prompt_tokens=prompt_tokens, output_tokens=expected)
        entry = self.line.enter(
            key_id,
            priority=priority,
            prompt_tokens=prompt_tokens,
            output_tokens=expected,
            places=places,
            cost=seconds_of(work, self.speed()),
        )
        now = asyncio.get_running_loop().time()
        ticket = Ticket(
            entry=entry,
            arrived_s=arrived_s,
            deadline_s=None if deadline_s is None else now + min(deadline_s, _LONGEST_DEADLINE_S),
        )
        await self._begin(ticket, reservation)
        try:
            yield ticket
        finally:
            self._end(ticket, reservation)

    async def _begin(self, ticket: Ticket, reservation: Reservation) -> None:
        """Wait for the turn; whoever does not get it, or has no use for it any more, leaves nothing behind."""
        try:
            await self._turn(ticket)
        except QwenOpsError:
            self.quota.give_back(reservation)
            self._leave(ticket)
            raise
        except BaseException:
            self.quota.settle(reservation, used_tokens=0)
            self._leave(ticket)
            raise
        ticket.started_s = self._clock()
        self._tickets[ticket.entry.id] = ticket
        self._rate.start(ticket.started_s)

    def _end(self, ticket: Ticket, reservation: Reservation) -> None:
        """Learn from a request that ended, settle what it used, and free its places."""
        entry = ticket.entry
        del self._tickets[entry.id]
        self._rate.finish(self._clock(), still_running=len(self._tickets), num=entry.places)
        if reservation.tokens > entry.prompt_tokens:  # else no answer was asked for, only a class
            self._outputs.append(ticket.completion_tokens / entry.places)
        self.quota.settle(reservation, used_tokens=entry.prompt_tokens + ticket.completion_tokens)
        self._leave(ticket)

    def interrupt_all(self, error: QwenOpsError) -> int:
        """Make every open request fail with `error`, and return how many there were."""
        num_open = self.num_open
        for turn in list(self._turns.values()):
            if not turn.done():
                turn.set_exception(error)
        for ticket in list(self._tickets.values()):
            ticket.interrupt(error)
        return num_open

    def _refuse(self, key_id: str, *, prompt_tokens: int, places: int, limits: KeyLimits) -> None:
        if self._check_open is not None:
            try:
                self._check_open()
            except QwenOpsError:
                self._shed(Refusal.NOT_READY)
                raise
        concurrency = limits.concurrency or self.limits.key_concurrency
        refusal = self.line.refusal(key_id, prompt_tokens=prompt_tokens, places=places, key_concurrency=concurrency)
        if refusal is None:
            return
        self._shed(refusal)
        if refusal is Refusal.KEY_CONCURRENCY:
            raise LimitExceededError(
                say("This key has {n} requests open, as many as it may.", n=concurrency),
                hint=say("Wait for one of them to finish."),
                retry_after_s=1,
            )
        wait_s = self.retry_after_s()
        raise OverloadedError(
            say("The server is full: {n} requests wait.", n=self.num_waiting),
            hint=say("Try again in {wait_s} seconds.", wait_s=wait_s),
            retry_after_s=wait_s,
        )

    def _refuse_hopeless(self, deadline_s: float | None) -> None:
        if deadline_s is None:
            return
        wait_s = self.estimated_wait_s
        if deadline_s <= 0:
            self._shed(Refusal.DEADLINE)
            raise _late()
        if wait_s > deadline_s and self._rate.per_s(self._clock()) > 0:
            self._shed(Refusal.DEADLINE)
            raise OverloadedError(
                say(
                    "The request would wait about {wait_s:.0f} seconds, and its deadline is in {left_s:.1f}.",
                    wait_s=wait_s,
                    left_s=deadline_s,
                ),
                hint=say("Allow more time, or try again later."),
                retry_after_s=self.retry_after_s(),
            )

    def _reserve(self, key_id: str, tokens: int, limits: KeyLimits) -> Reservation:
        taken = self.quota.reserve(
            key_id,
            tokens=tokens,
            requests_per_min=limits.requests_per_min,
            tokens_per_min=limits.tokens_per_min,
        )
        if isinstance(taken, Reservation):
            return taken
        self._shed(taken.refusal)
        wait_s = max(1, math.ceil(taken.retry_after_s))
        what = say("requests") if taken.refusal is Refusal.KEY_REQUESTS else say("tokens")
        raise LimitExceededError(
            say("This key may take {limit} {what} a minute, and has.", limit=taken.limit, what=what),
            hint=say("Try again in {wait_s} seconds.", wait_s=wait_s),
            retry_after_s=wait_s,
        )

    async def _turn(self, ticket: Ticket) -> None:
        """Wait until the ticket's request is started; whoever waits longest is told why it did not come to that."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._turns[ticket.entry.id] = turn
        self._start_next()
        last_s = loop.time() + self.limits.max_wait_s
        until_s = last_s if ticket.deadline_s is None else min(last_s, ticket.deadline_s)
        try:
            if not turn.done():
                async with asyncio.timeout_at(until_s):
                    await turn
            else:
                turn.result()
        except TimeoutError:
            if ticket.deadline_s is not None and ticket.deadline_s <= last_s:
                self._shed(Refusal.DEADLINE)
                raise _late() from None
            self._shed(Refusal.MAX_WAIT)
            raise OverloadedError(
                say("No place became free within {wait_s:.0f} seconds.", wait_s=self.limits.max_wait_s),
                hint=say("Try again later."),
                retry_after_s=self.retry_after_s(),
            ) from None
        finally:
            self._turns.pop(ticket.entry.id, None)

    def _leave(self, ticket: Ticket) -> None:
        self.line.leave(ticket.entry.id)
        self._start_next()

    def _start_next(self) -> None:
        for entry in self.line.start():
            turn = self._turns.get(entry.id)
            if turn is not None and not turn.done():
                turn.set_result(None)

    def _expected_output(self, max_tokens: int, num_answers: int) -> int:
        """Return how long the answers probably are: as those before, and never over what is asked for."""
        if not self._outputs:
            return max_tokens
        return min(max_tokens, math.ceil(num_answers * sum(self._outputs) / len(self._outputs)))

    def _shed(self, refusal: Refusal) -> None:
        if self._on_shed is not None:
            self._on_shed(refusal)


class FinishRate:
    """Answers finished per second of work, forgetting by half every minute."""

    _HALF_LIFE_S = 60.0

    def __init__(self) -> None:
        """Know nothing yet."""
        self._num_done = 0.0
        self._busy_s = 0.0
        self._since_s: float | None = None

    def start(self, now_s: float) -> None:
        """Note that a request started."""
        if self._since_s is None:
            self._since_s = now_s

    def finish(self, now_s: float, *, still_running: int, num: int = 1) -> None:
        """Note that a request of `num` answers ended."""
        self._pass_time(now_s)
        self._num_done += num
        if not still_running:
            self._since_s = None

    def per_s(self, now_s: float) -> float:
        """Return the rate; 0 while nothing has finished."""
        self._pass_time(now_s)
        return self._num_done / self._busy_s if self._num_done and self._busy_s > 0 else 0.0

    def _pass_time(self, now_s: float) -> None:
        if self._since_s is None:
            return
        passed_s = now_s - self._since_s
        self._since_s = now_s
        fade = 0.5 ** (passed_s / self._HALF_LIFE_S)
        self._num_done *= fade
        self._busy_s = self._busy_s * fade + passed_s
