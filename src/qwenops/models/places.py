"""Where everything in the store lies, who may touch it now, and what may go.

blobs/sha256-...        contents, each once, however many models share it
manifests/NAME.json     what each model consists of; a model is in the store when its manifest is
checkpoints/NAME/       the model's files under their own names: links to blobs, or made here (random weights)
artefacts/...           converted forms, by what they were made from, scheme and version of the converter
incoming/NAME/          downloads that are not complete; kept, so that the next pull goes on from there
locks/                  one file for each thing that only one process may do at a time
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from qwenops.errors import ModelLoadError
from qwenops.models.artefact import FORMAT
from qwenops.models.folders import remove_left_overs
from qwenops.models.locks import held, held_if_free
from qwenops.models.manifest import Manifest, read_manifest, whole_manifest
from qwenops.models.spec import Scheme

LOG = logging.getLogger(__name__)

INCOMPLETE_KEPT_S = 14 * 24 * 3600.0
"""How long an incomplete download that nobody works on is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The folders of a store."""

    root: Path

    @property
    def blobs(self) -> Path:
        """Contents by hash."""
        return self.root / "blobs"

    def checkpoint(self, key: str) -> Path:
        """A model's files under their own names."""
        return self.root / "checkpoints" / key

    def incoming(self, key: str) -> Path:
        """What has arrived of a model so far."""
        return self.root / "incoming" / key

    def artefact(self, fingerprint: str, scheme: Scheme) -> Path:
        """A converted form."""
        return self.root / "artefacts" / f"{fingerprint[:32]}-{scheme.value}-v{FORMAT}"

    def manifest(self, key: str) -> Path:
        """What a model consists of."""
        return self.root / "manifests" / f"{key}.json"

    def lock(self, name: str) -> Path:
        """The file that is locked by who works on a model or on a converted form."""
        return self.root / "locks" / f"{name}.lock"

    def whole_store(self) -> AbstractContextManager[None]:
        """Hold the lock of the store itself: for moments, while something appears or goes."""
        return held(self.lock("store"), lambda: None, timeout_s=120.0)

    def manifests(self) -> Iterator[tuple[str, Manifest]]:
        """Yield each model's key and manifest."""
        for path in sorted((self.root / "manifests").glob("[!.]*.json")):
            if (manifest := read_manifest(path)) is not None:
                yield path.stem, manifest

    def used_bytes(self) -> int:
        """Add up what the store takes of the disk."""
        return sum(
            path.stat(follow_symlinks=False).st_size
            for part in ("blobs", "checkpoints", "artefacts", "incoming")
            for path in (self.root / part).rglob("*")
            if path.is_symlink() or path.is_file()
        )

    def clean(self, now_s: float) -> None:
        """Remove what crashed processes left behind and what no model uses; the store's lock must be held.

        Nothing is removed while a manifest is damaged: it may name what would go.
        """
        try:
            manifests = dict(self.manifests())
        except ModelLoadError as error:
            LOG.warning("nothing is cleaned: %s", error)
            return
        used = {each.blob for manifest in manifests.values() for each in manifest.files}
        for folder in _entries(self.root / "incoming"):
            pending = whole_manifest(folder / "manifest.json")
            used |= {each.blob for each in pending.files} if pending else set()
            if now_s - folder.stat().st_mtime > INCOMPLETE_KEPT_S:
                self._remove_unheld(folder)
        for blob in _entries(self.blobs):
            if blob.name not in used:
                blob.unlink(missing_ok=True)
        self._remove_unused(self.root / "checkpoints", tuple(manifests), exact=True)
        fingerprints = tuple(manifest.fingerprint[:32] for manifest in manifests.values())
        self._remove_unused(self.root / "artefacts", fingerprints, exact=False)
        for partial in (self.root / "manifests").glob(".*.partial"):
            partial.unlink(missing_ok=True)

    def _remove_unused(self, shelf: Path, used: tuple[str, ...], *, exact: bool) -> None:
        for folder in _entries(shelf):
            if folder.name.startswith("."):
                remove_left_overs(folder.with_name(folder.name[1:].rsplit(".", 2)[0]))
            elif folder.name not in used if exact else not folder.name.startswith(used):
                self._remove_unheld(folder)

    def _remove_unheld(self, folder: Path) -> None:
        """Remove a folder, unless a process is working on it right now."""
        with held_if_free(self.lock(folder.name)) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)


def size_of(path: Path) -> int | None:
    """Return a file's size; None when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
