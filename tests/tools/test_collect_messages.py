"""Translations: no sentence is left in English, none is fuzzy, and the compiled catalogues are those of the sources."""

import gettext
from pathlib import Path

import pytest

from qwenops.cli.root import COMMANDS
from qwenops.text import CATALOGUES, translator
from tools import collect_messages
from tools.collect_messages import PlainCatalog, click_words, fields, main, own_sentences, problems


def test_every_sentence_is_translated_and_the_catalogues_are_in_step(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--check"])
    assert code == 0, capsys.readouterr().out


def test_what_is_missing_fuzzy_or_has_other_fields_is_named() -> None:
    catalogue = PlainCatalog(locale="zh", fuzzy=False)
    catalogue.add("gone")
    catalogue.add("unsure", "不确定", flags={"fuzzy"})
    catalogue.add("{name} is here", "在这里")
    catalogue.add("{name} is fine", "{name} 没问题")
    catalogue.add(("{one} thing", "{many} things"), ("{many} 个",))
    assert problems(catalogue) == [
        "not translated: 'gone'",
        "fuzzy: 'unsure'",
        "other fields than the English: '{name} is here' -> '在这里'",
    ]


def test_fields_are_the_names_in_braces() -> None:
    assert fields("{a:.1f} of {b!r} {{c}}") == {"a", "b"}
    assert fields("no template {") == set()


def test_a_sentence_that_is_put_together_at_run_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_messages, "ROOT", tmp_path)
    source = tmp_path / "wrong.py"
    source.write_text("from qwenops.text import say\nname = 'x'\nsay(f'no {name}')\n", "utf-8")
    with pytest.raises(ValueError, match=r"wrong\.py:3"):
        own_sentences(tmp_path)
    source.write_text("from qwenops.text import say\nsay('yes {name}', name=say('x'))\n", "utf-8")
    assert own_sentences(tmp_path) == {"yes {name}", "x"}


def test_the_words_of_click_are_among_them() -> None:
    assert {"Usage:", "Options", "Missing argument", "Show this message and exit."} <= click_words()


def test_the_shipped_catalogue_speaks_chinese() -> None:
    chinese = translator("zh")
    for _, line in COMMANDS.values():
        said = chinese(line)
        assert said != line
        assert any("\u4e00" <= letter <= "\u9fff" for letter in said)
    assert gettext.find("qwenops", str(CATALOGUES), ["zh_CN"])
