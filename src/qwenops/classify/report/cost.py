"""What 1,000 calls cost, with the formula and everything that goes into it; a price that nobody gave is not made up."""

from qwenops.classify.report.figures import UNKNOWN, share
from qwenops.classify.report.record import Cost
from qwenops.page.document import Block, Cell, Column, Paragraph, Table, Tile
from qwenops.page.ticks import number
from qwenops.text import Text, say

_DIGITS = 4


def cost_tile(cost: Cost | None) -> Tile | None:
    """Return the cost as a headline figure: in money where the price is known, else in time; None without either."""
    if cost is None:
        return None
    if cost.machine_cost is None:
        return Tile(name=say("Machine time for 1,000 calls"), value=f"{number(cost.machine_s)} s")
    people = cost.person_cost
    return Tile(
        name=say("Machine cost of 1,000 calls"),
        value=_money(cost.machine_cost, cost.currency),
        detail="" if people is None else say("and {people} for people", people=_money(people, cost.currency)),
    )


def cost_blocks(cost: Cost | None) -> list[Block]:
    """Return the cost of 1,000 calls; nothing where nobody measured how fast they are classified."""
    if cost is None:
        return []
    rows = [_machine(cost), _machine_price(cost), *_people(cost)]
    columns = [Column(title=say("For 1,000 calls")), Column(title=say("Value"), numeric=True), Column(title=say("How"))]
    blocks: list[Block] = [Table(title=say("Cost of 1,000 calls"), columns=columns, rows=rows, sortable=False)]
    if cost.measured:
        blocks.append(Paragraph(text=say("The speed was measured: {how}", how=cost.measured)))
    blocks.append(
        Paragraph(
            text=say(
                "Machine = 1,000 / calls per second / 3,600 × price of an hour of the machine. People = 1,000 × share "
                "of calls for people × minutes of each / 60 × price of an hour of a person."
            )
        )
    )
    return blocks


def _machine(cost: Cost) -> list[Cell | str]:
    return [
        say("Time of the machine"),
        Cell(text=f"{number(cost.machine_s)} s", order=cost.machine_s),
        say("1,000 / {speed} calls a second", speed=number(cost.calls_per_s)),
    ]


def _machine_price(cost: Cost) -> list[Cell | str]:
    if cost.machine_cost is None or cost.machine_per_hour is None:
        return [say("Cost of the machine"), UNKNOWN, say("Nobody gave the price of an hour of the machine.")]
    how = say(
        "{seconds} s / 3,600 × {price} an hour",
        seconds=number(cost.machine_s),
        price=_money(cost.machine_per_hour, cost.currency),
    )
    return [say("Cost of the machine"), _priced(cost.machine_cost, cost.currency), how]


def _people(cost: Cost) -> list[list[Cell | str]]:
    title = say("Cost of the people who look at the rest")
    given = cost.review_share, cost.minutes_per_review, cost.person_per_hour
    people = cost.person_cost
    if people is None:
        return [[title, UNKNOWN, _missing(cost)]]
    review, minutes, price = (each or 0.0 for each in given)
    how = say(
        "1,000 × {share} × {minutes} min / 60 × {price} an hour",
        share=share(review),
        minutes=number(minutes),
        price=_money(price, cost.currency),
    )
    found: list[list[Cell | str]] = [[title, _priced(people, cost.currency), how]]
    if cost.machine_cost is not None:
        found.append([say("Together"), _priced(cost.machine_cost + people, cost.currency), ""])
    return found


def _missing(cost: Cost) -> Text:
    if cost.review_share is None:
        return say("How many calls a person looks at is not known.")
    return say("Nobody gave the minutes for a call and the price of an hour of a person.")


def _priced(value: float, currency: str) -> Cell:
    return Cell(text=_money(value, currency), order=value)


def _money(value: float, currency: str) -> str:
    return " ".join(each for each in (number(value) if abs(value) >= 1 else _small(value), currency) if each)


def _small(value: float) -> str:
    """Return a price below one with digits that count, and no needless zeros."""
    return f"{value:.{_DIGITS}f}".rstrip("0").rstrip(".") if abs(value) >= 10**-_DIGITS else number(value)
