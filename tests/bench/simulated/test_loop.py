import asyncio
import signal
import threading
import time
from pathlib import Path

import pytest

from qwenops.bench.clock import running_clock
from qwenops.bench.simulated import loop as virtual
from qwenops.bench.simulated.loop import WALL_ANCHOR_NS, VirtualClock, run
from qwenops.errors import DeadlineError, QwenOpsError


def test_a_virtual_day_takes_no_time_and_ends_at_its_nanosecond() -> None:
    async def main() -> tuple[int, int, float]:
        clock = VirtualClock()
        await clock.sleep_until_ns(86_400_000_000_007)
        return clock.now_ns(), clock.wall_ns(), asyncio.get_running_loop().time()

    began_s = time.monotonic()
    now_ns, wall_ns, loop_s = run(main())
    assert time.monotonic() - began_s < 2.0
    assert now_ns == 86_400_000_000_007
    assert wall_ns == WALL_ANCHOR_NS + now_ns
    assert loop_s == pytest.approx(86_400.000_000_007, abs=1e-9)


def test_sleepers_wake_in_the_order_of_their_times_and_not_of_their_calls() -> None:
    async def main() -> list[tuple[int, int]]:
        clock, woken = VirtualClock(), []

        async def sleeper(at_ns: int) -> None:
            await clock.sleep_until_ns(at_ns)
            woken.append((at_ns, clock.now_ns()))

        await asyncio.gather(*(sleeper(at_ns) for at_ns in (3_000_000_001, 1, 2_000_000_000, 3_000_000_000)))
        return woken

    assert run(main()) == [(at_ns, at_ns) for at_ns in (1, 2_000_000_000, 3_000_000_000, 3_000_000_001)]


def test_what_is_past_is_not_waited_for() -> None:
    async def main() -> int:
        clock = VirtualClock()
        await clock.sleep_until_ns(5)
        await clock.sleep_until_ns(3)
        return clock.now_ns()

    assert run(main()) == 5


def test_the_clock_stands_still_while_a_thread_works(tmp_path: Path) -> None:
    def write() -> int:
        time.sleep(0.15)
        return (tmp_path / "records").write_text("one", "utf-8")

    async def main() -> tuple[int, int]:
        clock = VirtualClock()
        timer = asyncio.create_task(asyncio.sleep(3600))
        async with asyncio.timeout(60):
            written = await asyncio.to_thread(write)
        found = clock.now_ns()
        timer.cancel()
        return written, found

    assert run(main()) == (3, 0)


def test_threads_are_waited_for_at_the_end_in_no_virtual_time() -> None:
    released = threading.Event()

    async def main() -> None:
        threading.Timer(0.2, released.set).start()
        work = asyncio.get_running_loop().run_in_executor(None, released.wait, 5.0)
        work.add_done_callback(lambda _done: None)

    run(main())
    assert released.is_set()


def test_a_pipe_that_is_ready_is_read_before_the_clock_moves() -> None:
    async def main() -> tuple[bytes, int]:
        clock = VirtualClock()
        reader, writer = await asyncio.open_connection(sock=ours)
        theirs.sendall(b"ready\n")
        timer = asyncio.create_task(asyncio.sleep(100))
        line = await reader.readline()
        found = clock.now_ns()
        timer.cancel()
        writer.close()
        return line, found

    import socket

    ours, theirs = socket.socketpair()
    with theirs:
        assert run(main()) == (b"ready\n", 0)


def test_a_loop_that_nothing_can_wake_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "STUCK_S", 0.2)

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineError, match="stands still"):
        run(main())


def test_a_signal_wakes_a_loop_that_waits_for_nothing_else() -> None:
    async def main() -> str:
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, stopped.set)
        threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGUSR1)).start()
        await stopped.wait()
        return "stopped"

    assert run(main()) == "stopped"


async def test_outside_of_it_the_clock_is_the_machines() -> None:
    assert not running_clock().virtual
    with pytest.raises(QwenOpsError, match="no virtual time"):
        VirtualClock()


def test_inside_of_it_the_clock_is_virtual() -> None:
    async def main() -> bool:
        return running_clock().virtual

    assert run(main())
