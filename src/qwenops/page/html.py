"""From a page to its one file."""

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from qwenops.page import raw, ticks
from qwenops.page.behind import MOST_ROWS, table_of
from qwenops.page.document import (
    Block,
    Cell,
    Code,
    Column,
    Details,
    Facts,
    Figure,
    Notice,
    Page,
    Paragraph,
    RawData,
    Section,
    Table,
    Tiles,
    Tone,
)
from qwenops.page.drawing import draw_chart, draw_lanes
from qwenops.page.matrix import Matrix, draw_matrix
from qwenops.page.plot import Lanes
from qwenops.page.words import TAGS, Words
from qwenops.text import LANGUAGES, Language, say, translator

REPORT = "report.html"
"""The file of a page in a folder that holds one."""
MAX_BYTES = 300_000
"""What a page with its raw data takes at most, where that is possible."""
RAW_BYTES = 60_000
"""What the tables behind the plots leave to the raw data, as far as they can."""
FEWER_ROWS = (30, 15, 8)
"""Rows of the table behind a plot, where the page has no room for the usual number."""
_MOST_TILES = 7
"""In a row, where there is room for all that the page is wide."""
_RAW = "<!--raw-->"
_HERE = Path(__file__).parent
_SIGNS = {Tone.PLAIN: "", Tone.GOOD: "✓", Tone.NOTE: "i", Tone.WARNING: "!", Tone.BAD: "✕"}
_SPOKEN = {
    Tone.PLAIN: "",
    Tone.GOOD: say("Good:"),
    Tone.NOTE: say("Note:"),
    Tone.WARNING: say("Warning:"),
    Tone.BAD: say("Bad:"),
}
_NAMES: dict[Language, str] = {"en": "English", "zh": "中文"}


def render(
    page: Page,
    *,
    language: Language | None = None,
    translation: Callable[[Language], Callable[[str], str]] = translator,
) -> str:
    """Return the whole file: both languages, style, script, plots and raw data.

    Args:
        page: What it shall hold.
        language: Which language is shown first; None shows the browser's.
        translation: Gives for a language what maps an English template to it.
    """
    words = Words(translate={each: translation(each) for each in LANGUAGES})
    written = _Written(words=words, most_rows=MOST_ROWS)
    html = _html(page, written, language)
    for fewer in FEWER_ROWS:
        if len(html.encode()) <= MAX_BYTES - (RAW_BYTES if written.raw else 0):
            break
        written = _Written(words=words, most_rows=fewer)
        html = _html(page, written, language)
    return _with_raw(html, written.raw, words)


def _html(page: Page, written: "_Written", language: Language | None) -> str:
    """Return the file with a mark where the raw data belong."""
    words = written.words
    head = written.blocks(page.head)
    sections = "".join(written.section(each) for each in page.sections)
    style = (_HERE / "style.css").read_text("utf-8")
    script = (_HERE / "script.js").read_text("utf-8")
    first = language or "en"
    title = escape(words.versions(page.title)[first])
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{each.anchor}">{words.html(each.title)}</a>' for each in page.sections)
    contents = f'<span id="contents" class="vh">{words.html(say("Contents"))}</span>'
    nav = f'<nav aria-labelledby="contents">{contents}{links}</nav>' if links else ""
    return (
        f'<!doctype html>\n<html lang="{TAGS[first]}" data-first="{language or ""}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{title}</title><style>{style}</style></head>\n<body>'
        f'<a class="skip" href="#main">{words.html(say("To the content"))}</a>'
        f'<header><div><h1>{words.html(page.title)}</h1><p class="sub">{words.html(page.subtitle)}</p></div>'
        f'{_controls(words)}</header>\n<main id="main" tabindex="-1"><div class="head">{head}</div>'
        f"{nav}\n{sections}</main>\n<footer>{words.html(page.footer)}</footer>{_RAW}<script>{script}</script></body></html>\n"
    )


def _with_raw(html: str, raws: list[tuple[int, RawData]], words: Words) -> str:
    """Put the raw data where it belongs, each as fine as the size that is left allows."""
    before, after = html.split(_RAW, 1)
    scripts = ""
    left = MAX_BYTES - len(html.encode()) - 1000 * len(raws)
    for place, (number, data) in enumerate(raws):
        fit = raw.packed(data, max_bytes=max(left, 0) // (len(raws) - place))
        marker = f"<!--raw{number}-->"
        if fit is None:
            before = before.replace(marker, f"<p>{words.html(data.absent)}</p>")
            continue
        text, steps = fit
        left -= len(text)
        save = words.html(say("Save as {name}", name=data.file_name))
        button = f'<button type="button" class="save" data-raw="raw{number}" data-name="{escape(data.file_name)}">'
        before = before.replace(marker, f"<p>{button}{save}</button> {_steps_said(steps, words)}</p>")
        scripts += f'<script type="application/gzip" id="raw{number}">{text}</script>'
    return before + scripts + after


def _steps_said(steps: Mapping[str, float], words: Words) -> str:
    """Say how fine the rounded columns are."""
    if not steps:
        return ""
    return words.html(
        say("Rounded to steps of {step}: {columns}.", step=ticks.number(max(steps.values())), columns=", ".join(steps))
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _controls(words: Words) -> str:
    """Return the switches; they need the script, which shows them."""
    languages = "".join(
        f'<button type="button" data-lang="{TAGS[each]}" lang="{TAGS[each]}" class="always">{name}</button>'
        for each, name in _NAMES.items()
    )
    theme = words.html(say("Light or dark"))
    return (
        f'<div class="controls" hidden>{languages}<button type="button" id="theme"><span aria-hidden="true">◐</span> '
        f'<span class="vh">{theme}</span></button></div>'
    )


@dataclass(slots=True, kw_only=True)
class _Written:
    """Writes blocks, and counts what needs a name of its own."""

    words: Words
    most_rows: int
    num: int = 0
    raw: list[tuple[int, RawData]] = field(default_factory=list)

    def _next(self) -> str:
        self.num += 1
        return f"b{self.num}"

    def section(self, section: Section) -> str:
        title = self.words.html(section.title)
        name = f"{section.anchor}-h"
        return (
            f'<section id="{section.anchor}" aria-labelledby="{name}"><h2 id="{name}">{title}</h2>'
            f"{self.blocks(section.blocks)}</section>\n"
        )

    def blocks(self, blocks: Iterable[Block]) -> str:
        return "".join(self.block(each) for each in blocks)

    def block(self, block: Block) -> str:  # noqa: C901, PLR0911 -- one way out for each kind of block
        match block:
            case Notice():
                return self._notice(block)
            case Paragraph():
                return f"<p>{self.words.html(block.text)}</p>"
            case Table():
                return self._table(block)
            case Facts():
                return self._facts(block)
            case Tiles():
                return self._tiles(block)
            case Figure():
                return self._figure(block)
            case Matrix():
                return draw_matrix(block, self.words, self._next())
            case Code():
                return self._code(block)
            case Details():
                opened = " open" if block.opened else ""
                return (
                    f"<details{opened}><summary>{self.words.html(block.summary)}</summary>"
                    f'<div class="inner">{self.blocks(block.blocks)}</div></details>'
                )
            case RawData():
                return self._raw(block)

    def _notice(self, notice: Notice) -> str:
        said = self.words.html
        spoken = f'<span class="vh">{said(_SPOKEN[notice.tone])} </span>' if notice.tone != Tone.PLAIN else ""
        detail = f'<p class="detail">{said(notice.detail)}</p>' if notice.detail else ""
        sign = f'<span class="sign" aria-hidden="true">{_SIGNS[notice.tone]}</span>'
        large = " verdict" if notice.large else ""
        text = f"<div><p>{spoken}{said(notice.text)}</p>{detail}</div>"
        return f'<div class="notice {notice.tone}{large}">{sign}{text}</div>'

    def _table(self, table: Table) -> str:
        name = self._next()
        note = f'<p class="remark">{self.words.html(table.note)}</p>' if table.note else ""
        title = f'<h3 id="{name}">{self.words.html(table.title)}</h3>'
        return f'<div class="table">{title}{self._grid(table, name)}{note}</div>'

    def _grid(self, table: Table, name: str) -> str:
        sortable = " sortable" if table.sortable and len(table.rows) > 2 else ""  # noqa: PLR2004 -- nothing to sort
        heads = "".join(
            f'<th scope="col"{" class=n" if column.numeric else ""}>{self.words.html(column.title)}'
            for column in table.columns
        )
        rows = "".join(f"<tr>{self._row(table.columns, row)}" for row in table.rows)
        begin = f'<table class="grid{sortable}" aria-labelledby="{name}">'
        body = f"<thead><tr>{heads}</thead><tbody>{rows}</tbody></table>"
        return f'<div class="scroll" data-name="{name}">{begin}{body}</div>'

    def _row(self, columns: Iterable[Column], row: Iterable[Cell | str]) -> str:
        parts = []
        for number, (column, each) in enumerate(zip(columns, row, strict=True)):
            cell = each if isinstance(each, Cell) else Cell(text=each)
            tag = "td" if number else 'th scope="row"'
            kinds = [*(["n"] if column.numeric else []), *([str(cell.tone)] if cell.tone != Tone.PLAIN else [])]
            kind = f' class="{" ".join(kinds)}"' if kinds else ""
            order = "" if cell.order is None else f" data-o={cell.order:.6g}"
            sign = f"{_SIGNS[cell.tone]} " if cell.tone not in {Tone.PLAIN, Tone.NOTE} else ""
            detail = f"<small>{self.words.html(cell.detail)}</small>" if cell.detail else ""
            parts.append(f"<{tag}{kind}{order}>{sign}{self.words.html(cell.text)}{detail}")
        return "".join(parts)

    def _facts(self, facts: Facts) -> str:
        said = self.words.html
        pairs = "".join(f"<div><dt>{said(name)}</dt><dd>{said(value)}</dd></div>" for name, value in facts.pairs)
        return f'<div class="facts"><h3>{said(facts.title)}</h3><dl>{pairs}</dl></div>'

    def _tiles(self, tiles: Tiles) -> str:
        said = self.words.html
        parts = []
        for tile in tiles.tiles:
            detail = f'<span class="d">{said(tile.detail)}</span>' if tile.detail else ""
            sign = f'<i aria-hidden="true">{_SIGNS[tile.tone]}</i>' if _SIGNS[tile.tone] else ""
            spoken = f'<span class="vh">{said(_SPOKEN[tile.tone])} </span>' if tile.tone != Tone.PLAIN else ""
            parts.append(
                f'<li class="tile {tile.tone}"><span class="t">{sign}{spoken}{said(tile.name)}</span>'
                f"<b>{said(tile.value)}</b>{detail}</li>"
            )
        across = math.ceil(len(parts) / math.ceil(len(parts) / _MOST_TILES)) if parts else 1
        return f'<ul class="tiles across{across}">{"".join(parts)}</ul>'

    def _figure(self, figure: Figure) -> str:
        name = self._next()
        plot = figure.plot
        words = self.words
        drawn = draw_lanes(plot, words, name) if isinstance(plot, Lanes) else draw_chart(plot, words, name)
        table = figure.table or table_of(figure.plot, figure.title, most_rows=self.most_rows)
        note = f'<p class="remark">{self.words.html(table.note)}</p>' if table.note else ""
        caption = f"<figcaption>{self.words.html(figure.caption)}</figcaption>" if figure.caption else ""
        return (
            f'<figure><h3 id="{name}">{self.words.html(figure.title)}</h3>{drawn}{caption}'
            f'<details class="behind"><summary>{self.words.html(say("The numbers as a table"))}</summary>'
            f'<div class="inner">{self._grid(table, name)}{note}</div></details></figure>'
        )

    def _code(self, code: Code) -> str:
        name = self._next()
        return (
            f'<div class="code"><h3>{self.words.html(code.title)}</h3><div class="box"><pre id="{name}" tabindex="0">'
            f'{escape(code.text)}</pre><button type="button" class="copy" data-copy="{name}" hidden>'
            f"{self.words.html(say('Copy'))}</button></div></div>"
        )

    def _raw(self, data: RawData) -> str:
        self.num += 1
        self.raw.append((self.num, data))
        note = f"<p>{self.words.html(data.note)}</p>" if data.note else ""
        return f'<div class="raw"><h3>{self.words.html(data.title)}</h3>{note}<!--raw{self.num}--></div>'
