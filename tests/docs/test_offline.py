"""The way without the internet: a model that was copied as the page says can be used where it was copied to."""

import hashlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from qwenops.models.checkpoint import open_checkpoint
from qwenops.models.manifest import Manifest, StoredFile
from qwenops.models.names import parse_name
from qwenops.models.store import Store

DOCS = Path(__file__).parents[2] / "docs"


def pulled(store: Store, checkpoint: Path) -> Path:
    """Put a checkpoint into the store as a pull does at its end; return its folder there."""
    key = parse_name("qwen3:0.6b").key
    incoming = store.places.incoming(key)
    incoming.mkdir(parents=True)
    files = []
    for path in sorted(checkpoint.iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        file = StoredFile(path=path.name, size_bytes=path.stat().st_size, sha256=digest)
        shutil.copyfile(path, incoming / file.blob)
        files.append(file)
    manifest = Manifest(name="qwen3:0.6b", source="published", revision="c", files=tuple(files))
    assert store._commit(key, manifest, incoming)
    return store.resolve("qwen3:0.6b").checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("page", ["how-to/offline.md", "zh/how-to/offline.md"])
def test_a_model_that_was_copied_as_the_page_says_is_whole_without_the_store(
    page: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    store = Store(root=tmp_path / "models", environ={})
    folder = pulled(store, tiny_checkpoint)
    (command,) = re.findall(r"^cp .*$", (DOCS / page).read_text("utf-8"), re.MULTILINE)
    copy = tmp_path / "Qwen3-0.6B"
    argv = [
        {"FOLDER": str(folder), "/media/usb/Qwen3-0.6B": str(copy)}.get(word, word) for word in shlex.split(command)
    ]
    assert str(copy) in argv
    subprocess.run(argv, check=True, timeout=60)
    shutil.rmtree(store.root)
    elsewhere = Store(root=tmp_path / "elsewhere", environ={})
    assert elsewhere.resolve(str(copy)).checkpoint == copy
    assert open_checkpoint(copy).sha256() == open_checkpoint(tiny_checkpoint).sha256()
