"""Names to verified files: how models come into the store, what is made of them, and how they go.

Everything appears by a rename, the manifest last, so a crash at any point leaves the old state, and left-overs that
the next command removes. Lock order: a model's lock first, then the store's, which is only held for moments.
"""

import asyncio
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from qwenops.atomic import sync_folder
from qwenops.errors import DownloadError, IntegrityError, ModelLoadError, ModelNotFoundError, UnsupportedModelError
from qwenops.models.artefact import MANIFEST, MODEL_XML, Artefact, open_artefact, verify_artefact
from qwenops.models.checkpoint import file_sha256
from qwenops.models.download import Web, is_public, open_web
from qwenops.models.folders import new_folder, remove_left_overs, require_disk
from qwenops.models.hub import (
    NEEDED_SUFFIXES,
    Hub,
    HubOptions,
    HuggingFace,
    Listing,
    ModelScope,
    RemoteFile,
    check_architecture,
    needed_files,
    no_hub_reached,
)
from qwenops.models.locks import held, held_async
from qwenops.models.manifest import Manifest, StoredFile, read_manifest, save_manifest, whole_manifest
from qwenops.models.names import ModelName, parse_name
from qwenops.models.places import Places, size_of
from qwenops.models.progress import Meter, Progress, Report
from qwenops.models.spec import Scheme
from qwenops.text import say

SPARE_BYTES = 64 * 1024**2
"""Disk that is left free beyond what a download needs."""
CLOCK_STEP_S = 1.0
"""How coarse the times of files may be."""


class _UnwantedError(Exception):
    """Nobody waits for it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model whose files are there."""

    name: str
    checkpoint: Path
    """The folder with config.json and the weights (or a converted model, for such a folder outside the store)."""
    revision: str
    sha256: str
    """Of the weights, as the converted model's manifest has it."""
    manifest: Manifest

    @property
    def num_bytes(self) -> int:
        """The size of its files together."""
        return self.manifest.num_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One converted form of a model."""

    scheme: Scheme
    folder: Path
    num_bytes: int


@dataclass(slots=True, kw_only=True)
class Store:
    """The models on this machine, under one folder that several processes may use at once."""

    root: Path
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    wall_clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    public: Callable[[str], bool] = is_public
    """Which addresses belong to the internet; see `download.open_web`."""

    @property
    def places(self) -> Places:
        """Where everything lies."""
        return Places(root=self.root)

    def _names(self) -> tuple[str, ...]:
        """Return the names that may have been meant; a damaged manifest does not stand in the way."""
        try:
            return tuple(manifest.name for _, manifest in self.places.manifests())
        except ModelLoadError:
            return ()

    def name_of(self, text: str) -> ModelName:
        """Understand what a person typed, as `parse_name` does; what is in the store may have been meant too."""
        return parse_name(text, known=self._names())

    # -- fetching and making ------------------------------------------------------------------------------------

    async def ensure(self, name: str, hub: HubOptions, report: Report) -> StoredModel:
        """Return a model, fetching or making it first where it is missing; a complete one needs no network.

        Raises:
            QwenOpsError: As `pull` and `resolve` do.
        """
        try:
            return await asyncio.to_thread(self.resolve, name)
        except (ModelNotFoundError, ModelLoadError):
            return await self.pull(name, hub, report)

    async def pull(self, name: str, hub: HubOptions, report: Report) -> StoredModel:
        """Fetch a model from its hub, or make random weights; what is already there is not fetched again.

        Raises:
            ModelNotFoundError: No hub has it, or the name means nothing.
            DownloadError: It could not be fetched; what has arrived is kept.
            IntegrityError: A file does not hash to what was published.
            InsufficientDiskError: There is not enough room.
            ModelLoadError: It is no model that can be used.
        """
        wanted = self.name_of(name)
        if wanted.source == "folder":
            return await asyncio.to_thread(self.resolve, name)

        def waiting() -> None:
            report(Progress(what=say("Another process is fetching {name}; waiting for it", name=wanted.text)))

        async with held_async(self.places.lock(wanted.key), waiting):
            if wanted.source == "random":
                await self._make_random(wanted, report)
            else:
                await self._pull_from_any(wanted, hub, report)
        return await asyncio.to_thread(self.resolve, wanted.text)

    async def _pull_from_any(self, wanted: ModelName, options: HubOptions, report: Report) -> None:
        """Try the hubs that may have the model, in order, until one gives it."""
        hubs: dict[str, Hub] = {
            "hf": HuggingFace(url=options.huggingface_url.rstrip("/"), token=options.huggingface_token),
            "ms": ModelScope(url=options.modelscope_url.rstrip("/"), token=options.modelscope_token),
        }
        order = {"auto": ("hf", "ms"), "huggingface": ("hf",), "modelscope": ("ms",)}[options.source]
        names = (wanted.source,) if wanted.source in hubs else order
        silent: list[Web] = []
        for number, hub_name in enumerate(names):
            hub = hubs[hub_name]
            patience = options if number + 1 == len(names) else _impatient(options)
            try:
                async with open_web(hub.url, hub.headers, patience, environ=self.environ, public=self.public) as web:
                    web.tell = lambda what: report(Progress(what=what))
                    try:
                        await self._pull_from(wanted, hub, web, options.parallel, report)
                    finally:
                        silent += [web] if web.unreachable else []
            except (DownloadError, ModelNotFoundError) as error:
                if len(silent) == len(names):
                    reason = silent[-1].unreachable or error.message
                    raise no_hub_reached(wanted.text, [each.host for each in silent], reason) from error
                if number + 1 == len(names):
                    raise
                report(
                    Progress(
                        what=say(
                            "{host}: {reason} Trying the next hub",
                            host=hub.url.partition("://")[2],
                            reason=error.message,
                        )
                    )
                )
            else:
                return

    async def _pull_from(self, wanted: ModelName, hub: Hub, web: Web, parallel: int, report: Report) -> None:
        report(Progress(what=say("Asking {host} for {name}", host=web.host, name=wanted.text)))
        listing = await hub.listing(web, wanted.repo, wanted.revision)
        remote = needed_files(listing)
        committed = False
        while not committed:  # a second round only when another process removed a shared file in between
            committed = await self._fetch_missing(wanted, listing, remote, web, parallel, report)

    async def _fetch_missing(
        self,
        wanted: ModelName,
        listing: Listing,
        remote: Collection[RemoteFile],
        web: Web,
        parallel: int,
        report: Report,
    ) -> bool:
        """Fetch what is not here yet, the configuration before the weights; says whether all of it is here now."""
        known = await asyncio.to_thread(self._known_files, wanted.key, remote)
        missing = [each for each in remote if each.path not in known]
        incoming = self.places.incoming(wanted.key)
        if missing:
            await asyncio.to_thread(self._prepare, incoming, missing)
            meter = Meter(
                total_bytes=sum(each.size_bytes for each in missing),
                report=report,
                monotonic=self.monotonic,
                host=web.host,
            )
            weights = [each for each in missing if each.path.endswith(".safetensors")]
            others = [each for each in missing if each not in weights]
            known |= await self._fetch_all(others, incoming, web, parallel, meter)
            config = await asyncio.to_thread(self._content, known["config.json"], incoming)
            check_architecture(config, wanted.repo)
            known |= await self._fetch_all(weights, incoming, web, parallel, meter)
            meter.finish()
        manifest = Manifest(
            name=wanted.text,
            source=wanted.source,
            hub=listing.hub,
            repo=listing.repo,
            revision=listing.revision,
            files=tuple(known[each.path] for each in remote),
            stored_at_s=self.wall_clock(),
        )
        return await asyncio.to_thread(self._commit, wanted.key, manifest, incoming)

    def _known_files(self, key: str, remote: Collection[RemoteFile]) -> dict[str, StoredFile]:
        """Find those of `remote` whose content is here already, complete and verified."""
        before = whole_manifest(self.places.manifest(key))
        by_git = {each.git_sha1: each for each in before.files if each.git_sha1} if before else {}
        known: dict[str, StoredFile] = {}
        for each in remote:
            old = by_git.get(each.git_sha1) if each.git_sha1 else None
            sha256 = each.sha256 or (old.sha256 if old else None)
            if sha256 is None:
                continue
            file = StoredFile(path=each.path, size_bytes=each.size_bytes, sha256=sha256, git_sha1=each.git_sha1)
            places = (self.places.blobs / file.blob, self.places.incoming(key) / file.blob)
            if any(size_of(place) == each.size_bytes for place in places):
                known[each.path] = file
        return known

    def _prepare(self, incoming: Path, missing: Collection[RemoteFile]) -> None:
        """Make room for what is to come.

        Raises:
            InsufficientDiskError: There is not enough.
        """
        incoming.mkdir(parents=True, exist_ok=True)
        arrived = sum(min(size_of(_part(incoming, each)) or 0, each.size_bytes) for each in missing)
        require_disk(incoming, sum(each.size_bytes for each in missing) - arrived + SPARE_BYTES)

    async def _fetch_all(
        self, missing: Collection[RemoteFile], incoming: Path, web: Web, parallel: int, meter: Meter
    ) -> dict[str, StoredFile]:
        """Fetch files side by side; the first failure stops the others."""
        turn = asyncio.Semaphore(parallel)
        fetched: dict[str, StoredFile] = {}

        async def fetch(file: RemoteFile) -> None:
            async with turn:
                part = _part(incoming, file)
                sha256 = await web.fetch(file, part, lambda count: meter.arrived(file.path, count))
                stored = StoredFile(path=file.path, size_bytes=file.size_bytes, sha256=sha256, git_sha1=file.git_sha1)
                await asyncio.to_thread(part.rename, incoming / stored.blob)
                fetched[file.path] = stored

        try:
            async with asyncio.TaskGroup() as group:
                for file in missing:
                    group.create_task(fetch(file))
        except ExceptionGroup as failures:  # the first stopped the others
            raise failures.exceptions[0] from None
        return fetched

    def _content(self, file: StoredFile, incoming: Path) -> bytes:
        arrived = incoming / file.blob
        return (arrived if arrived.is_file() else self.places.blobs / file.blob).read_bytes()

    def _commit(self, key: str, manifest: Manifest, incoming: Path) -> bool:
        """Take what has come into the store, the manifest last; says no when something is missing after all."""
        blobs = self.places.blobs
        with self.places.whole_store():
            blobs.mkdir(parents=True, exist_ok=True)
            if incoming.is_dir():
                save_manifest(incoming / "manifest.json", manifest)  # its blobs count as used from here on
            for file in manifest.files:
                if (arrived := incoming / file.blob).is_file():
                    arrived.rename(blobs / file.blob)
            sync_folder(blobs)
            if any(size_of(blobs / file.blob) != file.size_bytes for file in manifest.files):
                return False
            with new_folder(self.places.checkpoint(key)) as folder:
                for file in manifest.files:
                    (folder / file.path).symlink_to(Path("..", "..", "blobs", file.blob))
            save_manifest(self.places.manifest(key), manifest)
            shutil.rmtree(incoming, ignore_errors=True)
            self.places.clean(self.wall_clock())
        return True

    async def _make_random(self, wanted: ModelName, report: Report) -> None:
        """Make random weights in a child process, which ends when whoever waits for them is cancelled."""
        from qwenops.models.random import SPECS

        folder = self.places.checkpoint(wanted.key)
        before = whole_manifest(self.places.manifest(wanted.key))
        if before and _complete(folder, before):
            return
        what = say("Making random weights for {name}", name=wanted.text)
        total_bytes = SPECS[wanted.repo].weight_bytes(Scheme.BF16)
        unwanted = threading.Event()

        def made(fraction: float, _doing: str) -> None:
            if unwanted.is_set():
                raise _UnwantedError
            report(Progress(what=what, done_bytes=round(fraction * total_bytes), total_bytes=total_bytes))

        report(Progress(what=what))
        making = asyncio.ensure_future(asyncio.to_thread(self._write_random, wanted, folder, made))
        try:
            await asyncio.shield(making)
        except asyncio.CancelledError:
            unwanted.set()
            await asyncio.wait([making])  # the lock is held until the child is gone
            making.exception()
            raise

    def _write_random(self, wanted: ModelName, folder: Path, report: Callable[[float, str], None]) -> None:
        from qwenops.models.random import write_in_child

        try:
            write_in_child(folder, wanted.repo, report)
        finally:
            remove_left_overs(folder)  # of a child that was killed
        manifest = Manifest(
            name=wanted.text,
            source="random",
            revision="",
            files=tuple(_described(path) for path in sorted(folder.iterdir())),
            stored_at_s=self.wall_clock(),
        )
        with self.places.whole_store():
            save_manifest(self.places.manifest(wanted.key), manifest)
            self.places.clean(self.wall_clock())

    # -- looking ------------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> StoredModel:
        """Return the model of that name, or in that folder, without any network.

        Raises:
            ModelNotFoundError: It is not in the store; the hint says how to get it, or the nearest name.
            ModelLoadError: Files of it are missing or cut off.
        """
        wanted = self.name_of(name)
        if wanted.folder is not None:
            return self._resolve_folder(wanted, wanted.folder)
        manifest = read_manifest(self.places.manifest(wanted.key))
        if manifest is None:
            raise ModelNotFoundError(
                say("{name} is not in the store.", name=wanted.text),
                hint=say("Run `qwenops pull {name}`.", name=wanted.text),
            )
        folder = self.places.checkpoint(wanted.key)
        if not _complete(folder, manifest):
            raise ModelLoadError(
                say("Files of {name} are missing or cut off in {folder}.", name=wanted.text, folder=folder),
                hint=say("Run `qwenops pull {name}`; only what is missing is fetched.", name=wanted.text),
            )
        return _stored(manifest, folder)

    def list(self) -> "tuple[StoredModel, ...]":
        """Return every model that was pulled, made, or converted from a folder, by name."""
        manifests = sorted(self.places.manifests(), key=lambda item: item[1].name)
        return tuple(
            _stored(manifest, Path(manifest.folder) if manifest.folder else self.places.checkpoint(key))
            for key, manifest in manifests
        )

    def show(self, name: str) -> "tuple[StoredModel, tuple[Variant, ...]]":
        """Return a model with the converted forms that there are of it.

        Raises:
            QwenOpsError: As `resolve` does.
        """
        stored = self.resolve(name)
        variants = []
        for scheme in Scheme:
            folder = self.places.artefact(stored.manifest.fingerprint, scheme)
            if (folder / MANIFEST).is_file():
                size = sum(path.stat().st_size for path in folder.iterdir())
                variants.append(Variant(scheme=scheme, folder=folder, num_bytes=size))
        return stored, tuple(variants)

    def verify(self, name: str) -> StoredModel:
        """Hash every file of a model and of its converted forms again; what is damaged is removed.

        The next pull fetches removed contents, and the next use makes a removed converted form again.

        Raises:
            IntegrityError: Files are not what was published; the message names them.
            QwenOpsError: As `resolve` does.
        """
        stored, variants = self.show(name)
        for variant in variants:
            try:
                verify_artefact(open_artefact(variant.folder))
            except ModelLoadError as error:
                shutil.rmtree(variant.folder, ignore_errors=True)
                hint = say("It is removed, and is made again when it is used.")
                raise IntegrityError(error.message, hint=hint) from error
        damaged = [each for each in stored.manifest.files if file_sha256(stored.checkpoint / each.path) != each.sha256]
        if not damaged:
            return stored
        names = ", ".join(each.path for each in damaged)
        if stored.manifest.source == "folder":
            hint = say("Restore them: a folder outside the store is never changed here.")
        else:
            for each in damaged:
                (stored.checkpoint / each.path).resolve().unlink(missing_ok=True)
            hint = say("They are removed. Run `qwenops pull {name}` to fetch them again.", name=stored.name)
        raise IntegrityError(say("Files of {name} are damaged: {names}.", name=stored.name, names=names), hint=hint)

    # -- converting and removing --------------------------------------------------------------------------------

    def artefact(
        self,
        stored: StoredModel,
        scheme: Scheme,
        report: Callable[[float, str], None],
        *,
        timeout_s: float = 1800.0,
    ) -> Artefact:
        """Return the model converted to `scheme`, converting it in a child process where that is missing.

        Raises:
            ModelLoadError: The model cannot be converted, or is a folder converted to another scheme.
            DeadlineError: It took too long.
        """
        from qwenops.models.convert import convert_in_child

        if (stored.checkpoint / MODEL_XML).is_file():
            return _as_converted(stored, scheme)
        target = self.places.artefact(stored.manifest.fingerprint, scheme)
        if (found := _usable(target)) is not None:
            return found

        def waiting() -> None:
            report(0.0, say("Another process is converting {name}; waiting for it", name=stored.name))

        with held(self.places.lock(target.name), waiting):
            if (found := _usable(target)) is not None:
                return found
            if stored.manifest.source == "folder":
                with self.places.whole_store():
                    save_manifest(self.places.manifest(parse_name(stored.name).key), stored.manifest)
            return convert_in_child(stored.checkpoint, target, scheme, report, timeout_s)

    def find(self, name: str) -> ModelName:
        """Return the name of a model of which something is in the store, be it a download that broke off.

        Raises:
            ModelNotFoundError: Nothing is.
        """
        wanted = self.name_of(name)
        if not self.places.manifest(wanted.key).exists() and not self.places.incoming(wanted.key).exists():
            raise self._not_there(wanted.text)
        return wanted

    def remove(self, name: str) -> int:
        """Remove a model and what was made of it; returns the bytes that became free. Shared contents stay.

        A folder outside the store is never touched; its converted forms go.

        Raises:
            ModelNotFoundError: It is not in the store.
        """
        with held(self.places.lock(self.name_of(name).key), lambda: None, timeout_s=60.0):
            wanted = self.find(name)
            before = self.places.used_bytes()
            with self.places.whole_store():
                self.places.manifest(wanted.key).unlink(missing_ok=True)
                shutil.rmtree(self.places.checkpoint(wanted.key), ignore_errors=True)
                shutil.rmtree(self.places.incoming(wanted.key), ignore_errors=True)
                self.places.clean(self.wall_clock())
            return before - self.places.used_bytes()

    def clean(self) -> None:
        """Remove what crashed processes left behind, and what no model uses."""
        with self.places.whole_store():
            self.places.clean(self.wall_clock())

    def _not_there(self, name: str) -> ModelNotFoundError:
        near = get_close_matches(name, [each for each in self._names() if each != name], n=1)
        hint = say("Did you mean {name}?", name=near[0]) if near else say("`qwenops list` shows what is there.")
        return ModelNotFoundError(say("{name} is not in the store.", name=name), hint=hint)

    def _resolve_folder(self, wanted: ModelName, folder: Path) -> StoredModel:
        if (folder / MODEL_XML).is_file():
            artefact = open_artefact(folder)
            manifest = Manifest(name=wanted.text, source="folder", revision="", files=(), folder=str(folder))
            return StoredModel(
                name=wanted.text, checkpoint=folder, revision="", sha256=artefact.sha256, manifest=manifest
            )
        if not (folder / "config.json").is_file():
            raise UnsupportedModelError(
                say("{folder} holds no model: it has no config.json.", folder=folder),
                hint=say("Give the folder that holds config.json and the weights."),
            )
        before = whole_manifest(self.places.manifest(wanted.key))
        paths = [path for path in sorted(folder.iterdir()) if path.name.endswith(NEEDED_SUFFIXES) and path.is_file()]
        if before and _unchanged(paths, before):
            return _stored(before, folder)
        began_s = self.wall_clock()
        manifest = Manifest(
            name=wanted.text,
            source="folder",
            revision="",
            files=tuple(_described(path) for path in paths),
            folder=str(folder),
            stored_at_s=began_s,
        )
        return _stored(manifest, folder)


def default_root(environ: Mapping[str, str]) -> Path:
    """Return where models lie: `$QWENOPS_HOME/models`, else the user's data folder."""
    home = environ.get("QWENOPS_HOME")
    if home:
        return Path(home).expanduser() / "models"
    import platformdirs

    return Path(platformdirs.user_data_dir("qwenops", appauthor=False)) / "models"


def _stored(manifest: Manifest, folder: Path) -> StoredModel:
    from qwenops.models.convert import source_sha256

    return StoredModel(
        name=manifest.name,
        checkpoint=folder,
        revision=manifest.revision,
        sha256=source_sha256(manifest.hashes),
        manifest=manifest,
    )


def _impatient(options: HubOptions) -> HubOptions:
    """Where another hub can go on, a hub that is blocked or down should not cost minutes."""
    return replace(options, attempts=min(2, options.attempts), connect_timeout_s=min(5.0, options.connect_timeout_s))


def _part(incoming: Path, file: RemoteFile) -> Path:
    """Return where an incomplete file lies; named by path and content, so that another hub can complete it."""
    facts = f"{file.path} {file.size_bytes} {file.sha256 or file.git_sha1 or file.url}"
    return incoming / f"{hashlib.sha256(facts.encode()).hexdigest()}.part"


def _complete(folder: Path, manifest: Manifest) -> bool:
    return all(size_of(folder / each.path) == each.size_bytes for each in manifest.files)


def _described(path: Path) -> StoredFile:
    return StoredFile(path=path.name, size_bytes=path.stat().st_size, sha256=file_sha256(path))


def _unchanged(paths: Collection[Path], manifest: Manifest) -> bool:
    """Say whether a folder has the files that were hashed: the same names and sizes, and none written since."""
    sizes = {each.path: each.size_bytes for each in manifest.files}
    facts = {path.name: path.stat() for path in paths}
    return {name: each.st_size for name, each in facts.items()} == sizes and all(
        max(each.st_mtime, each.st_ctime) + CLOCK_STEP_S < manifest.stored_at_s for each in facts.values()
    )


def _usable(target: Path) -> Artefact | None:
    """Open a converted model; None when there is none, or when it is damaged and has to be made again."""
    if not (target / MANIFEST).is_file():
        return None
    try:
        return open_artefact(target)
    except ModelLoadError:
        return None


def _as_converted(stored: StoredModel, scheme: Scheme) -> Artefact:
    artefact = open_artefact(stored.checkpoint)
    if artefact.scheme is not scheme:
        raise ModelLoadError(
            say(
                "{folder} is converted to {found}, not to {wanted}.",
                folder=stored.checkpoint,
                found=artefact.scheme.value,
                wanted=scheme.value,
            ),
            hint=say("Choose --scheme {found}, or give the folder of the checkpoint.", found=artefact.scheme.value),
        )
    return artefact
