"""What the store writes down about a model: where it came from, its files and their hashes. One JSON file each."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from qwenops.atomic import write_text
from qwenops.errors import ModelLoadError
from qwenops.models.names import Source
from qwenops.text import say

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of a model."""

    path: str
    size_bytes: int
    sha256: str
    git_sha1: str | None = None

    @property
    def blob(self) -> str:
        """The name under which its content is kept."""
        return f"sha256-{self.sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One model of the store."""

    name: str
    source: Source
    revision: str
    """The commit that was fetched; empty for random weights and for folders."""
    files: tuple[StoredFile, ...]
    hub: str = ""
    """`hf` or `ms`, for a model that came from one."""
    repo: str = ""
    folder: str = ""
    """Where it lies, for a folder outside the store."""
    stored_at_s: float = 0.0
    """Seconds since 1970."""

    @property
    def num_bytes(self) -> int:
        """The size of all files together."""
        return sum(each.size_bytes for each in self.files)

    @property
    def fingerprint(self) -> str:
        """A hash over all files: equal models have equal fingerprints, wherever they came from."""
        lines = sorted(f"{each.sha256}  {each.path}\n" for each in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each file, by name."""
        return {each.path: each.sha256 for each in self.files}


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None when there is none.

    Raises:
        ModelLoadError: It is damaged, or of another version.
    """
    try:
        found = cast("dict[str, Any]", json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise _damaged(path, str(error)) from error
    try:
        if found.pop("format") != FORMAT:
            raise _damaged(path, str(say("another version wrote it")))
        files = tuple(StoredFile(**each) for each in found.pop("files"))
        return Manifest(files=files, **found)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, repr(error)) from error


def whole_manifest(path: Path) -> Manifest | None:
    """Read a manifest for who will write a new one anyway: a damaged one is as good as none."""
    try:
        return read_manifest(path)
    except ModelLoadError:
        return None


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest durably and in one step."""
    content: Mapping[str, Any] = {"format": FORMAT, **asdict(manifest)}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def _damaged(path: Path, reason: str) -> ModelLoadError:
    return ModelLoadError(
        say("{path} is damaged: {reason}.", path=path, reason=reason),
        hint=say("Delete that file and pull the model again; what was downloaded is not lost."),
    )
