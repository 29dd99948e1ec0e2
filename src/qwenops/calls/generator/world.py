"""All that calls are made from, read once: packs of several authors, confusions, names, the taxonomy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qwenops.calls import taxonomy as taxonomies
from qwenops.calls.generator.lexicon import DATA, LANGS, NO_COMPLAINT, NOWHERE, Lexicon, load_lexicon
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.pack import Pack, load_pack
from qwenops.calls.taxonomy import Taxonomy
from qwenops.errors import ConfigError
from qwenops.text import say

NONE, OTHER = "none.inquiry", "other"
"""Leaves that are no complaint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is the same for all calls of a run."""

    taxonomy: Taxonomy
    lexicon: Lexicon
    packs: Mapping[str, Mapping[str, Pack]]
    """By author and language."""

    @property
    def complaints(self) -> tuple[str, ...]:
        """The leaves that are complaints, the most frequent first."""
        return tuple(self.lexicon.leaves)

    @staticmethod
    def terms_of(leaf: str) -> str:
        """Return under which name the lexicon has the terms of a leaf."""
        return {NONE: NO_COMPLAINT, OTHER: NOWHERE}.get(leaf, leaf)

    def hashes(self) -> dict[str, str]:
        """Return the hashes of all files that calls are made from, by name."""
        found = dict(self.lexicon.hashes)
        found[f"taxonomy/{self.taxonomy.ref}"] = self.taxonomy.sha256
        for author, by_lang in self.packs.items():
            found |= {f"packs/{author}/{lang}.yaml": pack.sha256 for lang, pack in by_lang.items()}
        return dict(sorted(found.items()))


def authors(folder: Path = DATA) -> tuple[str, ...]:
    """Return the names of all authors."""
    return tuple(sorted(path.parent.name for path in (folder / "packs").glob(f"*/{LANGS[0]}.yaml")))


def load_world(options: GeneratorOptions, folder: Path = DATA) -> World:
    """Read everything that the options ask for.

    Raises:
        ConfigError: There is no such author.
        InvalidDataError: A file is damaged; everything that is wrong with it is listed.
    """
    known = authors(folder)
    wanted = options.authors or known
    for author in wanted:
        if author not in known:
            raise ConfigError(
                say("There is no author {author!r}; there are {known}.", author=author, known=", ".join(known)),
                hint=say("Name one or more of those, with commas between them."),
            )
    taxonomy = taxonomies.load(options.taxonomy)
    lexicon = load_lexicon(folder)
    leaves = tuple(lexicon.leaves)
    packs = {
        author: {lang: load_pack(folder / "packs" / author / f"{lang}.yaml", leaves) for lang in LANGS}
        for author in wanted
    }
    return World(taxonomy=taxonomy, lexicon=lexicon, packs=packs)
