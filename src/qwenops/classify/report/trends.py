"""The page about what calls were about week by week."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from qwenops.calls.classes import Words
from qwenops.classify.evaluate.evaluation import Estimate
from qwenops.classify.report.figures import UNKNOWN, p_value, points, share, share_cell, share_range
from qwenops.classify.report.names import class_name
from qwenops.classify.report.weekly import BEFORE, FEWEST_HITS, Move, Portion, Trends, Week
from qwenops.page.document import (
    Block,
    Cell,
    Column,
    Details,
    Facts,
    Figure,
    Notice,
    Page,
    Section,
    Table,
    Tile,
    Tiles,
    Tone,
)
from qwenops.page.matrix import Matrix, MatrixRow, Square
from qwenops.page.plot import Axis, Band, Chart, Line, Panel, Rule, Series
from qwenops.text import Text, say

MOST_LINES = 6
"""Categories that a picture can still tell apart."""
MOST_WEEKS = 26
"""Of a table; pictures show all."""
MOST_CATEGORIES = 40
MOST_NAMED = 5
_SIGNS = {Move.RISE: " ▲", Move.FALL: " ▼", Move.NONE: ""}
_RISE, _FALL, _NONE = 1, 0, 6
"""Hues."""
_HUES = {Move.RISE: _RISE, Move.FALL: _FALL, Move.NONE: _NONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the page is about."""

    trends: Trends
    names: Mapping[str, Words] = field(default_factory=dict)
    """What categories are called."""
    source: str = ""
    """Where the predictions were read."""
    files: Sequence[str] = ()
    passed_over: Sequence[str] = ()
    num_problems: int = 0
    """Lines that could not be read."""
    repeated: int = 0
    without_call: int = 0
    by_call_time: bool = False


def trends_page(shown: Shown) -> Page:
    """Return the page."""
    trends = shown.trends
    return Page(
        title=say("What calls were about, week by week"),
        subtitle=" · ".join(each for each in (shown.source, _period(trends)) if each),
        head=[_news(shown), *_doubts(shown), _tiles(shown)],
        sections=[
            Section(title=say("Categories"), anchor="categories", blocks=_categories(shown)),
            Section(title=say("Review and confidence"), anchor="review", blocks=_review(shown)),
            Section(title=say("All figures"), anchor="figures", blocks=[_figures(shown)]),
            Section(title=say("How it was counted"), anchor="setting", blocks=_setting(shown)),
        ],
        footer=say("Made by qwenops from files of predictions. Nothing in this page is fetched from anywhere."),
    )


def joined(names: Sequence[str]) -> str:
    """Return names one after the other, as the reader's language separates them."""
    told = names[0]
    for name in names[1:]:
        told = say("{one}, {other}", one=told, other=name)
    return told


def _known(trends: Trends) -> list[Week]:
    """Return the weeks that have calls; the first and the last week always do."""
    return [each for each in trends.weeks if each.num_calls]


def _period(trends: Trends) -> str:
    return f"{trends.weeks[0].begins.isoformat()} … {trends.weeks[-1].begins.isoformat()}"


def _news(shown: Shown) -> Notice:
    """Return what surely changed in the last week."""
    last = shown.trends.weeks[-1]
    rose, fell = (_moved(shown, last, move) for move in (Move.RISE, Move.FALL))
    when = last.begins.isoformat()
    detail = say(
        "Against the {weeks} weeks before, by Fisher's exact test, corrected for all {num} comparisons of this page "
        "(Holm).",
        weeks=BEFORE,
        num=shown.trends.num_comparisons,
    )
    if not shown.trends.num_comparisons:
        text = say("There are too few weeks, or too few calls, to say whether anything changed.")
        return Notice(tone=Tone.NOTE, text=text, large=True)
    if all(each.p is None for each in last.portions.values()):
        text = say("The week of {week} has too few calls to say whether anything changed.", week=when)
        return Notice(
            tone=Tone.NOTE, text=text, detail=say("What changed in earlier weeks is marked below."), large=True
        )
    if rose and fell:
        text = say("In the week of {week}, {rose} rose; {fell} fell.", week=when, rose=joined(rose), fell=joined(fell))
    elif rose:
        text = say("In the week of {week}, {rose} rose.", week=when, rose=joined(rose))
    elif fell:
        text = say("In the week of {week}, {fell} fell.", week=when, fell=joined(fell))
    else:
        text = say("In the week of {week}, no category surely rose or fell.", week=when)
    return Notice(tone=Tone.WARNING if rose else Tone.NOTE, text=text, detail=detail, large=True)


def _moved(shown: Shown, week: Week, move: Move) -> list[str]:
    """Return the names of the categories that moved so, the largest change first."""
    found = [(code, each) for code, each in week.portions.items() if each.move is move]
    found.sort(key=lambda item: -abs(item[1].share.value - (item[1].before or 0.0)))
    names = [class_name(code, shown.names) for code, _ in found[:MOST_NAMED]]
    return [*names, say("{num} more", num=len(found) - MOST_NAMED)] if len(found) > MOST_NAMED else names


def _doubts(shown: Shown) -> list[Block]:
    """Return what speaks against the figures."""
    found: list[Text] = [
        say(
            "From the week of {week} on, {new} judged and no longer {old}: a change there may be the model's.",
            week=other.begins.isoformat(),
            new=", ".join(other.models),
            old=", ".join(one.models),
        )
        for one, other in shown.trends.changes_of_model
    ]
    if not shown.by_call_time:
        found.append(
            say(
                "Weeks are those in which calls were classified, not made: give the calls as well to see those of "
                "calls."
            )
        )
    if shown.num_problems:
        found.append(say("{num} lines could not be read and are not counted.", num=shown.num_problems))
    if shown.without_call:
        found.append(
            say("{num} predictions are not counted: nobody knows when their calls were made.", num=shown.without_call)
        )
    review = shown.trends.weeks[-1].review
    if review is not None and review.move is Move.RISE:
        found.append(
            say(
                "More calls than before are left to people: {now} after {before}.",
                now=share(review.share.value),
                before=share(review.before),
            )
        )
    return [Notice(tone=Tone.WARNING, text=each) for each in found]


def _tiles(shown: Shown) -> Tiles:
    trends = shown.trends
    last = trends.weeks[-1]
    first = trends.categories[0]
    all_of_it = sum(week.portions[first].count for week in _known(trends)) / trends.num_calls
    found = [
        Tile(
            name=say("Calls"),
            value=f"{trends.num_calls:,}",
            detail=say("in {weeks} weeks, {last} in the last", weeks=len(trends.weeks), last=f"{last.num_calls:,}"),
        ),
        Tile(name=say("Most frequent"), value=class_name(first, shown.names), detail=share(all_of_it)),
    ]
    if last.review is not None and last.confidence is not None:
        tone = Tone.WARNING if last.review.move is Move.RISE else Tone.PLAIN
        found += [
            Tile(
                name=say("Left to people, last week"),
                value=share(last.review.share.value),
                detail=share_range(last.review.share),
                tone=tone,
            ),
            Tile(
                name=say("Mean confidence, last week"),
                value=share(last.confidence.value),
                detail=share_range(last.confidence),
            ),
        ]
    return Tiles(tiles=found)


def _categories(shown: Shown) -> list[Block]:
    return [_last_table(shown), _share_figure(shown), _matrix(shown)]


def _last_table(shown: Shown) -> Table:
    """Return the last week beside the weeks before."""
    last = shown.trends.weeks[-1]
    rows = [_last_row(shown, code, last.portions[code]) for code in shown.trends.categories if code in last.portions]
    titles = (say("Calls"), say("Share"), say("Before"), say("Points"), say("p, corrected"))
    return Table(
        title=say("The week of {week}", week=last.begins.isoformat()),
        columns=[Column(title=say("Category")), *(Column(title=each, numeric=True) for each in titles)],
        rows=rows,
        note=say(
            "Small figures are 95 % intervals. No p where nothing can be compared: fewer than {few} calls of a "
            "category in all weeks, or another model. A call that a person looks at counts under its best guess, one "
            "that was filed under a group under that group.",
            few=FEWEST_HITS,
        ),
    )


def _last_row(shown: Shown, code: str, each: Portion) -> list[Cell | str]:
    name = class_name(code, shown.names)
    change = None if each.before is None else each.share.value - each.before
    return [
        Cell(text=name, detail="" if name == code else code),
        Cell(text=f"{each.count:,}", order=each.count),
        share_cell(each.share),
        Cell(text=share(each.before), order=each.before),
        Cell(text=points(change) + _SIGNS[each.move], order=change, tone=_tone(each.move)),
        Cell(text=p_value(each.p), order=each.p),
    ]


def _tone(move: Move) -> Tone:
    return Tone.PLAIN if move is Move.NONE else Tone.WARNING


def _share_figure(shown: Shown) -> Figure:
    """Return the shares of the most frequent categories over the weeks."""
    chosen = shown.trends.categories[:MOST_LINES]
    series = [
        each
        for hue, code in enumerate(chosen)
        for each in _along(shown.trends, class_name(code, shown.names), _share_of(code), hue=hue, banded=hue == 0)
    ]
    panel = Panel(y=Axis(title=say("Share of the calls"), unit="%", low=0.0), series=series, height=240)
    return Figure(
        title=say("The most frequent categories"),
        plot=Chart(x=_axis(shown.trends), panels=[panel], rules=_rules(shown.trends)),
        caption=say("The shaded stretch is the 95 % interval of the first one; the table has all."),
        table=_along_table(shown, [(class_name(code, shown.names), _share_of(code)) for code in chosen]),
    )


_Value = Callable[[Week], Estimate | None]


def _share_of(code: str) -> _Value:
    return lambda week: week.portions[code].share if code in week.portions else None


def _review_of(week: Week) -> Estimate | None:
    return week.review.share if week.review is not None else None


def _confidence_of(week: Week) -> Estimate | None:
    return week.confidence


def _axis(trends: Trends) -> Axis:
    return Axis(title=say("Weeks; 0 is the one of {week}", week=trends.weeks[-1].begins.isoformat()))


def _places(trends: Trends) -> list[tuple[int, Week]]:
    """Return the weeks with their place on the axis, which ends at 0."""
    return [(number - len(trends.weeks) + 1, week) for number, week in enumerate(trends.weeks)]


def _along(trends: Trends, title: str, value: _Value, *, hue: int, banded: bool) -> list[Series]:
    """Return a figure along the weeks, with its interval where it is asked for."""
    found = [(place, value(week)) for place, week in _places(trends)]
    y = [None if each is None else 100 * each.value for _, each in found]
    series: list[Series] = [Line(title=title, x=[place for place, _ in found], y=y, hue=hue)]
    sure = [(place, each.low, each.high) for place, each in found if each is not None]
    known = [(place, low, high) for place, low, high in sure if low is not None and high is not None]
    if banded and known:
        places, low, high = zip(*known, strict=True)
        band = Band(title="", x=places, low=[100 * each for each in low], high=[100 * each for each in high], hue=hue)
        series.insert(0, band)
    return series


def _rules(trends: Trends) -> list[Rule]:
    """Return where the model changed."""
    places = {week.begins: place for place, week in _places(trends)}
    return [
        Rule(value=places[other.begins], title=say("another model"), bad=False) for _, other in trends.changes_of_model
    ]


def _along_table(shown: Shown, values: Sequence[tuple[str, _Value]]) -> Table:
    """Return figures by week; the rows are found by their place on the axis."""
    rows: list[list[Cell | str]] = [
        [Cell(text=week.begins.isoformat(), order=place), *(_estimate_text(value(week)) for _, value in values)]
        for place, week in _places(shown.trends)
    ]
    columns = [Column(title=say("Week of")), *(Column(title=title, numeric=True) for title, _ in values)]
    return Table(title=say("By week"), columns=columns, rows=rows, sortable=False)


def _estimate_text(found: Estimate | None) -> str:
    if found is None:
        return ""
    between = share_range(found)
    return f"{share(found.value)} ({between})" if between else share(found.value)


def _matrix(shown: Shown) -> Matrix:
    """Return the share of each category in each of the last weeks, with what surely rose or fell."""
    weeks = _known(shown.trends)[-MOST_WEEKS:]
    chosen = shown.trends.categories[:MOST_CATEGORIES]
    highest = max((week.portions[code].share.value for week in weeks for code in chosen), default=0.0) or 1.0
    rows = [
        MatrixRow(
            title=class_name(code, shown.names), squares=[_square(week.portions[code], highest) for week in weeks]
        )
        for code in chosen
    ]
    note: Text = say(
        "Percent of the week's calls. ▲ surely rose and ▼ surely fell against the {weeks} weeks before.", weeks=BEFORE
    )
    left_out = len(shown.trends.categories) - len(chosen)
    if left_out > 0:
        note = say("{note} {num} rarer categories are left out.", note=note, num=left_out)
    return Matrix(
        title=say("Share of each category by week"),
        corner=say("Category, and week from"),
        columns=[f"{week.begins:%m-%d}" for week in weeks],
        rows=rows,
        note=note,
    )


def _square(each: Portion, highest: float) -> Square:
    if not each.count:
        return Square(text=f"0{_SIGNS[each.move]}" if each.move is not Move.NONE else "")
    return Square(
        text=f"{100 * each.share.value:.1f}{_SIGNS[each.move]}",
        heat=each.share.value / highest,
        hue=_HUES[each.move],
    )


def _review(shown: Shown) -> list[Block]:
    trends = shown.trends
    values: tuple[tuple[str, _Value], ...] = (
        (say("Left to people"), _review_of),
        (say("Mean confidence"), _confidence_of),
    )
    panels = [
        Panel(
            y=Axis(title=title, unit="%", low=0.0),
            series=_along(trends, "", value, hue=number, banded=True),
            height=130,
        )
        for number, (title, value) in enumerate(values)
    ]
    figure = Figure(
        title=say("Calls that a person looks at, and how sure the model was"),
        plot=Chart(x=_axis(trends), panels=panels, rules=_rules(trends)),
        caption=say("Shaded stretches are 95 % intervals."),
        table=_along_table(shown, values),
    )
    return [figure, _week_table(shown)]


def _week_table(shown: Shown) -> Table:
    """Return how much there was in each week."""
    rows = [_week_row(week) for week in _known(shown.trends)]
    titles = (say("Calls"), say("Left to people"), say("Mean confidence"))
    columns = [Column(title=say("Week of")), *(Column(title=each, numeric=True) for each in titles)]
    columns.append(Column(title=say("Model")))
    return Table(title=say("The weeks"), columns=columns, rows=rows)


def _week_row(week: Week) -> list[Cell | str]:
    review = week.review
    move = review.move if review is not None else Move.NONE
    left = share_cell(review.share, _tone(move)) if review is not None else Cell(text=UNKNOWN)
    if move is not Move.NONE:
        left = Cell(text=left.text + _SIGNS[move], order=left.order, detail=left.detail, tone=left.tone)
    return [
        Cell(text=week.begins.isoformat(), order=week.begins.toordinal()),
        Cell(text=f"{week.num_calls:,}", order=week.num_calls),
        left,
        share_cell(week.confidence),
        ", ".join(week.models),
    ]


def _figures(shown: Shown) -> Block:
    """Return counts and shares of all categories in the last weeks, with their intervals."""
    weeks = _known(shown.trends)[-MOST_WEEKS:]
    chosen = shown.trends.categories[:MOST_CATEGORIES]
    rows: list[list[Cell | str]] = [
        [
            Cell(text=week.begins.isoformat(), order=week.begins.toordinal()),
            *(_count(week.portions[code]) for code in chosen),
        ]
        for week in weeks
    ]
    columns = [Column(title=say("Week of"))]
    columns += [Column(title=class_name(code, shown.names), numeric=True) for code in chosen]
    table = Table(
        title=say("Calls by week and category"),
        columns=columns,
        rows=rows,
        note=say("Small figures are shares of the week's calls, as 95 % intervals."),
    )
    return Details(summary=say("Counts and intervals of the last {weeks} weeks", weeks=len(weeks)), blocks=[table])


def _count(each: Portion) -> Cell:
    return Cell(text=f"{each.count:,}", order=each.count, detail=share_range(each.share))


def _setting(shown: Shown) -> list[Block]:
    trends = shown.trends
    kind = say("of the calls") if shown.by_call_time else say("of classification")
    pairs: list[tuple[str, str]] = [
        (say("Read from"), shown.source),
        (say("Times"), kind),
        (say("Weeks begin"), say("on Monday, by the clock of the times themselves")),
        (say("Calls"), f"{trends.num_calls:,}"),
        (say("Categories"), f"{len(trends.categories):,}"),
        (say("Comparisons"), f"{trends.num_comparisons:,}"),
        (say("Classified again later, and counted once"), f"{shown.repeated:,}"),
        (say("Lines that could not be read"), f"{shown.num_problems:,}"),
        (say("Files with predictions"), ", ".join(shown.files)),
        (say("Files without predictions"), ", ".join(shown.passed_over)),
    ]
    found = Facts(title=say("What was counted"), pairs=[(name, value) for name, value in pairs if value])
    words = Table(
        title=say("What the words mean"),
        columns=[Column(title=say("Word")), Column(title=say("Meaning"))],
        rows=[
            [say("Share"), say("Of all calls of the week.")],
            [
                say("rose, fell"),
                say(
                    "The share differs from that of the (at most {weeks}) weeks before, judged by the same model; by "
                    "chance alone any such mark stands on 1 of 20 pages.",
                    weeks=BEFORE,
                ),
            ],
            [say("Confidence"), say("How probable the class that a call was filed under is, as the model says.")],
        ],
        sortable=False,
    )
    return [found, words]
