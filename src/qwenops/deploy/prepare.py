"""From a name to a model that an engine can open: fetched or made, verified, converted where the engine wants it.

`serve`, `run`, `pull` and `demo` all come through here. The conversion runs in a child process; when whoever waits for
it is cancelled, the child ends with the next thing it reports. So does the wait for another process that converts.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwenops.models.artefact import Artefact
from qwenops.models.hub import HubOptions
from qwenops.models.progress import Progress
from qwenops.models.spec import Scheme
from qwenops.models.store import Store, StoredModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model that is ready to be opened, and what that took."""

    stored: StoredModel
    folder: Path
    """What the engine opens: the converted model, or the checkpoint."""
    artefact: Artefact | None
    fetched_s: float
    """0 when its files were there already."""
    converted_s: float
    """0 when it had been converted before."""


class _UnwantedError(Exception):
    """Nobody waits for the conversion any more."""


async def prepare(
    name: str,
    scheme: Scheme | None,
    *,
    store: Store,
    hub: HubOptions,
    fetching: Callable[[Progress], None],
    converting: Callable[[float, str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Prepared:
    """Return the model called `name` (or in that folder), converted to `scheme` unless that is None.

    Raises:
        QwenOpsError: What `Store.ensure` and `Store.artefact` raise.
    """
    took = {"fetched": 0.0, "converted": 0.0}
    began_s = clock()

    def fetched(progress: Progress) -> None:
        took["fetched"] = clock() - began_s
        fetching(progress)

    stored = await store.ensure(name, hub, fetched)
    if took["fetched"]:
        took["fetched"] = clock() - began_s
    if scheme is None:
        return Prepared(
            stored=stored, folder=stored.checkpoint, artefact=None, fetched_s=took["fetched"], converted_s=0.0
        )
    began_s = clock()
    unwanted = threading.Event()

    def converted(fraction: float, doing: str) -> None:
        if unwanted.is_set():
            raise _UnwantedError
        took["converted"] = clock() - began_s
        converting(fraction, doing)

    try:
        artefact = await asyncio.to_thread(store.artefact, stored, scheme, converted)
    except asyncio.CancelledError:
        unwanted.set()
        raise
    if took["converted"]:
        took["converted"] = clock() - began_s
    return Prepared(
        stored=stored,
        folder=artefact.folder,
        artefact=artefact,
        fetched_s=took["fetched"],
        converted_s=took["converted"],
    )
