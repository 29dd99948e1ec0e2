"""How models are called: what a person types, and what it means.

    qwen3:0.6b  qwen3:1.7b      the published models, from whichever hub answers (also Qwen/Qwen3-0.6B, qwen3-0.6b ...)
    hf:owner/name  ms:owner/name    a repository of Hugging Face or of ModelScope
    random:0.6b  random:1.7b  random:tiny    random weights of a true shape, made on this machine
    ./folder  /some/folder      a folder that already holds a model

A hub's name may end with `@revision`: a branch, a tag or a commit.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Literal

from qwenops.errors import ModelNotFoundError
from qwenops.text import say

Source = Literal["published", "hf", "ms", "random", "folder"]

PUBLISHED = {"qwen3:0.6b": "Qwen/Qwen3-0.6B", "qwen3:1.7b": "Qwen/Qwen3-1.7B"}
"""Short names and their repository, which has the same name on both hubs."""
RANDOM = ("random:0.6b", "random:1.7b", "random:tiny")

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A name that has been understood. `text` is its one canonical spelling."""

    text: str
    source: Source
    repo: str = ""
    revision: str = ""
    """As asked for; empty for the hub's default branch."""
    folder: Path | None = None

    @property
    def key(self) -> str:
        """A file name that no other model has."""
        readable = re.sub(r"[^A-Za-z0-9._]+", "-", self.text).strip("-.")[-80:]
        return f"{readable}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"


def parse_name(text: str, *, known: Iterable[str] = ()) -> ModelName:
    """Understand what a person typed; `known` are further names that may have been meant.

    Raises:
        ModelNotFoundError: It is no name of ours, no repository and no folder; the nearest name is offered.
    """
    text = text.strip()
    plain, _, revision = text.partition("@")
    published = _published(plain)
    if published and (not revision or _is_revision(revision)):
        canonical = f"{published}@{revision}" if revision else published
        return ModelName(text=canonical, source="published", repo=PUBLISHED[published], revision=revision)
    prefix, _, rest = plain.partition(":")
    if prefix in ("hf", "ms") and _REPOSITORY.fullmatch(rest) and (not revision or _is_revision(revision)):
        source: Source = "hf" if prefix == "hf" else "ms"
        return ModelName(text=text, source=source, repo=rest, revision=revision)
    if text.lower() in RANDOM:
        return ModelName(text=text.lower(), source="random", repo=text.lower().partition(":")[2])
    if text and (text.startswith((".", "/", "~")) or Path(text).is_dir()):
        return _folder(text)
    raise unknown_name(text, known)


def unknown_name(text: str, known: Iterable[str]) -> ModelNotFoundError:
    """Make the error for a name that means nothing, with the nearest one that does, or all where several are."""
    spellings = {
        each.lower(): name for name, repo in PUBLISHED.items() for each in (name, repo, repo.partition("/")[2])
    }
    spellings |= {each: each for each in (*RANDOM, *known)}
    near = get_close_matches(text.lower(), spellings, n=len(spellings), cutoff=0.6)
    likeness = {each: SequenceMatcher(None, each, text.lower()).ratio() for each in near}
    nearest = {spellings[each] for each in near if likeness[each] == likeness[near[0]]}
    hint = (
        say("Did you mean {name}?", name=nearest.pop())
        if len(nearest) == 1
        else say(
            "Use one of {names}, hf:OWNER/NAME, ms:OWNER/NAME, or a folder.", names=", ".join((*PUBLISHED, *RANDOM))
        )
    )
    return ModelNotFoundError(say("There is no model called {name!r}.", name=text), hint=hint)


def _is_revision(text: str) -> bool:
    return bool(_REVISION.fullmatch(text)) and ".." not in text


def _published(text: str) -> str | None:
    """Find the short name behind `Qwen3-0.6B`, `qwen/qwen3-0.6b`, `qwen3:0.6B` ..."""
    wanted = text.lower().removeprefix("qwen/").replace(":", "-")
    return next((name for name in PUBLISHED if name.replace(":", "-") == wanted), None)


def _folder(text: str) -> ModelName:
    folder = Path(text).expanduser().resolve()
    if not folder.is_dir():
        raise ModelNotFoundError(
            say("There is no folder {folder}.", folder=folder),
            hint=say("Give the folder that holds config.json and the weights."),
        )
    return ModelName(text=str(folder), source="folder", folder=folder)
