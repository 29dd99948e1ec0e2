"""A caller of Locust that streams: the one module that imports Locust, in Locust's own processes.

Each worker asks its share of the workload: request number `k` of worker `w` is number `w + k * workers` of the run, so
that every request is asked once, whoever asks it. With a rate each worker sends its share of one schedule.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import gevent
import gevent.pool
import geventhttpclient
import locust.stats
from gevent.lock import Semaphore
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from locust import User, events, task
from locust.user.users import LOCUST_STATE_RUNNING

from qwenops.bench.folder import record_data
from qwenops.bench.locust.exchange import Exchange, Response, Server, StaleConnectionError, line_of
from qwenops.bench.locust.plan import KEY_VARIABLE, ORIGIN_VARIABLE, RECORDS_VARIABLE, SALT_VARIABLE, WORKERS_VARIABLE
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Phase
from qwenops.bench.schedule import arrivals, share
from qwenops.bench.workload import Workload, open_workload
from qwenops.engines.unknown import UnknownFields

SEGMENT = "locust"
MS_PER_NS = 1e-6
LOOK_S = 0.2
"""How soon a caller notices that the run ends."""
DEFAULT_FOLDER = "locust-records"


class QwenUser(User):  # type: ignore[misc]  # Locust ships no types
    """A caller. A locustfile names the server, the model and what to ask."""

    abstract = True
    host: str = ""
    model: str = ""
    owner: str = ""
    options: ClassVar[BenchOptions] = BenchOptions()

    def __init__(self, environment: Any) -> None:
        """Open a connection of its own when it first asks."""
        super().__init__(environment)
        self.worker = worker_of(environment, self.options)
        self.server = Server(
            url=str(self.host),
            model=self.model,
            owner=self.owner,
            api_key=os.environ.get(KEY_VARIABLE, ""),
            unknown=self.worker.unknown,
        )
        self.number = self.worker.next_user()
        self._line: _Connection | None = None

    @task  # type: ignore[untyped-decorator]  # Locust ships no types
    def ask(self) -> None:
        """Ask once, or with a rate send this worker's share of the schedule."""
        if self.options.rate is not None:
            self._send_schedule(self.options.rate)
        elif (taken := self.worker.take()) is None:
            gevent.sleep(LOOK_S)
        else:
            self._line = self._line or _Connection(self.server, self.options.timeout_s)
            self._exchange(taken, self._line, time.perf_counter_ns())

    def on_stop(self) -> None:
        """Close the connection."""
        if self._line is not None:
            self._line.close()

    def _send_schedule(self, rate: float) -> None:
        options, worker = self.options, self.worker
        duration_s = options.duration_s or (None if options.requests else 60.0)
        offsets = arrivals(
            options.arrivals,
            rate,
            duration_s=duration_s,
            count=options.requests,
            seed=options.seed,
            burstiness=options.burstiness,
        )
        began_ns = time.perf_counter_ns()
        sending = gevent.pool.Group()
        try:
            for offset_ns in share(offsets, worker.index, worker.num_workers):
                if not self._slept_until(began_ns + offset_ns) or (number := worker.take()) is None:
                    break
                sending.spawn(self._send_one, number, began_ns + offset_ns)
            while not self._is_stopping:
                gevent.sleep(LOOK_S)
            sending.join(timeout=options.drain_s)
        finally:
            sending.kill()

    @property
    def _is_stopping(self) -> bool:
        return bool(self._state != LOCUST_STATE_RUNNING)

    def _slept_until(self, at_ns: int) -> bool:
        """Sleep; return False when the run ends before that moment."""
        while (left_s := (at_ns - time.perf_counter_ns()) / 1e9) > 0:
            if self._is_stopping:
                return False
            gevent.sleep(min(left_s, LOOK_S))
        return not self._is_stopping

    def _send_one(self, number: int, scheduled_ns: int) -> None:
        line = _Connection(self.server, self.options.timeout_s)
        try:
            self._exchange(number, line, scheduled_ns)
        finally:
            line.close()

    def _exchange(self, number: int, line: "_Connection", scheduled_ns: int) -> None:
        options, worker = self.options, self.worker
        exchange = Exchange(
            index=number,
            segment=SEGMENT,
            phase=Phase.MEASURE,
            ask=worker.workload.ask(number),
            user=None if options.rate else self.number,
            scheduled_ns=scheduled_ns,
            record_text=options.record_text,
        )
        try:
            with gevent.Timeout(options.timeout_s, False):  # noqa: FBT003 -- gevent's own sign for: raise nothing
                exchange.run(self.server, line.post, time.perf_counter_ns)
                return
            exchange.give_up(options.timeout_s)
        finally:
            if exchange.failure is not None:
                line.close()
            worker.keep(exchange)
            self._tell(exchange)

    def _tell(self, exchange: Exchange) -> None:
        """Tell Locust's statistics, unrounded."""
        error = exchange.error or (RuntimeError(exchange.failure.value) if exchange.failure else None)
        common = {"response_length": 0, "context": {}}
        stamps = exchange.trace.stamps
        if stamps:
            ttft_ms = (stamps[0] - exchange.sent_ns) * MS_PER_NS
            events.request.fire(request_type="TTFT", name=self.model, response_time=ttft_ms, exception=None, **common)
        last_ns = stamps[-1] if stamps else exchange.ended_ns
        e2e_ms = (last_ns - exchange.sent_ns) * MS_PER_NS
        events.request.fire(request_type="E2E", name=self.model, response_time=e2e_ms, exception=error, **common)


class Worker:
    """What the callers of one process share: the workload, the numbers of its requests, the journal."""

    def __init__(self, options: BenchOptions, index: int, num_workers: int) -> None:
        """Open the journal."""
        self.index = index
        self.num_workers = num_workers
        self.workload: Workload = open_workload(options, salt=os.environ.get(SALT_VARIABLE, ""))
        self.unknown = UnknownFields()
        """What the server turned out not to know."""
        self._told: frozenset[str] = frozenset()
        self._origin_ns = int(os.environ.get(ORIGIN_VARIABLE) or time.perf_counter_ns())
        self._end = options.requests
        self._numbers = _numbers(index, num_workers)
        self._users = _numbers(index, num_workers)
        folder = Path(os.environ.get(RECORDS_VARIABLE) or DEFAULT_FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line is one write, so a worker that is killed leaves at most one torn line.
        self._journal = (folder / f"worker-{index}-{os.getpid()}.jsonl").open("ab", buffering=0)
        self._lock = Semaphore()
        self._write({"began_ns": time.perf_counter_ns() - self._origin_ns})

    def next_user(self) -> int:
        """Return the number of a new caller, unique in the run."""
        return next(self._users)

    def take(self) -> int | None:
        """Return the number of the next request of this worker, None when all were asked."""
        number = next(self._numbers)
        return number if self._end is None or number < self._end else None

    def keep(self, exchange: Exchange) -> None:
        """Write the record of a request that is over, and what was learned by it."""
        for name in sorted(self.unknown.left_out - self._told):
            self._write({"left_out": name, "at_ns": time.perf_counter_ns() - self._origin_ns})
        self._told = self.unknown.left_out
        self._write(record_data(exchange.record(self._origin_ns)))

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            self._journal.write(line_of(line).encode())


_WORKERS: dict[int, Worker] = {}


def worker_of(environment: Any, options: BenchOptions) -> Worker:
    """Return what the callers of this process share."""
    index = getattr(environment.runner, "worker_index", 0) or 0
    if index not in _WORKERS:
        forked = getattr(environment.parsed_options, "processes", None) or 1
        _WORKERS[index] = Worker(options, index, int(os.environ.get(WORKERS_VARIABLE) or forked))
    return _WORKERS[index]


def _numbers(index: int, num_workers: int) -> Iterator[int]:
    number = index
    while True:
        yield number
        number += num_workers


class _Connection:
    """A connection that is used again and again by one caller."""

    def __init__(self, server: Server, timeout_s: float) -> None:
        """Open nothing yet."""
        self._is_used = False
        self._client = geventhttpclient.HTTPClient.from_url(
            server.origin, concurrency=1, connection_timeout=timeout_s, network_timeout=timeout_s
        )

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Send a body and return when the head of the response is there."""
        was_used, self._is_used = self._is_used, True
        try:
            return _Body(self._client.request("POST", path, body=body, headers=dict(headers)))
        except (HTTPConnectionClosed, ConnectionResetError, BrokenPipeError) as error:
            self.close()
            raise (StaleConnectionError if was_used else ConnectionResetError)(str(error)) from error
        except HTTPParseError as error:
            raise ConnectionError(str(error)) from error

    def close(self) -> None:
        """Close it; the next request opens another."""
        self._client.close()
        self._is_used = False


class _Body:
    """A response of geventhttpclient as `exchange.Response`."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = {str(name).title(): str(value) for name, value in response.headers}

    def line(self) -> bytes:
        try:
            line: bytes = self._response.readline(b"\n")
        except HTTPParseError as error:
            raise ConnectionError(str(error)) from error
        return line

    def rest(self) -> bytes:
        try:
            read: bytes = self._response.read()
        except HTTPParseError as error:
            raise ConnectionError(str(error)) from error
        return read


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust ships no types
def _keep_unrounded(**_: Any) -> None:
    """Let Locust count milliseconds as they are; its own rounding takes two digits."""
    locust.stats.bucket_response_time = lambda response_time: response_time
