"""Names mean one thing each, and a name that means nothing is answered with the nearest one."""

from pathlib import Path

import pytest

from qwenops.errors import ModelNotFoundError
from qwenops.models.names import PUBLISHED, parse_name


@pytest.mark.parametrize(
    "text",
    ["qwen3:0.6b", "Qwen3:0.6B", "qwen3-0.6b", "Qwen3-0.6B", "Qwen/Qwen3-0.6B", "qwen/qwen3:0.6b", " qwen3:0.6b "],
)
def test_every_spelling_of_a_published_model_is_the_same_model(text: str) -> None:
    name = parse_name(text)
    assert (name.text, name.source, name.repo) == ("qwen3:0.6b", "published", "Qwen/Qwen3-0.6B")


@pytest.mark.parametrize(
    ("text", "source", "repo", "revision"),
    [
        ("hf:Qwen/Qwen3-1.7B", "hf", "Qwen/Qwen3-1.7B", ""),
        ("ms:some.one/My_model-2@v1.0", "ms", "some.one/My_model-2", "v1.0"),
        ("hf:a/b@refs/pr/3", "hf", "a/b", "refs/pr/3"),
        ("qwen3:1.7b@0123abc", "published", "Qwen/Qwen3-1.7B", "0123abc"),
        ("random:TINY", "random", "tiny", ""),
    ],
)
def test_the_parts_of_a_name_are_found(text: str, source: str, repo: str, revision: str) -> None:
    name = parse_name(text)
    assert (name.source, name.repo, name.revision) == (source, repo, revision)


def test_a_folder_is_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_name("./mine").folder == parse_name("mine").folder == parse_name(str(tmp_path / "mine")).folder
    with pytest.raises(ModelNotFoundError, match="no folder"):
        parse_name("./other")


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("qwen3:0.6", "qwen3:0.6b"),
        ("qwen3:1.8b", "qwen3:1.7b"),
        ("Qwen/Qwen3-1.7", "qwen3:1.7b"),
        ("random:0.5b", "random:0.6b"),
        ("random:tinny", "random:tiny"),
        ("ms:me/my-modl", "ms:me/my-model"),
    ],
)
def test_the_nearest_name_is_offered(text: str, near: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        parse_name(text.replace("ms:", ""), known=["ms:me/my-model"])
    assert near in caught.value.hint


def test_all_names_are_listed_where_several_are_equally_near() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        parse_name("qwen3:0.7b")
    assert all(name in caught.value.hint for name in PUBLISHED)
    assert "Did you mean" not in caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "gpt", "hf:", "hf:a", "hf:a/b/c", "hf:../etc", "hf:a/b@../c", "hf:a/b@x y", "hf:a/b?x=1"]
)
def test_a_name_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ModelNotFoundError):
        parse_name(text)


def test_keys_are_file_names_that_no_other_model_has() -> None:
    names = ["qwen3:0.6b", "qwen3:0.6b@main", "hf:a/b", "hf:a/b@c", "hf:a-b/c", "ms:a/b", "random:tiny"]
    keys = {parse_name(each).key for each in names}
    assert len(keys) == len(names)
    assert all("/" not in each and ":" not in each and not each.startswith(".") for each in keys)
