from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from qwenops.serve.line import BATCH_TURN, Entry, Line, Priority, Refusal

KEYS = st.sampled_from(["", "a", "b"])


class AnyCourse(RuleBasedStateMachine):
    """Requests come, start, leave and give up in any order; the line keeps its promises all the way."""

    entries = Bundle("entries")

    def __init__(self) -> None:
        super().__init__()
        self.line = Line(slots=2, max_requests=5, max_tokens=100)
        self.open: dict[int, Entry] = {}
        self.started: dict[tuple[Priority, str], list[int]] = defaultdict(list)

    def note(self, started: list[Entry]) -> None:
        for entry in started:
            before = self.started[entry.priority, entry.key_id]
            assert not before or before[-1] < entry.id, "first in, first out, for each key and priority"
            before.append(entry.id)

    @rule(
        target=entries,
        key_id=KEYS,
        priority=st.sampled_from(Priority),
        prompt_tokens=st.integers(1, 60),
        cost=st.floats(0.01, 100),
        places=st.integers(1, 6),
        key_concurrency=st.integers(0, 3),
    )
    def arrive(
        self, key_id: str, priority: Priority, prompt_tokens: int, cost: float, places: int, key_concurrency: int
    ) -> Entry | None:
        line = self.line
        refusal = line.refusal(key_id, prompt_tokens=prompt_tokens, places=places, key_concurrency=key_concurrency)
        open_of_key = sum(entry.key_id == key_id for entry in self.open.values())
        assert (refusal is Refusal.KEY_CONCURRENCY) == bool(key_concurrency and open_of_key >= key_concurrency)
        if refusal is None:
            entry = line.enter(
                key_id, priority=priority, prompt_tokens=prompt_tokens, output_tokens=7, places=places, cost=cost
            )
            self.open[entry.id] = entry
            self.note(line.start())
            return entry
        if refusal is not Refusal.KEY_CONCURRENCY:
            enough = line.waiting or line.running_places + places > line.slots
            assert enough, "nobody is turned away while there are places enough"
        return None

    @rule(entry=consumes(entries))
    def leave(self, entry: Entry | None) -> None:
        if entry is not None:
            self.line.leave(entry.id)
            self.line.leave(entry.id)  # a second time does nothing
            del self.open[entry.id]
            self.note(self.line.start())

    @rule(slots=st.integers(1, 4))
    def resize(self, slots: int) -> None:
        self.line.slots = slots
        self.note(self.line.start())

    @invariant()
    def nobody_is_lost_and_no_limit_is_passed(self) -> None:
        line = self.line
        assert line.running.keys() | line.waiting.keys() == self.open.keys()
        assert not line.running.keys() & line.waiting.keys()
        assert len(line.waiting) <= line.max_requests
        assert line.waiting_prompt_tokens == sum(each.prompt_tokens for each in line.waiting.values())
        assert line.waiting_prompt_tokens <= line.max_tokens
        assert line.waiting_output_tokens == 7 * len(line.waiting)
        assert line.running_places == sum(each.places for each in line.running.values())
        assert line.waiting_places == sum(each.places for each in line.waiting.values())
        assert line.running or not line.waiting, "the engine never stands still while somebody waits"
        few = min((each.places for each in line.waiting.values()), default=0)
        fits = line.running_places + few <= line.slots
        if few and fits:
            assert max(each.places for each in line.waiting.values()) > few, "whoever fits waits for a larger one only"
        for key in ("", "a", "b"):
            assert line.open_of(key) == sum(each.key_id == key for each in self.open.values())

    def teardown(self) -> None:
        for entry_id in list(self.open):
            self.line.leave(entry_id)
            self.line.start()
        assert not self.line.running
        assert not self.line.waiting
        assert not self.line._keys, "an empty line remembers nobody"


AnyCourse.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_course = AnyCourse.TestCase


def fill(
    line: Line, key_id: str, count: int, priority: Priority = Priority.INTERACTIVE, cost: float = 1.0
) -> list[int]:
    return [line.enter(key_id, priority=priority, prompt_tokens=1, output_tokens=1, cost=cost).id for _ in range(count)]


def run_all(line: Line) -> list[Entry]:
    order = []
    while started := line.start():
        for entry in started:
            order.append(entry)
            line.leave(entry.id)
    return order


def test_a_key_that_floods_the_line_waits_behind_its_own_requests() -> None:
    line = Line(slots=1, max_requests=10_000, max_tokens=10_000)
    (first,) = fill(line, "flood", 1)
    line.start()
    fill(line, "flood", 500)
    fill(line, "other", 3)
    line.leave(first)
    order = [entry.key_id for entry in run_all(line)]
    assert order[:7].count("other") == 3


def test_keys_share_the_time_of_the_engine_and_not_the_number_of_requests() -> None:
    line = Line(slots=1, max_requests=10_000, max_tokens=10_000)
    fill(line, "long", 50, cost=10.0)
    fill(line, "short", 50, cost=1.0)
    order = [entry.key_id for entry in run_all(line)]
    assert order[:44].count("long") == 4
    assert order[:44].count("short") == 40


def test_interactive_requests_go_first_and_batch_requests_still_get_their_turn() -> None:
    line = Line(slots=1, max_requests=10_000, max_tokens=10_000)
    fill(line, "night", 10, Priority.BATCH)
    fill(line, "day", 70)
    order = [entry.priority for entry in run_all(line)]
    assert order[: BATCH_TURN - 1] == [Priority.INTERACTIVE] * (BATCH_TURN - 1)
    assert order.index(Priority.BATCH) == BATCH_TURN - 1
    assert order[:80].count(Priority.BATCH) == 10


def test_requests_that_give_up_leave_nothing_behind_even_when_nothing_ever_starts() -> None:
    line = Line(slots=1, max_requests=10, max_tokens=1000)
    fill(line, "busy", 1)
    line.start()
    for _ in range(5000):
        (entry_id,) = fill(line, "impatient", 1)
        line.leave(entry_id)
    assert sum(len(heap) for heap in line._heaps.values()) < 200
    assert not line.waiting


def test_a_line_without_places_to_wait_still_lets_in_whom_it_can_serve_at_once() -> None:
    line = Line(slots=1, max_requests=0, max_tokens=0)
    assert line.refusal("", prompt_tokens=10**6) is None
    fill(line, "", 1)
    line.start()
    assert line.refusal("", prompt_tokens=1) is Refusal.QUEUE_REQUESTS


def several(line: Line, places: int) -> Entry:
    return line.enter("", priority=Priority.INTERACTIVE, prompt_tokens=1, output_tokens=1, places=places)


def test_a_request_takes_a_place_for_each_of_its_answers_and_waits_until_there_are_so_many() -> None:
    line = Line(slots=4, max_requests=10, max_tokens=100)
    one, three, two = several(line, 1), several(line, 3), several(line, 2)
    assert line.start() == [one, three]
    assert (line.running_places, line.waiting_places) == (4, 2)
    line.leave(one.id)
    assert line.start() == [], "one place is free, and two are wanted"
    assert line.refusal("", prompt_tokens=1) is None
    small = several(line, 1)
    assert line.start() == [], "nobody overtakes whoever waits at the front"
    line.leave(three.id)
    assert line.start() == [two, small]


def test_a_request_for_more_answers_than_there_are_places_runs_alone() -> None:
    line = Line(slots=2, max_requests=10, max_tokens=100)
    assert line.refusal("", prompt_tokens=1, places=8) is None
    first, many, last = several(line, 1), several(line, 8), several(line, 1)
    assert line.start() == [first]
    line.leave(first.id)
    assert line.start() == [many]
    line.leave(many.id)
    assert line.start() == [last]


def test_a_batch_turn_that_must_wait_for_places_is_not_lost() -> None:
    line = Line(slots=2, max_requests=100, max_tokens=100)
    fill(line, "busy", 1)
    line.start()
    night = line.enter("night", priority=Priority.BATCH, prompt_tokens=1, output_tokens=1, places=2)
    for _ in range(BATCH_TURN - 1):
        (quick,) = fill(line, "day", 1)
        assert [entry.id for entry in line.start()] == [quick]
        line.leave(quick)
    fill(line, "day", 1)
    assert line.start() == []
    (busy,) = line.running
    line.leave(busy)
    assert line.start() == [night]
