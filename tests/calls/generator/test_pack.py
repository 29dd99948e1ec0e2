"""Packs are whole: every author has words for every leaf, and what is wrong with a pack is said at once."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwenops.calls import taxonomy
from qwenops.calls.generator.lexicon import DATA, LANGS, load_lexicon
from qwenops.calls.generator.pack import FRAME, IDENTITIES, Pack, load_pack
from qwenops.calls.generator.world import NONE, OTHER, authors
from qwenops.errors import InvalidDataError

LEAVES = tuple(load_lexicon().leaves)
PACKS = [(author, lang) for author in authors() for lang in LANGS]
LEAST = {"zh": 4, "en": 3}
"""Lines of each kind that a leaf must have."""


def pack_of(author: str, lang: str) -> Pack:
    return load_pack(DATA / "packs" / author / f"{lang}.yaml", LEAVES)


def small() -> dict[str, Any]:
    """Return the smallest pack there can be."""
    pair, lines = [{"ask": "问", "answer": "答"}], ["一句"]
    leaf = {**dict.fromkeys(("said", "felt", "agent", "short", "asks", "fix"), lines), "detail": pair}
    return {
        "schema": "qwenops.pack/1",
        "author": "somebody",
        "lang": "zh",
        "frame": {
            **dict.fromkeys(FRAME, lines),
            "identity": dict.fromkeys(IDENTITIES, pair),
            "chatter": [{"a": "一", "b": "二"}],
        },
        "leaves": {"network.speed": leaf},
        "none": {"said": lines, "detail": pair},
        "other": {"said": lines, "detail": pair},
    }


def load(tmp_path: Path, data: dict[str, Any]) -> Pack:
    path = tmp_path / "zh.yaml"
    path.write_text(yaml.safe_dump(copy.deepcopy(data), allow_unicode=True), "utf-8")
    return load_pack(path, ("network.speed",))


def test_there_are_three_authors_at_least() -> None:
    assert len(authors()) >= 3


def test_the_leaves_are_those_of_the_taxonomy() -> None:
    known = taxonomy.load("telecom-cn")
    assert {*LEAVES, NONE, OTHER} == set(known.leaves)
    assert all(known.is_complaint(code) for code in LEAVES)
    assert not known.is_complaint(NONE)


def test_leaves_are_mistaken_for_leaves() -> None:
    for code, facts in load_lexicon().leaves.items():
        assert set(facts.mistaken) <= set(LEAVES) - {code}
        assert facts.usual


@pytest.mark.parametrize(("author", "lang"), PACKS)
def test_every_author_has_enough_to_say(author: str, lang: str) -> None:
    pack = pack_of(author, lang)
    assert (pack.author, pack.lang) == (author, lang)
    for code, matter in pack.leaves.items():
        assert len(matter.said) >= LEAST[lang], code
        assert len(matter.felt) >= LEAST[lang], code
        assert len(matter.asks) >= 3, code
        assert len(matter.detail) >= 3, code
    sources = [line.source for line in pack.lines()]
    assert len(sources) == len(set(sources))


@pytest.mark.parametrize(("author", "lang"), PACKS)
def test_what_is_felt_is_told_without_the_usual_words(author: str, lang: str) -> None:
    usual = load_lexicon().leaves
    told = [(code, line) for code, matter in pack_of(author, lang).leaves.items() for line in matter.felt]
    named = [line.text for code, line in told if line.has(usual[code].usual)]
    assert len(named) <= 0.05 * len(told), named


@pytest.mark.parametrize(("author", "lang"), PACKS)
def test_what_is_said_mostly_uses_them(author: str, lang: str) -> None:
    usual = load_lexicon().leaves
    told = [
        line.has(usual[code].usual) for code, matter in pack_of(author, lang).leaves.items() for line in matter.said
    ]
    assert sum(told) > 0.5 * len(told)


def test_authors_write_independently() -> None:
    for lang in LANGS:
        texts = [{line.text for line in pack_of(author, lang).lines() if len(line.text) > 12} for author in authors()]
        for number, one in enumerate(texts):
            for other in texts[number + 1 :]:
                assert len(one & other) <= 0.01 * len(one)


def test_the_smallest_pack_is_read(tmp_path: Path) -> None:
    pack = load(tmp_path, small())
    assert pack.leaves["network.speed"].said[0].text == "一句"
    assert pack.chatter[0].first.text == "一"
    assert pack.identity["phone"][0].second.source == "somebody/zh/frame.identity.phone.0.answer"


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    data = small()
    data["schema"] = "qwenops.pack/9"
    data["leaves"]["network.speed"]["said"] = ["好 {amunt}", "[未完"]
    data["leaves"]["network.sped"] = data["leaves"]["network.speed"]
    data["frame"]["greeting"] = []
    data["frame"]["past"] = ["上回{short}"]
    data["frame"]["anger"] = ["{short}真烦"]
    del data["none"]
    data["other"]["detail"] = [{"ask": "问"}]
    with pytest.raises(InvalidDataError) as raised:
        load(tmp_path, data)
    assert {problem.field for problem in raised.value.problems} >= {
        "schema",
        "leaves.network.speed.said.0",
        "leaves.network.speed.said.1",
        "leaves.network.sped",
        "frame.greeting",
        "frame.anger.0",
        "none",
        "other.detail.0.answer",
    }
    assert "frame.past.0" not in {problem.field for problem in raised.value.problems}
