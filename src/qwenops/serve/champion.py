"""The classifier that serves now, and how the next one takes its place without a request being lost.

    pointer moves ──> the new one is opened, while the old one serves ──> new requests go to the new one
                                                                     └──> the old one closes after its last request

`serve` says here what a classifier is; `classify` makes one, and the command line brings the two together. One that
cannot be opened, because a byte of it changed or there is no memory for two, leaves the old one where it is.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from qwenops.calls.schema import Call
from qwenops.engines.seam import EngineHealth, EngineState
from qwenops.errors import EngineUnavailableError, QwenOpsError
from qwenops.state.options import StateOptions
from qwenops.text import Text, clause, say

if TYPE_CHECKING:
    from qwenops.state.database import Database

LOOK_EVERY_S = 1.0
AGAIN_S = 30.0
"""After this time a classifier that could not be opened is tried again."""
_ASK_AGAIN_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a classifier is."""

    name: str
    """In the registry."""
    ref: str
    """Name and version, as answers have it."""
    taxonomy: str
    """Name and version: `telecom-cn@2`."""
    classes: tuple[str, ...]
    """The codes that a label can have."""
    critical: frozenset[str] = frozenset()
    """Classes of which none may be overlooked."""
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What else is said of a call, and the values that this can have."""
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What classes and those above them are called, in Chinese and in English."""
    budget_tokens: int = 0
    """The longest prompt."""
    warning: Text | None = None
    """What should be known although it can be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedTurns:
    """Turns that carried an answer: without them its class is less probable by `drop`."""

    turns: tuple[int, ...]
    drop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a classifier says about one call."""

    call: Call
    """As it was judged: redacted."""
    label: str
    path: tuple[str, ...]
    p: float
    probabilities: Mapping[str, float]
    decision: Literal["auto", "parent", "review"]
    threshold: float | None
    candidates: tuple[str, ...] = ()
    tokens: int = 0
    latency_s: float = 0.0
    carried: tuple[CarriedTurns, ...] | None = None
    """None where nobody asked."""


class Classifier(Protocol):
    """Says what calls are about."""

    @property
    def about(self) -> About:
        """What it is."""
        ...

    async def classify(self, calls: Sequence[Call], *, evidence: bool = False) -> Sequence[Judgement]:
        """Redact and judge calls, in their order.

        Raises:
            InvalidRequestError: A call cannot be judged; `param` is its place: `input[3]`.
            EngineError: The engine failed.
        """
        ...

    async def aclose(self) -> None:
        """Give back threads, memory and processes. A second call does nothing."""
        ...


class Source(Protocol):
    """Where classifiers come from."""

    def pointed(self) -> str:
        """Say which one should serve; empty for none. Cheap, and called from a thread.

        Raises:
            QwenOpsError: That cannot be found out now.
        """
        ...

    async def open(self, key: str) -> Classifier:
        """Check and open it.

        Raises:
            QwenOpsError: It is damaged, does not fit, or cannot be loaded.
        """
        ...


@dataclass(slots=True, eq=False)
class _Held:
    classifier: Classifier
    num_users: int = 0
    is_retired: bool = False


class Champion:
    """The classifier that serves now; belongs to the event loop."""

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        look_every_s: float = LOOK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve nothing until `look` has found something.

        Args:
            source: Where classifiers come from.
            name: What is followed, for messages.
            look_every_s: Time between two looks at the pointer.
            clock: Seconds that never go back.
        """
        self.name = name
        self._source = source
        self._look_every_s = look_every_s
        self._clock = clock
        self._held: _Held | None = None
        self._key = ""
        self._failed_key = ""
        self._again_s = 0.0
        self._failure: QwenOpsError | None = None
        self._one_at_a_time = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def about(self) -> About | None:
        """What serves now; None while nothing does."""
        return self._held.classifier.about if self._held is not None else None

    @property
    def failure(self) -> QwenOpsError | None:
        """Why the one that should serve does not."""
        return self._failure

    @property
    def health(self) -> EngineHealth:
        """How it is doing, in the words of engines."""
        if self._is_closed:
            return EngineHealth(state=EngineState.CLOSED)
        if self._held is not None:
            return EngineHealth(reason=self._failure.message if self._failure else "")
        return EngineHealth(state=EngineState.STARTING, reason=self._reason(), load_progress=0.0)

    async def follow(self) -> None:
        """Look at the pointer again and again."""
        while True:
            await self.look()
            await asyncio.sleep(self._look_every_s)

    async def look(self) -> None:
        """Let the classifier serve that is pointed at, if it is another one than before.

        What keeps it from that is logged and kept as `failure`.
        """
        async with self._one_at_a_time:
            try:
                key = await asyncio.to_thread(self._source.pointed)
                if self._is_news(key):
                    await self._change_to(key)
            except QwenOpsError as error:
                if self._failure is None or self._failure.message != error.message:
                    _log.error("%s serves on as it was: %s %s", self.name, error.message, error.hint)
                self._failure = error

    @contextlib.asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Classifier]:
        """Yield the classifier that serves now; it stays open until the block ends, whatever is promoted meanwhile.

        Raises:
            EngineUnavailableError: There is none yet.
        """
        held = self._serving()
        held.num_users += 1
        try:
            yield held.classifier
        finally:
            held.num_users -= 1
            self._close_if_idle(held)

    def about_now(self) -> About:
        """Return what serves now.

        Raises:
            EngineUnavailableError: Nothing does yet.
        """
        return self._serving().classifier.about

    async def aclose(self) -> None:
        """Close what is open; a second call does nothing."""
        self._is_closed = True
        held, self._held = self._held, None
        if held is not None:
            held.is_retired = True
            await _closed(held.classifier)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _serving(self) -> _Held:
        if self._held is None:
            raise EngineUnavailableError(
                say("No classifier serves: {why}.", why=clause(self._reason())),
                hint=say("`qwenops registry list` shows what there is; `qwenops registry promote` makes a champion."),
                retry_after_s=_ASK_AGAIN_S,
            )
        return self._held

    def _is_news(self, key: str) -> bool:
        if key == self._failed_key and self._clock() < self._again_s:
            return False
        if key == self._key:
            self._failure = None  # it points again at what serves
            return False
        return bool(key)

    async def _change_to(self, key: str) -> None:
        self._failed_key, self._again_s = key, self._clock() + AGAIN_S
        opened = await self._source.open(key)
        if self._is_closed:
            await _closed(opened)
            return
        self._failed_key, self._failure, self._key = "", None, key
        old, self._held = self._held, _Held(opened)
        _log.info("%s serves now", opened.about.ref)
        if opened.about.warning is not None:
            _log.warning("%s", opened.about.warning)
        if old is not None:
            old.is_retired = True
            self._close_if_idle(old)

    def _close_if_idle(self, held: _Held) -> None:
        if held.is_retired and not held.num_users:
            task = asyncio.create_task(_closed(held.classifier))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _reason(self) -> str:
        if self._failure is not None:
            return self._failure.message
        return say("{name} has no champion, or it is being loaded.", name=self.name)


async def _closed(classifier: Classifier) -> None:
    try:
        await classifier.aclose()
    except Exception:  # noqa: BLE001 -- another one serves already
        _log.exception("closing a classifier failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the routes about calls need besides what all routes have."""

    champion: Champion
    database: "Database | None" = None
    """Feedback, review queue and log; without it nothing is kept."""
    options: StateOptions = field(default_factory=StateOptions)
