"""What a page holds: plain data, in the order in which it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from qwenops.page.matrix import Matrix
from qwenops.page.plot import Plot


class Tone(StrEnum):
    """How something is meant to be taken. It is always said in words or by a sign too, never by colour alone."""

    PLAIN = "plain"
    GOOD = "good"
    NOTE = "note"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A sentence that must not be missed."""

    tone: Tone
    text: str
    detail: str = ""
    """What to do about it, or how it was found."""
    large: bool = False
    """Whether it is the one sentence that the whole page is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One place of a table; a plain `str` in a row means the same as a cell with nothing but text."""

    text: str
    order: float | None = None
    """What the column is sorted by; None sorts by the text."""
    tone: Tone = Tone.PLAIN
    detail: str = ""
    """A smaller remark under the text, such as an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The heading of a column."""

    title: str
    numeric: bool = False
    """Numbers stand at the right edge, under one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings. The first cell of a row names the row."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | str]]
    note: str = ""
    sortable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names and values, such as a machine's."""

    title: str
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure that is read from afar."""

    name: str
    value: str
    detail: str = ""
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """The few figures that matter most."""

    tiles: Sequence[Tile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot with its title; its numbers stand behind it as a table that opens on demand."""

    title: str
    plot: Plot
    caption: str = ""
    table: Table | None = None
    """Stands behind the plot instead of the one that is made of the plot's own numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Text to copy, as it stands, such as a command."""

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """Something that opens on demand."""

    summary: str
    blocks: Sequence["Block"]
    opened: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RawData:
    """Columns of equal length that travel in the page and can be saved from it as CSV.

    Numbers are stored in whole steps; `render` takes the finest step with which the page keeps its size.
    """

    title: str
    file_name: str
    columns: Mapping[str, Sequence[float | str | None]]
    note: str = ""
    absent: str = ""
    """What is said where it would make the page too large and was left out."""
    steps: Mapping[str, float] = field(default_factory=dict)
    """Of the columns that may be rounded: the finest step that means anything, such as 1e-6 for seconds."""
    after: Mapping[str, str] = field(default_factory=dict)
    """Columns that are best stored as the difference to another one of the same step; they are read back whole."""


Block = Notice | Paragraph | Table | Facts | Tiles | Figure | Matrix | Code | Details | RawData


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page with its heading, reachable from the page's contents."""

    title: str
    blocks: Sequence[Block]
    anchor: str
    """Its name in addresses: lower-case letters, digits and hyphens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A whole page. What is in `head` stands above the contents and is seen first."""

    title: str
    subtitle: str = ""
    head: Sequence[Block] = ()
    sections: Sequence[Section] = ()
    footer: str = ""
