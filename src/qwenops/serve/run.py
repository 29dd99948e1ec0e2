"""One server from its start to its end.

It listens first and opens the engine in the background, so probes answer from the first moment. It ends by SIGTERM,
Ctrl-C or `POST /admin/drain`: readiness goes, the listener closes after `drain_delay_s`, what is in flight gets
`drain_timeout_s`, the rest a typed error. A second signal does not wait.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn

from qwenops.engines.seam import EngineState
from qwenops.errors import ConfigError, EngineUnavailableError, OverloadedError, QwenOpsError
from qwenops.observe.logs import configure_logging
from qwenops.serve.auth import KeyRing, open_keyring
from qwenops.serve.champion import Desk
from qwenops.serve.lifecycle import Lifecycle, Phase, Report, State
from qwenops.serve.listen import listen, url_of
from qwenops.serve.options import ServeOptions, refuse_open_door
from qwenops.serve.reload import ReadOptions, watch
from qwenops.serve.runfile import this_process, write_run_file
from qwenops.serve.serving import ServedModel
from qwenops.serve.site import Site, Translate, build_site
from qwenops.serve.systemd import Notifier
from qwenops.text import clause, say

_log = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0
"""Time to send the final error of each stream that is cut off."""
_ABORT_S = 0.5
"""Time for the connections that were broken off to be gone."""
_CLOSE_ENGINE_S = 2.0
"""Time for the engine to end in peace; one that does not ends with this process."""
_LAST_LINES_S = 1.0
"""Time to write what the logs still hold."""
GRACE_S = 5.0
"""Beyond `drain_delay_s` and `drain_timeout_s` the server takes no longer to end; the times above are within it."""
_KEYS_POLL_S = 5.0
_SAMPLE_S = 10.0
_FOLLOW_S = 1.0
_HEALTH_POLL_S = 0.1
_MORE_TIME_S = 60.0
_EXPIRE_S = 3600.0
"""Time between two looks at what is too old to be kept."""
_BEGIN_ANEW_S = 1.0
"""Pause before work in the background begins anew that failed."""

Work = Callable[[], Awaitable[None]]

OpenEngine = Callable[[Report], Awaitable[ServedModel]]
"""Opens the engine and its tokenizer; reports its progress on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a server gets from whoever starts it, besides its options."""

    model: str = ""
    """The model's name, for the run file."""
    engine: str = ""
    name: str = ""
    run_folder: Path | None = None
    """Where to put the run file by which `qwenops ps` finds this server."""
    read_options: ReadOptions | None = None
    """Reads and validates the configuration again."""
    watched: tuple[Path, ...] = ()
    """Files whose change means a reload."""
    translate: Translate = lambda _, template: template
    on_listening: Callable[[str], None] = lambda _: None
    """Told the URL as soon as it answers."""
    on_ready: Callable[[str], None] = lambda _: None
    """Told the URL when requests are taken."""
    notifier: Notifier | None = None
    desk: Desk | None = None
    """The classifier to serve besides, and where to keep what people say."""


def run(open_engine: OpenEngine, options: ServeOptions, surroundings: Surroundings | None = None) -> None:
    """Serve until asked to stop; returns when every request has ended and everything is closed.

    Raises:
        ConfigError: The port is taken, the address would be open to anyone, or the keys are wrong.
        QwenOpsError: The engine could not be opened.
    """
    import uvloop

    surroundings = surroundings if surroundings is not None else Surroundings()
    configure_logging(options.log)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it announces what is announced here
    keys = open_keyring(options.keys, host=options.host, cors_origins=options.cors_origins)
    refuse_open_door(options, num_keys=keys.num_known)
    with listen(options.host, options.port) as listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(open_engine, options, keys, listener, surroundings))


async def serve(
    open_engine: OpenEngine, options: ServeOptions, keys: KeyRing, listener: socket.socket, surroundings: Surroundings
) -> None:
    """Do what `run` does within an event loop, on a socket that listens already."""
    notifier = surroundings.notifier if surroundings.notifier is not None else Notifier()
    site = build_site(
        options,
        keys,
        read_options=surroundings.read_options,
        translate=surroundings.translate,
        desk=surroundings.desk,
    )
    url = url_of(listener)
    server = _Server(_uvicorn_config(site, options))
    site.num_connections = lambda: len(server.server_state.connections)
    opening = asyncio.create_task(_open(site, open_engine, lambda: _announce(site, url, surroundings, notifier)))
    background = [
        asyncio.create_task(_forever(work, name))
        for name, work in _background(site, notifier, surroundings.watched, options.reload_poll_s).items()
    ]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        with _signals(site, notifier), _run_file(url, surroundings):
            surroundings.on_listening(url)
            _log.info("listening on %s", url)
            await _until_stop(site, serving, opening)
            notifier.stopping("draining")
            await _drain(site, server, serving, notifier)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await _close_engine(site, opening)
        await _close_classifier(site)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        if not await asyncio.to_thread(site.writer.close, timeout_s=_LAST_LINES_S):
            _log.warning("the last log lines could not be written in time")
        site.lifecycle.stopped()
    if site.lifecycle.failure is not None:
        raise site.lifecycle.failure
    _log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn without its own idea of signals: `run` decides when to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(site: Site, options: ServeOptions) -> uvicorn.Config:
    return uvicorn.Config(
        site.app,
        http="httptools",
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(options.keep_alive_s),
    )


async def _open(site: Site, open_engine: OpenEngine, on_ready: Callable[[], None]) -> None:
    """Open the engine and wait until it can work; a failure ends the server."""
    lifecycle = site.lifecycle
    try:
        model = await open_engine(lifecycle.report)
        site.opened = model
        await _loaded(model, lifecycle)
    except QwenOpsError as error:
        lifecycle.failed(error)
        raise
    except Exception as error:
        _log.exception("opening the engine failed")
        lifecycle.failed(QwenOpsError(say("The engine could not be opened: {why}.", why=repr(error))))
        raise
    site.serve_with(model)
    for warning in lifecycle.warnings:
        _log.warning("%s", warning)
    if lifecycle.state is State.READY:
        on_ready()


async def _loaded(model: ServedModel, lifecycle: Lifecycle) -> None:
    """Wait until an engine that loads in the background can work."""
    while (health := model.engine.info.health).state is EngineState.STARTING:
        lifecycle.report(Phase.LOADING, health.load_progress, health.reason)
        await asyncio.sleep(_HEALTH_POLL_S)
    if health.state in {EngineState.FAILED, EngineState.CLOSED}:
        raise EngineUnavailableError(
            say("The engine could not be started: {why}.", why=clause(health.reason or health.state.value)),
            hint=say("The messages above say more; `qwenops doctor` checks this machine."),
        )


def _announce(site: Site, url: str, surroundings: Surroundings, notifier: Notifier) -> None:
    model = site.served().engine.info.model
    notifier.ready(f"serving {model} on {url}")
    _log.info("ready: %s on %s after %.1f s", model, url, site.lifecycle.starting_s)
    surroundings.on_ready(url)


async def _until_stop(site: Site, serving: "asyncio.Task[None]", opening: "asyncio.Task[None]") -> None:
    """Return when the server should end: it was asked to, its engine cannot be opened, or it broke."""
    wanted = asyncio.create_task(site.lifecycle.drain_wanted.wait())
    try:
        await asyncio.wait({wanted, serving, opening}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done() and site.lifecycle.failure is None:
            await asyncio.wait({wanted, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
    finally:
        wanted.cancel()


async def _drain(site: Site, server: _Server, serving: "asyncio.Task[None]", notifier: Notifier) -> None:
    """Let balancers find out, close the listener, wait for what is in flight, cut off the rest."""
    lifecycle, options = site.lifecycle, site.reloader.options
    notifier.more_time(options.drain_delay_s + options.drain_timeout_s + GRACE_S)
    lifecycle.drain()
    if lifecycle.failure is None and lifecycle.has_balancer:
        _log.info("draining: requests are taken for another %g s", options.drain_delay_s)
        await _wait_for(lifecycle.hurry_wanted.wait(), options.drain_delay_s)
    lifecycle.stopping()
    server.should_exit = True
    _log.info("draining: %d requests in flight", site.admission.num_open)
    ended = asyncio.create_task(_either(serving, lifecycle.hurry_wanted))
    await _wait_for(ended, options.drain_timeout_s)
    if not serving.done():
        lifecycle.stopped()
        cut = site.admission.interrupt_all(
            OverloadedError(
                say("The server stopped before the answer was complete."),
                hint=say("Send the request again; another server will take it."),
                retry_after_s=1,
            )
        )
        _log.warning("draining took too long: %d requests are cut off", cut)
        await _wait_for(_either(serving), _LAST_WORDS_S)
    if not serving.done():
        server.force_exit = True
        for connection in list(server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await _wait_for(_either(serving), _ABORT_S)


async def _either(serving: "asyncio.Task[None]", event: asyncio.Event | None = None) -> None:
    """Wait for the end of serving or for an event, without cancelling either."""
    tasks: list[asyncio.Future[Any]] = [serving]
    hurried = asyncio.create_task(event.wait()) if event is not None else None
    if hurried is not None:
        tasks.append(hurried)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if hurried is not None:
            hurried.cancel()


async def _wait_for(work: Awaitable[Any], timeout_s: float) -> None:
    """Wait, and give up quietly when it takes too long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(work, timeout_s)


async def _close_engine(site: Site, opening: "asyncio.Task[None]") -> None:
    try:
        async with asyncio.timeout(_CLOSE_ENGINE_S):
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled():
                opening.exception()  # `lifecycle.failure` has it; asyncio need not say that nobody looked
            if site.opened is not None:
                await site.opened.engine.aclose()
    except TimeoutError:
        _log.warning("the engine did not end within %g s; it ends with this process", _CLOSE_ENGINE_S)
    except Exception:  # noqa: BLE001 -- the server ends all the same
        _log.exception("closing the engine failed")


@contextlib.contextmanager
def _signals(site: Site, notifier: Notifier) -> Iterator[None]:
    """Listen to SIGTERM, Ctrl-C and SIGHUP; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(site, notifier))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    actions: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: site.lifecycle.ask_to_stop,
        signal.SIGINT: site.lifecycle.ask_to_stop_soon,
        signal.SIGHUP: reload,
    }
    for each, action in actions.items():
        loop.add_signal_handler(each, action)
    try:
        yield
    finally:
        for each in actions:
            loop.remove_signal_handler(each)


async def _reload(site: Site, notifier: Notifier | None = None) -> None:
    """Reload and log a failure: nobody waits for an answer. systemd hears of it once the server is ready."""
    told = notifier if site.lifecycle.state is State.READY else None
    if told is not None:
        told.reloading()
    try:
        await asyncio.to_thread(site.keys.refresh)
        await site.reloader.reload()
    except ConfigError as error:
        _log.error("reload failed, the old configuration stays: %s %s", error.message, error.hint)
    except Exception:  # noqa: BLE001 -- nobody else would hear of it
        _log.exception("reload failed, the old configuration stays")
    finally:
        if told is not None and site.lifecycle.state is State.READY:
            told.ready(f"configuration generation {site.reloader.generation}")


def _background(site: Site, notifier: Notifier, watched: Sequence[Path], poll_s: float) -> dict[str, Work]:
    """Return what goes on beside the requests, by its name."""
    found: dict[str, Work] = {
        "reading the keys again": lambda: _refresh_keys(site.keys),
        "sampling the system": lambda: _sample(site),
        "following the engine": lambda: _follow_engine(site),
        "the sign of life": lambda: _sign_of_life(site.lifecycle, notifier),
    }
    if site.desk is not None:
        found["following the champion"] = site.desk.champion.follow
        found["forgetting what is too old"] = lambda: _forget(site)
    if watched and poll_s:
        found["watching the configuration"] = lambda: watch(watched, poll_s=poll_s, changed=lambda: _reload(site))
    return found


async def _forever(work: Work, name: str) -> None:
    """Do work that must not end while the server runs: when it fails, log that and begin anew after a pause."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 -- a revoked key must not stay valid because of one error
            _log.exception("%s failed, and begins anew", name)
        await asyncio.sleep(_BEGIN_ANEW_S)


async def _close_classifier(site: Site) -> None:
    """Let the classifier end in peace, for as long as the engine may."""
    if site.desk is not None:
        try:
            async with asyncio.timeout(_CLOSE_ENGINE_S):
                await site.desk.champion.aclose()
        except TimeoutError:
            _log.warning("the classifier did not end within %g s; it ends with this process", _CLOSE_ENGINE_S)


@contextlib.contextmanager
def _run_file(url: str, surroundings: Surroundings) -> Iterator[None]:
    """Keep a run file while the server runs; one that cannot be written is no reason not to serve."""
    path = None
    if surroundings.run_folder is not None:
        described = this_process(
            url=url,
            model=surroundings.model,
            engine=surroundings.engine,
            name=surroundings.name or url.rpartition(":")[2],
            version=version("qwenops"),
        )
        try:
            path = write_run_file(surroundings.run_folder, described)
        except OSError as error:
            _log.warning("`qwenops ps` will not show this server: %s", error)
    try:
        yield
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


async def _refresh_keys(keys: KeyRing) -> None:
    """Notice keys that were created or revoked meanwhile."""
    last = ""
    while True:
        await asyncio.sleep(_KEYS_POLL_S)
        try:
            await asyncio.to_thread(keys.refresh)
        except ConfigError as error:
            if error.message != last:
                _log.error("the keys stay as they were: %s", error.message)
            last = error.message
        else:
            last = ""


async def _sample(site: Site) -> None:
    """Look at process, control group and machine, and write a line of it once in a while."""
    loop = asyncio.get_running_loop()
    next_line_s = loop.time()
    while True:
        site.sample = await asyncio.to_thread(site.watch.sample)
        interval_s = site.reloader.options.log.system_interval_s
        if loop.time() >= next_line_s:
            site.writer.write("system", site.sample.line())
            next_line_s = loop.time() + interval_s
        await asyncio.sleep(min(_SAMPLE_S, interval_s))


async def _forget(site: Site) -> None:
    """Remove, once in a while, what was kept as long as it may be."""
    from qwenops.state.retention import expire  # with it comes the database

    desk = site.desk
    if desk is None or desk.database is None:
        await asyncio.Event().wait()
        return
    while True:
        gone = await asyncio.to_thread(expire, desk.database, desk.options.retention)
        if gone.total:
            _log.info("kept long enough: %d calls, %d answers, %d events", gone.review, gone.feedback, gone.audit)
        await asyncio.sleep(_EXPIRE_S)


async def _follow_engine(site: Site) -> None:
    while True:
        await asyncio.sleep(_FOLLOW_S)
        site.follow_engine()


async def _sign_of_life(lifecycle: Lifecycle, notifier: Notifier) -> None:
    """Feed systemd's watchdog while there is hope, and ask for more time while the start goes on."""
    period_s = min(_MORE_TIME_S / 3, notifier.watchdog_s / 2 if notifier.watchdog_s else _MORE_TIME_S / 3)
    while True:
        if lifecycle.state is State.STARTING:
            notifier.more_time(_MORE_TIME_S)
            notifier.status(str(lifecycle.reasons()[0]))
        if notifier.watchdog_s and not lifecycle.is_hopeless:
            notifier.alive()
        await asyncio.sleep(period_s)
