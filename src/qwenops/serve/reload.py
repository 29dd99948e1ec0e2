"""Other options without a restart: read, validate, compare, take over, and go back when that fails.

A reload is asked for by SIGHUP, by `POST /admin/reload`, or by a change of the configuration file. Only options marked
live change; those that need a restart are listed in the report and stay as they are.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenops.errors import ConfigError, QwenOpsError
from qwenops.serve.options import Difference, ServeOptions, differences, take_live
from qwenops.text import say

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the configuration says now."""

    serve: ServeOptions
    elsewhere: tuple[Difference, ...] = ()
    """What differs from the start in parts that are told only then, such as the engine; with whole keys."""


ReadOptions = Callable[[], Wanted]

Apply = Callable[[ServeOptions], None]
"""Takes options over; when it raises, all that applied before it get the old ones again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadReport:
    """What a reload did, or would do."""

    generation: int
    applied: tuple[Difference, ...]
    needs_restart: tuple[Difference, ...]
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the form that `/admin/reload` answers."""
        return {
            "config_generation": self.generation,
            "dry_run": self.dry_run,
            "applied": [_plain(each) for each in self.applied],
            "needs_restart": [_plain(each) for each in self.needs_restart],
        }


def _plain(difference: Difference) -> dict[str, Any]:
    return {"key": difference.key, "old": _jsonable(difference.old), "new": _jsonable(difference.new)}


def _jsonable(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


class Reloader:
    """The options in force, and how to change them."""

    def __init__(
        self,
        options: ServeOptions,
        read: ReadOptions | None = None,
        *,
        apply: Sequence[Apply] = (),
        on_result: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin with `options` as generation 1.

        Args:
            options: In force now.
            read: Reads and validates the configuration again; may wait for the disk.
            apply: Who takes options over, in this order.
            on_result: Told "success" or "failure".
        """
        self._options = options
        self._read = read
        self._apply = tuple(apply)
        self._on_result = on_result
        self._generation = 1
        self._one_at_a_time = asyncio.Lock()

    @property
    def options(self) -> ServeOptions:
        """The options in force."""
        return self._options

    @property
    def generation(self) -> int:
        """Counts the configurations that were in force."""
        return self._generation

    async def reload(self, *, dry_run: bool = False) -> ReloadReport:
        """Read the configuration again and take its live options over.

        Raises:
            ConfigError: It is wrong, or could not be applied; the old options are in force.
        """
        if self._read is None:
            raise ConfigError(
                say("This server was started without a configuration that could be read again."),
                hint=say("Start it with a configuration file."),
            )
        async with self._one_at_a_time:
            try:
                wanted = await asyncio.to_thread(self._read)
                report = self._take(wanted, dry_run=dry_run)
            except Exception as error:
                self._on_result("failure")
                if isinstance(error, QwenOpsError):
                    raise
                raise ConfigError(
                    say("The new configuration could not be applied: {why}.", why=str(error)),
                    hint=say("The old one is in force; the log has the details."),
                ) from error
            self._on_result("success")
        _log.info(
            "reload: generation %d, applied %s, needs a restart %s",
            report.generation,
            [each.key for each in report.applied],
            [each.key for each in report.needs_restart],
        )
        return report

    def _take(self, wanted: Wanted, *, dry_run: bool) -> ReloadReport:
        found = differences(self._options, wanted.serve)
        applied = tuple(each for each in found if each.live)
        needs_restart = (*(each for each in found if not each.live), *wanted.elsewhere)
        if not dry_run:
            self._swap(take_live(self._options, wanted.serve))
            self._generation += bool(applied)
        return ReloadReport(generation=self._generation, applied=applied, needs_restart=needs_restart, dry_run=dry_run)

    def _swap(self, options: ServeOptions) -> None:
        done: list[Apply] = []
        try:
            for each in self._apply:
                done.append(each)
                each(options)
        except Exception:
            for each in done:
                try:
                    each(self._options)
                except Exception:  # noqa: BLE001 -- the others must go back all the same
                    _log.exception("going back to the old options failed for %r", each)
            raise
        self._options = options


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells two states of a file apart, through all symbolic links (a ConfigMap is swapped by one)."""

    real: str
    inode: int
    modified_ns: int
    size: int


def fingerprint(path: Path) -> Fingerprint | None:
    """Return the state of a file; None while it is not there, as in the middle of a swap."""
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except OSError:
        return None
    return Fingerprint(str(real), status.st_ino, status.st_mtime_ns, status.st_size)


async def watch(paths: Sequence[Path], *, poll_s: float, changed: Callable[[], Any]) -> None:
    """Await `changed()` whenever one of the files is another than before, for ever; a missing file is no change."""
    seen = {path: await asyncio.to_thread(fingerprint, path) for path in paths}
    while True:
        await asyncio.sleep(poll_s)
        news = False
        for path in paths:
            now = await asyncio.to_thread(fingerprint, path)
            if now is not None and now != seen[path]:
                seen[path] = now
                news = True
        if news:
            await changed()
