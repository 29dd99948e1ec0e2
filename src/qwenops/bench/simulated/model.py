"""What a language-model server of a known law does and when: pure, without clock, loop or network.

Each request costs work, measured in nanoseconds that it would take alone: reading its prompt, then one token after the
other. While `n` requests hold slots each works at the speed `1 / (1 + contention (n - 1) + coherence n (n - 1))`, so
the server as a whole follows the Universal Scalability Law; the others wait in order, and beyond the queue's limit they
are shed. With contention 0 and coherence 0 it is a server of `slots` independent lines (M/M/c with exponential
service), with contention 1 it shares one processor among all (M/G/1 processor sharing).

All running requests progress at one speed, so the model keeps one number for all of them, the progress since the server
was last idle, and a heap of the progress at which each next chunk is due. It is rebased only where the speed changes:
to ask in between changes nothing, not even a last bit. What a request costs is drawn from a hash of the seed, of what
it asks and of when it comes, never from a running generator; so after an idle moment the server is as new
(`options.regenerates`), and a run that is continued there equals one that was never interrupted.

    model = ServerModel(SimulatedOptions(slots=2))
    model.arrive("a", Demand(digest=7, prompt_tokens=100, max_tokens=8), at_ns=0)
    while (due_ns := model.next_ns()) is not None:
        for emission in model.advance(due_ns): ...
"""

import hashlib
import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from qwenops.bench.simulated.options import SimulatedOptions

_NORMAL = NormalDist()
_BLOCK_TOKENS = 16
_MOST_TRUTHS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one request asks."""

    digest: int
    """Of the prompt; equal prompts have equal ones."""
    prompt_tokens: int
    max_tokens: int
    forced: bool = False
    """Whether exactly `max_tokens` must be written."""
    thinking: bool = False
    blocks: Sequence[int] = ()
    """A hash of each beginning of the prompt, every 16 tokens, for the prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """Tokens that leave the server together."""

    request: str
    plan: "Plan"
    at_ns: int
    first_token: int
    num_tokens: int
    truth: "Truth | None" = None
    """What happened to the request, where this is its last emission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What truly happened to a request, in nanoseconds since the server began."""

    request: str
    digest: int
    arrived_ns: int
    started_ns: int | None = None
    """When it got its slot."""
    first_ns: int | None = None
    """When its first chunk left."""
    last_ns: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    num_tokens: int = 0
    num_chunks: int = 0
    longest_gap_ns: int = 0
    by_limit: bool = False
    """Whether `max_tokens` ended it."""
    shed: bool = False
    cancelled: bool = False

    @property
    def queue_s(self) -> float | None:
        """How long it waited for a slot."""
        return None if self.started_ns is None else (self.started_ns - self.arrived_ns) / 1e9

    @property
    def ttft_s(self) -> float | None:
        """From its arrival to its first chunk."""
        return None if self.first_ns is None else (self.first_ns - self.arrived_ns) / 1e9

    @property
    def e2e_s(self) -> float | None:
        """From its arrival to its last chunk."""
        return None if self.last_ns is None else (self.last_ns - self.arrived_ns) / 1e9

    @property
    def tpot_s(self) -> float | None:
        """From its first to its last chunk, by the tokens after the first."""
        if self.first_ns is None or self.last_ns is None or self.num_tokens < 2:  # noqa: PLR2004 -- one has no gap
            return None
        return (self.last_ns - self.first_ns) / 1e9 / (self.num_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a request will cost and write, decided when it comes."""

    prefill_ns: float
    """Work before the first token."""
    token_ns: float
    """Work of each token after it."""
    stall_at: int | None
    """The token before which it pauses."""
    stall_ns: float
    num_tokens: int
    num_thinking: int
    """The first of them that are reasoning."""
    by_limit: bool
    """Whether `max_tokens` ended it."""
    cached_tokens: int

    def work_ns(self, token: int) -> float:
        """Return the work from its slot to the token of this number, from 0."""
        stalled = self.stall_ns if self.stall_at is not None and token >= self.stall_at else 0.0
        return self.prefill_ns + token * self.token_ns + stalled


@dataclass(slots=True, kw_only=True)
class _Running:
    request: str
    demand: Demand
    arrived_ns: int
    plan: Plan | None = None
    """Made when it gets its slot, because then its prompt is looked for in the cache."""
    started_ns: int | None = None
    entered: float = 0.0
    """The common progress when it got its slot."""
    num_sent: int = 0
    num_chunks: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    longest_gap_ns: int = 0
    gone: bool = False


class Shed(Exception):  # noqa: N818 -- it says what happened to a request, and is no fault
    """The queue is full."""


class ServerModel:
    """The server: requests come, time passes, tokens leave. Times are nanoseconds since it began."""

    def __init__(self, options: SimulatedOptions) -> None:
        """Begin idle, at time 0."""
        self.options = options
        self.truths: deque[Truth] = deque(maxlen=_MOST_TRUTHS)
        """What happened to the requests that are over, in the order of their end; the oldest are dropped at last."""
        self._freezes = options.freezes_ns
        self._waiting: OrderedDict[str, _Running] = OrderedDict()
        self._running: dict[str, _Running] = {}
        self._due: list[tuple[float, int, _Running]] = []
        self._order = 0
        self._base_ns = 0
        self._base = 0.0
        self._speed = 1.0
        self._cache: OrderedDict[int, None] = OrderedDict()

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._running

    def arrive(self, request: str, demand: Demand, at_ns: int) -> None:
        """Take a request on; `advance(at_ns)` comes before.

        Raises:
            Shed: The queue is full.
        """
        options = self.options
        if len(self._running) >= options.slots and len(self._waiting) >= options.queue_limit:
            self.truths.append(Truth(request=request, digest=demand.digest, arrived_ns=at_ns, shed=True))
            raise Shed
        one = _Running(request=request, demand=demand, arrived_ns=at_ns)
        if len(self._running) >= options.slots:
            self._waiting[request] = one
            return
        self._running[request] = one
        self._rebase(at_ns)
        self._start(one, at_ns)

    def cancel(self, request: str, at_ns: int) -> None:
        """Give a request up that is not over; its slot goes to the next one."""
        one = self._waiting.pop(request, None) or self._running.get(request)
        if one is None:
            return
        one.gone = True
        if request in self._running:
            self._leave(one, at_ns)
        self._tell(one, cancelled=True)

    def next_ns(self) -> int | None:
        """Return when the next chunk leaves if nobody comes or goes; None when nothing runs."""
        while self._due and self._due[0][2].gone:
            heapq.heappop(self._due)
        return self._time_of(self._due[0][0]) if self._due else None

    def advance(self, to_ns: int) -> list[Emission]:
        """Let time pass and return what left the server until `to_ns`, in order."""
        found: list[Emission] = []
        while (due_ns := self.next_ns()) is not None and due_ns <= to_ns:
            found.append(self._emit(heapq.heappop(self._due)[2], due_ns))
        return found

    def frozen_until_ns(self, at_ns: int) -> int:
        """Return when it moves again: `at_ns` itself, or the end of the freeze that it lies in."""
        return next((end for begin, end in self._freezes if begin <= at_ns < end), at_ns)

    def memory_bytes(self, at_ns: int) -> int:
        """Return the memory it says it uses."""
        return self.options.memory_bytes + round(self.options.leak_bytes_per_h * at_ns / 3.6e12)

    # How far everyone is ------------------------------------------------------------------------------------------

    def _work_time_ns(self, at_ns: int) -> int:
        """Return how much of the time until `at_ns` it was not frozen."""
        return at_ns - sum(min(at_ns, end) - begin for begin, end in self._freezes if begin < at_ns)

    def _progress(self, at_ns: int) -> float:
        passed_ns = at_ns - self._base_ns
        if self._freezes:
            passed_ns = self._work_time_ns(at_ns) - self._work_time_ns(self._base_ns)
        return self._base + passed_ns * self._speed

    def _time_of(self, progress: float) -> int:
        """Return the first nanosecond, outside of a freeze, at which everyone is at `progress`."""
        left_ns = max(0, math.ceil((progress - self._base) / self._speed))
        if not self._freezes:
            return self._base_ns + left_ns
        from_ns = self.frozen_until_ns(self._base_ns)
        at_ns = from_ns + left_ns
        for begin, end in self._freezes:
            if from_ns <= begin < at_ns:
                at_ns += end - begin
        return at_ns

    def _rebase(self, at_ns: int) -> None:
        """Note where everyone is, because the number of running ones has changed; who is alone begins at 0."""
        count = len(self._running)
        if count == 0:
            self._due.clear()
            self._order = 0
        self._base = self._progress(at_ns) if count > 1 or self._due else 0.0
        self._base_ns = at_ns
        options, count = self.options, max(count, 1)
        self._speed = 1.0 / (1.0 + options.contention * (count - 1) + options.coherence * count * (count - 1))

    # Coming and going ---------------------------------------------------------------------------------------------

    def _start(self, one: _Running, at_ns: int) -> None:
        """Let one that has just got a slot begin; the common progress is known to be right."""
        one.plan = plan_of(self.options, one.demand, one.arrived_ns, self._cached(one.demand))
        self._remember(one.demand)
        one.started_ns, one.entered = at_ns, self._progress(at_ns)
        self._expect(one, one.plan)

    def _expect(self, one: _Running, plan: Plan) -> None:
        """Put its next chunk into the heap."""
        last = min(one.num_sent + self.options.bundle, plan.num_tokens) - 1
        self._order += 1
        heapq.heappush(self._due, (one.entered + plan.work_ns(last), self._order, one))

    def _emit(self, one: _Running, at_ns: int) -> Emission:
        plan = one.plan
        assert plan is not None  # noqa: S101 -- it runs
        count = min(self.options.bundle, plan.num_tokens - one.num_sent)
        first, one.num_sent = one.num_sent, one.num_sent + count
        one.num_chunks += 1
        if one.last_ns is None:
            one.first_ns = at_ns
        else:
            one.longest_gap_ns = max(one.longest_gap_ns, at_ns - one.last_ns)
        one.last_ns = at_ns
        truth: Truth | None = None
        if one.num_sent == plan.num_tokens:
            one.gone = True
            self._leave(one, at_ns)
            truth = self._tell(one)
        else:
            self._expect(one, plan)
        return Emission(request=one.request, plan=plan, at_ns=at_ns, first_token=first, num_tokens=count, truth=truth)

    def _leave(self, one: _Running, at_ns: int) -> None:
        """Free its slot, and give it to who has waited longest."""
        del self._running[one.request]
        if self._waiting:
            _, following = self._waiting.popitem(last=False)
            self._running[following.request] = following
            self._start(following, at_ns)
        else:
            self._rebase(at_ns)

    def _tell(self, one: _Running, *, cancelled: bool = False) -> Truth:
        truth = Truth(
            request=one.request,
            digest=one.demand.digest,
            arrived_ns=one.arrived_ns,
            started_ns=one.started_ns,
            first_ns=one.first_ns,
            last_ns=one.last_ns,
            prompt_tokens=one.demand.prompt_tokens,
            cached_tokens=one.plan.cached_tokens if one.plan else 0,
            num_tokens=one.num_sent,
            num_chunks=one.num_chunks,
            longest_gap_ns=one.longest_gap_ns,
            by_limit=one.plan.by_limit if one.plan else False,
            cancelled=cancelled,
        )
        self.truths.append(truth)
        return truth

    # The prefix cache ---------------------------------------------------------------------------------------------

    def _cached(self, demand: Demand) -> int:
        """Return how many tokens of the prompt need no reading; one token is always read."""
        count = 0
        for block in demand.blocks if self.options.cache_tokens else ():
            if block not in self._cache:
                break
            count += 1
        return min(count * _BLOCK_TOKENS, demand.prompt_tokens - 1)

    def _remember(self, demand: Demand) -> None:
        for block in demand.blocks if self.options.cache_tokens else ():
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) * _BLOCK_TOKENS > self.options.cache_tokens:
            self._cache.popitem(last=False)


def plan_of(options: SimulatedOptions, demand: Demand, at_ns: int, cached_tokens: int) -> Plan:
    """Decide what a request that comes at `at_ns` costs and writes: a pure function of its arguments.

    How long the answer is depends on what is asked alone, as with greedy decoding; what it costs also on when.
    """
    num_answer = demand.max_tokens
    if options.answer_tokens and not demand.forced:
        spread = options.answer_spread * _normal(options.seed, demand.digest, "length")
        num_answer = max(1, round(options.answer_tokens * math.exp(spread)))
    num_thinking = options.thinking_tokens if demand.thinking else 0
    num_tokens = min(num_thinking + num_answer, demand.max_tokens)
    came = (options.seed, demand.digest, at_ns)
    factor = 1.0 + options.drift_per_h * at_ns / 3.6e12
    if options.spread:
        factor *= math.exp(options.spread * _normal(*came, "cost"))
    if options.service == "work":
        read = demand.prompt_tokens - cached_tokens
        prefill_ns = factor * read / options.prefill_tokens_per_s * 1e9 if options.prefill_tokens_per_s else 0.0
        token_ns = factor / options.decode_tokens_per_s * 1e9 if options.decode_tokens_per_s else 0.0
    else:
        total_ns = factor * options.service_s * 1e9
        if options.service == "exponential":
            total_ns *= -math.log(_uniform(*came, "service"))
        prefill_ns = total_ns * (options.first_share if num_tokens > 1 else 1.0)
        token_ns = (total_ns - prefill_ns) / max(1, num_tokens - 1)
    stalls = bool(options.stall_ratio) and _uniform(*came, "stall") < options.stall_ratio
    return Plan(
        prefill_ns=max(0.0, prefill_ns),
        token_ns=max(0.0, token_ns),
        stall_at=max(1, num_tokens // 2) if stalls else None,
        stall_ns=options.stall_s * 1e9,
        num_tokens=num_tokens,
        num_thinking=min(num_thinking, num_tokens),
        by_limit=num_tokens == demand.max_tokens,
        cached_tokens=cached_tokens,
    )


def digest_of(*parts: object) -> int:
    """Return a hash that is the same in every process."""
    said = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest())


def _uniform(*parts: object) -> float:
    """Return a number above 0 and below 1 that depends on `parts` alone."""
    return ((digest_of(*parts) >> 11) + 0.5) / 2**53


def _normal(*parts: object) -> float:
    return _NORMAL.inv_cdf(_uniform(*parts))


def befalls(ratio: float, *parts: object) -> bool:
    """Whether what happens to a share of all requests happens to this one."""
    return ratio >= 1 or (ratio > 0 and _uniform(*parts, "fault") < ratio)
