"""What Locust's processes take of the machine."""

import os
import time

from qwenops.bench.locust.effort import Effort, cpu_ns
from tests.bench.driving import MS, S


def test_the_cpu_time_of_all_processes_is_added_up_from_the_first_look_on() -> None:
    used = {1: [5 * S, 6 * S, 8 * S], 2: [S, S, 2 * S]}
    effort = Effort((1, 2), lambda process_id: used[process_id].pop(0))
    for now_ns in (10 * S, 11 * S, 14 * S):
        effort.look(now_ns)
    assert effort.total() == (4 * S, 4 * S)


def test_a_process_that_ended_counts_with_what_it_was_last_seen_with() -> None:
    used: dict[int, list[int | None]] = {1: [0, S, None], 2: [0, S, 2 * S]}
    effort = Effort((1, 2), lambda process_id: used[process_id].pop(0))
    for now_ns in (0, S, 2 * S):
        effort.look(now_ns)
    assert effort.total() == (3 * S, 2 * S)


def test_what_could_not_be_seen_is_not_told() -> None:
    unseen = Effort((1, 2), lambda process_id: S if process_id == 1 else None)
    unseen.look(S)
    unseen.look(2 * S)
    assert unseen.total() is None
    once = Effort((1,), lambda _: S)
    once.look(S)
    assert once.total() is None


def test_the_cpu_time_of_a_process_is_read_from_the_system() -> None:
    before, began_ns = cpu_ns(os.getpid()), time.process_time_ns()
    while time.process_time_ns() - began_ns < 60 * MS:
        pass
    after = cpu_ns(os.getpid())
    assert before is not None
    assert after is not None
    assert 20 * MS <= after - before < S
    assert cpu_ns(2**22 + 1) is None
