import base64
import hashlib
import random
import re
from collections.abc import Callable
from itertools import pairwise

import pytest

from qwenops.page.document import Page, RawData, Section
from qwenops.page.html import MAX_BYTES, render
from qwenops.text import Language, say
from tests.page.pages import full_page
from tests.page.reading import read


def shouting(language: Language) -> Callable[[str], str]:
    """Return a translation that can be told from its source; plain text stays as it is."""
    return (lambda template: f"【{template}】") if language == "zh" else str


def test_a_page_is_well_formed_and_every_id_is_its_own() -> None:
    found = read(render(full_page()))
    assert found.unclosed == []
    assert len(found.ids) == len(set(found.ids))
    assert set(found.references) <= set(found.ids)


def test_nothing_is_fetched_and_nothing_needs_more_than_the_policy_allows() -> None:
    found = read(render(full_page()))
    assert (found.addresses, found.handlers) == ([], [])
    assert found.policy.startswith("default-src 'none';")


def test_the_policy_names_the_hash_of_the_one_script_and_the_one_style() -> None:
    found = read(render(full_page()))
    for kind, (text,) in (("script", found.scripts), ("style", found.styles)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in found.policy
    assert "unsafe" not in found.policy


def test_both_languages_are_in_the_page_and_the_first_one_is_chosen() -> None:
    html = render(full_page(), language="zh", translation=shouting)
    assert html.startswith('<!doctype html>\n<html lang="zh-CN" data-first="zh"')
    assert "<title>【Result of &lt;b&gt;x&lt;/b&gt;】</title>" in html
    assert '<span lang="en">All is well.</span><span lang="zh-CN">【All is well.】</span>' in html
    assert '<tspan lang="en">' not in render(full_page(), translation=lambda _: str)
    assert 'data-first=""' in render(full_page())


def test_what_is_the_same_in_both_languages_is_written_once() -> None:
    html = render(full_page(), translation=shouting)
    assert html.count("plain &amp; simple") == 1


def test_text_is_never_markup() -> None:
    html = render(full_page(), translation=shouting)
    assert "<b>x</b>" not in html
    assert "<code>min:s</code>" in html


def test_every_plot_has_its_numbers_behind_it() -> None:
    html = render(full_page())
    assert html.count("<figure>") == html.count('class="behind"') == 3
    assert len(re.findall(r'role="img"', html)) >= 5


def test_headings_never_skip_a_level() -> None:
    levels = [int(each[1]) for each in read(render(full_page())).headings]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_raw_data_can_be_read_back_to_the_microsecond() -> None:
    page = full_page()
    (raw,) = read(render(page)).raw.values()
    at, kind = raw["at_s"], raw["kind"]
    total, back = 0, []
    for each in at["by"]:
        total += each
        back.append(total * at["step"])
    assert max(abs(each - number / 7) for number, each in enumerate(back)) <= 5.1e-7
    assert [kind["words"][place] for place in kind["at"]][:2] == ["plain", 'with "quotes", and commas']
    assert raw["value_s"]["is"][3] is None


@pytest.mark.parametrize("num", [80_000, 100_000])
def test_raw_data_grows_coarser_before_the_page_grows_too_large(num: int) -> None:
    draw = random.Random(1)
    values = [draw.expovariate(1) for _ in range(num)]
    data = RawData(title="t", file_name="f.csv", columns={"value_s": values}, steps={"value_s": 1e-6})
    html = render(Page(title="t", sections=[Section(title="s", anchor="s", blocks=[data])]))
    assert len(html.encode()) <= MAX_BYTES
    (raw,) = read(html).raw.values()
    step = raw["value_s"]["step"]
    assert 1e-6 < step <= 1e-3
    assert max(abs(whole * step - value) for whole, value in zip(raw["value_s"]["is"], values, strict=True)) <= step


def test_raw_data_that_cannot_fit_is_left_out_and_the_page_says_so() -> None:
    words = [hashlib.sha256(str(each).encode()).hexdigest() for each in range(20_000)]
    data = RawData(title="t", file_name="f.csv", columns={"word": words}, absent=say("Too much for one page."))
    html = render(Page(title="t", sections=[Section(title="s", anchor="s", blocks=[data])]))
    assert "Too much for one page." in html
    assert read(html).raw == {}
    assert len(html.encode()) < 40_000
