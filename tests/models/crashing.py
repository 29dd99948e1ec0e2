"""Run as a program: change a store, be killed at the n-th change on disk, and look at what is left, for every n.

Each round forks. The child puts one model into a store that already has another, or removes it again, and kills itself
with SIGKILL just before its n-th change. The parent then checks that nothing was lost, that cleaning leaves no rubbish,
and that the same change works when it is made again. It ends when a child reaches the end alive.
"""

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qwenops.errors import ModelLoadError, ModelNotFoundError
from qwenops.models.manifest import Manifest, StoredFile
from qwenops.models.names import parse_name
from qwenops.models.store import Store

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate"}
KEPT = {"config.json": b"{}", "model.safetensors": b"weights 1"}
NEW = {"config.json": b"{}", "model.safetensors": b"weights 2", "tokenizer.json": b"[]"}


def put(store: Store, name: str, contents: dict[str, bytes]) -> None:
    """Put a model into the store as a pull does when everything has arrived."""
    commit(store, name, arrive(store, name, contents))


def arrive(store: Store, name: str, contents: dict[str, bytes]) -> list[StoredFile]:
    """Lay down verified files as a pull does before it commits."""
    incoming = store.places.incoming(parse_name(name).key)
    incoming.mkdir(parents=True, exist_ok=True)
    files = []
    for path, content in contents.items():
        file = StoredFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        (incoming / file.blob).write_bytes(content)
        files.append(file)
    return files


def commit(store: Store, name: str, files: list[StoredFile]) -> None:
    key = parse_name(name).key
    manifest = Manifest(name=name, source="hf", hub="hf", repo="a/b", revision="c", files=tuple(files))
    assert store._commit(key, manifest, store.places.incoming(key))


def killed_at(number: int, change: Callable[[], object]) -> bool:
    """Make a change in a child that is killed before its `number`-th step; say whether it came to its end."""
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or writes:
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        change()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def contents(store: Store) -> set[bytes]:
    """Return everything that has been downloaded, wherever it lies."""
    shelves = (store.places.blobs, store.root / "incoming")
    return {path.read_bytes() for shelf in shelves for path in shelf.rglob("sha256-*")}


def check_clean(store: Store) -> None:
    names = [path.name for path in store.root.rglob("*") if ".lock" not in path.name]
    assert not [name for name in names if name.endswith((".partial", ".tmp"))], names
    used = {each.blob for stored in store.list() for each in stored.manifest.files}
    assert {path.name for path in store.places.blobs.iterdir()} == used
    assert {path.name for path in (store.root / "checkpoints").iterdir()} == {
        parse_name(stored.name).key for stored in store.list()
    }


def putting(root: Path) -> int:
    number = 0
    while True:
        number += 1
        store = Store(root=root / f"put-{number}", environ={})
        put(store, "hf:a/kept", KEPT)
        files = arrive(store, "hf:a/new", NEW)
        ended = killed_at(number, partial(commit, store, "hf:a/new", files))
        store.clean()
        assert contents(store) >= set(NEW.values()), number
        store.verify("hf:a/kept")
        try:
            store.resolve("hf:a/new")
        except (ModelNotFoundError, ModelLoadError):
            assert not ended
        commit(store, "hf:a/new", files)
        store.verify("hf:a/new")
        check_clean(store)
        shutil.rmtree(store.root)
        if ended:
            return number


def removing(root: Path) -> int:
    number = 0
    while True:
        number += 1
        store = Store(root=root / f"remove-{number}", environ={})
        put(store, "hf:a/kept", KEPT)
        put(store, "hf:a/new", NEW)
        ended = killed_at(number, partial(store.remove, "hf:a/new"))
        store.clean()
        store.verify("hf:a/kept")
        if [stored.name for stored in store.list()] == ["hf:a/kept"]:
            check_clean(store)
        else:
            store.remove("hf:a/new")
        assert contents(store) == set(KEPT.values())
        shutil.rmtree(store.root)
        if ended:
            return number


if __name__ == "__main__":
    print(putting(Path(sys.argv[1])), removing(Path(sys.argv[1])))  # noqa: T201 -- what its parent reads
