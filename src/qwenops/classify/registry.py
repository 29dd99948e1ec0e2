"""The registry: classifiers that never change, and names that point at them.

    registry/complaints/0003-9f86d081884c/    what `finetune export` wrote, and `registered.json`
    registry/complaints/aliases.json          which of them is the champion, which the candidate, and which were before
    registry/complaints/.lock                 held by who changes either

`registered.json` names every file with its size and hash, and the folder is named by the hash of that text, so a byte
that changed anywhere, a file that went and one that came are all found out. A folder appears whole or not at all. An
alias is moved by one rename under the lock: who reads sees the old one or the new one, and of two who move it at the
same time the second sees what the first has done.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qwenops.atomic import write_text
from qwenops.classify.aliases import Aliases, Change, read_aliases, write_aliases
from qwenops.errors import ConfigError, ModelLoadError, ModelNotFoundError
from qwenops.models.artefact import MANIFEST
from qwenops.models.checkpoint import file_sha256
from qwenops.models.folders import new_folder
from qwenops.models.locks import held
from qwenops.text import Text, say

RECORD = "registered.json"
ALIASES = "aliases.json"
RECORD_SCHEMA = "qwenops.registered/1"
CHAMPION = "champion"
"""The one that serves."""
CANDIDATE = "candidate"
"""The one that was registered last."""
DESCRIBING = (MANIFEST, "metrics.json", "parity.json", "calibration.json", "thresholds.json", "prompt.json")
"""What two classifiers are compared by."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_FOLDER = re.compile(r"(?P<version>[0-9]{4,})-(?P<hash>[0-9a-f]{12})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HASH_CHARS = 12
_LOCK_TIMEOUT_S = 300.0
_BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of an artefact."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """An artefact in the registry."""

    name: str
    version: int
    sha256: str
    """Of its record, and so of everything in it."""
    folder: Path
    files: Mapping[str, StoredFile]
    """By path within the folder."""

    @property
    def key(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def ref(self) -> str:
        """What predictions call it: `complaints@3-9f86d081884c`."""
        return f"{self.name}@{self.version}-{self.sha256[:_HASH_CHARS]}"

    @property
    def num_bytes(self) -> int:
        """The size of all files together."""
        return sum(each.num_bytes for each in self.files.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something in which two artefacts differ; None is what one of them does not have."""

    where: str
    """File and key: `metrics.json: macro_f1`."""
    old: Any
    new: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The artefacts under one folder, which several processes may use at once."""

    root: Path
    now: Callable[[], datetime] = lambda: datetime.now(tz=UTC)

    def names(self) -> tuple[str, ...]:
        """Return what there are artefacts of."""
        if not self.root.is_dir():
            return ()
        return tuple(sorted(each.name for each in self.root.iterdir() if _NAME.fullmatch(each.name) and each.is_dir()))

    def keys(self, name: str) -> tuple[str, ...]:
        """Return the folders that a name has, the earliest first, whatever is in them."""
        home = self.root / name
        found = [each.name for each in home.iterdir() if _FOLDER.fullmatch(each.name)] if home.is_dir() else []
        return tuple(sorted(found, key=_version_of))

    def versions(self, name: str) -> tuple[Registered, ...]:
        """Return the artefacts of a name, the earliest first; those that are damaged are left out.

        Their records are read, their files are not.
        """
        found = []
        for key in self.keys(name):
            try:
                found.append(read_registered(self.root / name / key, name))
            except ModelLoadError:
                continue
        return tuple(found)

    def aliases(self, name: str) -> Aliases:
        """Return the aliases of a name.

        Raises:
            ModelLoadError: The file that holds them is damaged.
        """
        return read_aliases(self.root / name / ALIASES)

    def pointed(self, name: str, alias: str = CHAMPION) -> str:
        """Return the name of the folder that an alias points at; empty where it points nowhere. Cheap.

        Raises:
            ModelLoadError: The file that holds the aliases is damaged.
        """
        pointer = self.aliases(name).pointers.get(alias)
        return pointer.now if pointer else ""

    def find(self, ref: str, *, alias: str = CHAMPION) -> Registered:
        """Return the artefact that is meant; its files are not read.

        Args:
            ref: `NAME`, `NAME@ALIAS`, `NAME@3` or `NAME@3-9f86d081884c`; the hash may be cut.
            alias: What `NAME` alone means.

        Raises:
            ConfigError: It is no such thing.
            ModelNotFoundError: There is none; the message says what there is.
            ModelLoadError: Its record is damaged.
        """
        name, _, which = ref.partition("@")
        self._check_known(name)
        which = which or alias
        key = self._key_of(name, which)
        if key is None:
            raise self._no_such_version(name, which)
        return read_registered(self.root / name / key, name)

    def open(self, ref: str, *, alias: str = CHAMPION) -> Registered:
        """Return the artefact that is meant after every file was read and compared; see `find`.

        Raises:
            ModelLoadError: A byte of it is not what was registered.
        """
        found = self.find(ref, alias=alias)
        verify(found)
        return found

    def register(self, name: str, folder: Path, *, by: str, alias: str = CANDIDATE) -> Registered:
        """Copy an artefact into the registry and let an alias point at it; one that is there already stays one.

        Args:
            name: What it is called; lower-case letters, digits, `.`, `_` and `-`.
            folder: Where it lies.
            by: Who does it, for the list of changes.
            alias: What shall point at it.

        Raises:
            ConfigError: The name is none, or the folder holds nothing or what cannot be copied.
            InsufficientDiskError: There is no room.
        """
        _check_name(name)
        files = _hashed(folder)
        if not files:
            raise ConfigError(
                say("There is no artefact in {folder}.", folder=str(folder)),
                hint=say("Give the folder that `qwenops finetune export` wrote."),
            )
        with self._locked(name):
            home = self.root / name
            for left_over in home.glob(".*.tmp"):  # only who holds the lock writes one
                shutil.rmtree(left_over, ignore_errors=True)
            found = next((each for each in self.versions(name) if each.files == files), None)
            if found is None:
                version = 1 + max(map(_version_of, self.keys(name)), default=0)
                found = self._copied(name, version, folder, files)
            self._point(name, alias, found.key, action="registered", by=by)
        return found

    def promote(self, ref: str, *, by: str, alias: str = CHAMPION) -> Change:
        """Let an alias point at an artefact, by default the champion at the candidate; every file is checked first.

        Raises:
            ModelNotFoundError: There is no such artefact.
            ModelLoadError: A byte of it is not what was registered.
        """
        found = self.open(ref, alias=CANDIDATE)
        with self._locked(found.name):
            return self._point(found.name, alias, found.key, action="promoted", by=by)

    def rollback(self, name: str, *, by: str, alias: str = CHAMPION) -> Change:
        """Let an alias point at what it pointed at before; every file of that is checked first.

        Raises:
            ConfigError: It pointed at nothing before.
            ModelLoadError: A byte of that artefact is not what was registered.
        """
        self._check_known(name)
        with self._locked(name):
            moved = self.aliases(name).back(alias, at=self.now(), by=by)
            if moved is None:
                raise ConfigError(
                    say("{alias} of {name} pointed at nothing before.", alias=alias, name=name),
                    hint=say("`qwenops registry promote {name}@VERSION` points it at any version.", name=name),
                )
            verify(read_registered(self.root / name / moved.pointers[alias].now, name))
            write_aliases(self.root / name / ALIASES, moved)
            return moved.changes[-1]

    def _point(self, name: str, alias: str, key: str, *, action: str, by: str) -> Change:
        """Move an alias; the lock must be held. One that points there already stays as it is."""
        known = self.aliases(name)
        old = known.pointers.get(alias)
        if old is not None and old.now == key:
            return Change(alias=alias, action=action, old=key, new=key, at=old.at, by=old.by)
        moved = known.pointed(alias, key, at=self.now(), by=by, action=action)
        write_aliases(self.root / name / ALIASES, moved)
        return moved.changes[-1]

    def _copied(self, name: str, version: int, source: Path, files: Mapping[str, StoredFile]) -> Registered:
        text = record_text(name, version, files)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        target = self.root / name / f"{version:04d}-{sha256[:_HASH_CHARS]}"
        needed = sum(each.num_bytes for each in files.values()) + len(text)
        with new_folder(target, needed_bytes=needed) as folder:
            for path, facts in files.items():
                _copy(source / path, folder / path, facts)
            write_text(folder / RECORD, text, mode=0o444)
        return Registered(name=name, version=version, sha256=sha256, folder=target, files=files)

    def _key_of(self, name: str, which: str) -> str | None:
        """Return the folder that an alias, a version or the beginning of a folder's name means."""
        pointer = self.aliases(name).pointers.get(which)
        if pointer is not None:
            return pointer.now
        number, _, begun = which.partition("-")
        if not number.isdecimal():
            return None
        keys = [key for key in self.keys(name) if _version_of(key) == int(number)]
        return next((key for key in keys if key.partition("-")[2].startswith(begun)), None)

    def _locked(self, name: str) -> AbstractContextManager[None]:
        return held(self.root / name / ".lock", lambda: None, timeout_s=_LOCK_TIMEOUT_S)

    def _check_known(self, name: str) -> None:
        _check_name(name)
        names = self.names()
        if name in names:
            return
        near = get_close_matches(name, names, n=1)
        raise ModelNotFoundError(
            say("There is no classifier {name!r} in {root}.", name=name, root=str(self.root)),
            hint=say("Did you mean {near!r}?", near=near[0])
            if near
            else say("There are: {names}.", names=", ".join(names) or "-"),
        )

    def _no_such_version(self, name: str, which: str) -> ModelNotFoundError:
        versions = ", ".join(str(each.version) for each in self.versions(name))
        aliases = ", ".join(self.aliases(name).pointers)
        return ModelNotFoundError(
            say("There is no {name}@{which}.", name=name, which=which),
            hint=say(
                "Versions: {versions}; aliases: {aliases}. `qwenops registry promote` makes a champion.",
                versions=versions or "-",
                aliases=aliases or "-",
            ),
        )


def record_text(name: str, version: int, files: Mapping[str, StoredFile]) -> str:
    """Return the record of an artefact: one text for one content."""
    listed = {path: {"bytes": each.num_bytes, "sha256": each.sha256} for path, each in files.items()}
    whole = {"schema": RECORD_SCHEMA, "name": name, "version": version, "files": listed}
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_registered(folder: Path, name: str) -> Registered:
    """Read the record of an artefact.

    Raises:
        ModelLoadError: It is not the one that the folder was named by.
    """
    try:
        raw = (folder / RECORD).read_bytes()
        found = json.loads(raw)
        version = int(found["version"])
        files = {
            str(path): StoredFile(num_bytes=int(facts["bytes"]), sha256=str(facts["sha256"]))
            for path, facts in found["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, say("its record cannot be read ({reason})", reason=repr(error))) from error
    sha256 = hashlib.sha256(raw).hexdigest()
    named = _FOLDER.fullmatch(folder.name)
    is_ours = raw == record_text(name, version, files).encode()
    if named is None or not is_ours or named["hash"] != sha256[:_HASH_CHARS] or int(named["version"]) != version:
        raise _damaged(folder, say("its record is not the one that it was named by"))
    return Registered(name=name, version=version, sha256=sha256, folder=folder, files=files)


def verify(found: Registered) -> None:
    """Read every file of an artefact and compare.

    Raises:
        ModelLoadError: A file is missing, is not what was registered, or came later.
    """
    there = set(_walk(found.folder))
    if strange := sorted(there - set(found.files)):
        raise _damaged(found.folder, say("{name} does not belong to it", name=strange[0]))
    for name, facts in found.files.items():
        path = found.folder / name
        if name not in there:
            raise _damaged(found.folder, say("{name} is missing", name=name))
        if path.stat().st_size != facts.num_bytes or file_sha256(path) != facts.sha256:
            raise _damaged(found.folder, say("{name} is not what was registered", name=name))


def describe(found: Registered) -> dict[str, Any]:
    """Return what an artefact says of itself: the content of its describing files that are there.

    Raises:
        ModelLoadError: One of them is no JSON.
    """
    told: dict[str, Any] = {}
    for name in DESCRIBING:
        if name in found.files:
            try:
                told[name] = json.loads((found.folder / name).read_bytes())
            except (OSError, ValueError) as error:
                raise _damaged(found.folder, say("{name} cannot be read", name=name)) from error
    return told


def diff(old: Registered, new: Registered) -> list[Difference]:
    """Return in what two artefacts differ: what they say of themselves, key by key, and which files are others."""
    before, after = dict(leaves(describe(old))), dict(leaves(describe(new)))
    found = [
        Difference(where=where, old=before.get(where), new=after.get(where))
        for where in sorted({*before, *after})
        if before.get(where) != after.get(where)
    ]
    for path in sorted({*old.files, *new.files} - set(DESCRIBING)):
        one, other = old.files.get(path), new.files.get(path)
        if one != other:
            found.append(Difference(where=path, old=one.sha256 if one else None, new=other.sha256 if other else None))
    return found


def trained_on(found: Registered) -> frozenset[str]:
    """Return every hash that the manifest names: the data that a classifier was made from is among them.

    Raises:
        ModelLoadError: The manifest is no JSON.
    """
    manifest = describe(found).get(MANIFEST, {})
    values = (value for _, value in leaves(manifest))
    texts = (text for value in values for text in (value if isinstance(value, list) else [value]))
    return frozenset(text for text in texts if isinstance(text, str) and _SHA256.fullmatch(text))


def leaves(tree: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested objects by their keys; a list is one value unless objects are in it."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            joint = ": " if where in DESCRIBING else "."
            yield from leaves(value, f"{where}{joint}{key}" if where else str(key))
    elif isinstance(tree, list) and any(isinstance(each, Mapping) for each in tree):
        for number, each in enumerate(tree):
            yield from leaves(each, f"{where}[{number}]")
    else:
        yield where, tree


def _hashed(folder: Path) -> dict[str, StoredFile]:
    return {
        name: StoredFile(num_bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
        for name in sorted(_walk(folder))
    }


def _walk(folder: Path) -> Iterator[str]:
    """Yield every file of an artefact by its path, but for the record.

    Raises:
        ConfigError: There is a link or something else that is no file.
    """
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ConfigError(
                say("{path} is neither a file nor a folder.", path=str(path)),
                hint=say("Links may lead to what changes; put the file itself there."),
            )
        if path.is_file() and name != RECORD:
            yield name


def _copy(source: Path, target: Path, facts: StoredFile) -> None:
    """Copy a file, durably, and make sure that it is the one that was hashed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as given, target.open("xb") as out:
        while block := given.read(_BLOCK_BYTES):
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != facts.sha256:
        raise ModelLoadError(
            say("{path} changed while it was copied.", path=str(source)),
            hint=say("Register the artefact when nothing writes into it any more."),
        )
    target.chmod(0o444)


def _version_of(key: str) -> int:
    return int(key.partition("-")[0])


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            say("{name!r} cannot be the name of a classifier.", name=name[:64]),
            hint=say("Use lower-case letters, digits, dots, - and _; 63 at most, the first a letter or a digit."),
        )


def _damaged(folder: Path, what: Text) -> ModelLoadError:
    return ModelLoadError(
        say("The artefact {folder} is damaged: {what}.", folder=str(folder), what=what),
        hint=say("Nothing uses it. Promote another version, or export and register it again."),
    )
