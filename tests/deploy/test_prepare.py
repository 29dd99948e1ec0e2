"""Preparing a model: what was there is not made again, and who is cancelled leaves no process behind."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from qwenops.deploy.prepare import Prepared, prepare
from qwenops.models.hub import HubOptions
from qwenops.models.locks import held
from qwenops.models.progress import Progress
from qwenops.models.spec import Scheme
from qwenops.models.store import Store


def nothing(_progress: Progress) -> None:
    """Listen to nothing."""


def prepared(
    store: Store, name: str, scheme: Scheme | None, heard: Callable[[float, str], None] = lambda _f, _d: None
) -> Prepared:
    work = prepare(name, scheme, store=store, hub=HubOptions(), fetching=nothing, converting=heard)
    return asyncio.run(work)


@pytest.mark.slow
def test_a_model_is_converted_once_and_found_again(tmp_path: Path, tiny_checkpoint: Path) -> None:
    store = Store(root=tmp_path)
    heard: list[float] = []
    first = prepared(store, str(tiny_checkpoint), Scheme.INT8, lambda fraction, _doing: heard.append(fraction))
    assert first.artefact is not None
    assert first.folder == first.artefact.folder
    assert first.converted_s > 0
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    again = prepared(store, str(tiny_checkpoint), Scheme.INT8)
    assert (again.folder, again.converted_s) == (first.folder, 0)


def test_without_a_scheme_it_is_the_checkpoint_itself(tmp_path: Path, tiny_checkpoint: Path) -> None:
    found = prepared(Store(root=tmp_path), str(tiny_checkpoint), None)
    assert found.folder == tiny_checkpoint.resolve()
    assert found.artefact is None


@pytest.mark.slow
async def test_a_conversion_that_nobody_waits_for_ends_with_its_process(tmp_path: Path, tiny_checkpoint: Path) -> None:
    store = Store(root=tmp_path)
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard(_fraction: float, _doing: str) -> None:
        loop.call_soon_threadsafe(begun.set)

    work = prepare(str(tiny_checkpoint), Scheme.INT4, store=store, hub=HubOptions(), fetching=nothing, converting=heard)
    task = asyncio.create_task(work)
    await asyncio.wait_for(begun.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    deadline_s = time.monotonic() + 20
    while converting_children():
        assert time.monotonic() < deadline_s, "the conversion goes on"
        await asyncio.sleep(0.05)


async def test_a_wait_for_another_process_ends_when_nobody_wants_the_model_any_more(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    store = Store(root=tmp_path)
    stored = store.resolve(str(tiny_checkpoint))
    said: list[str] = []
    waits = asyncio.Event()
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(thread_name_prefix="preparing")
    loop.set_default_executor(threads)

    def heard(_fraction: float, doing: str) -> None:
        said.append(doing)
        loop.call_soon_threadsafe(waits.set)

    with held(store.places.lock(store.places.artefact(stored.manifest.fingerprint, Scheme.INT8).name), lambda: None):
        work = prepare(
            str(tiny_checkpoint), Scheme.INT8, store=store, hub=HubOptions(), fetching=nothing, converting=heard
        )
        task = asyncio.create_task(work)
        await asyncio.wait_for(waits.wait(), 30)
        assert "Another process is converting" in said[0]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        threads.shutdown(wait=False)
        deadline_s = time.monotonic() + 5
        while any(each.name.startswith("preparing") for each in threading.enumerate()):
            assert time.monotonic() < deadline_s, "a thread waits on, and the process cannot end"
            await asyncio.sleep(0.02)


def converting_children() -> list[int]:
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end while it is looked at
            if "qwenops.models.convert" in each.cmdline():
                found.append(each.pid)
    return found
