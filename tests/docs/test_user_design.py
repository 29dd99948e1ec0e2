"""Every row of the user's design that is said to stand is proven by a test that carries its id."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "decisions" / "user-design.md"


def rows() -> dict[str, str]:
    """Return id to status of the table's rows."""
    return {name: cells[-1] for name, cells in whole_rows().items()}


def whole_rows() -> dict[str, list[str]]:
    """Return id to cells of the table's rows."""
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"[A-G]\d", cells[0]):
            found[cells[0]] = cells
    return found


def ids_in_tests() -> set[str]:
    marks = re.compile(r'mark\.proves\("([A-G]\d)"\)')
    return {
        each
        for path in (ROOT / "tests").rglob("test_*.py")
        if path != Path(__file__)
        for each in marks.findall(path.read_text(encoding="utf-8"))
    }


def test_the_table_has_every_row_of_the_users_design() -> None:
    counts = {"A": 6, "B": 3, "C": 3, "D": 3, "E": 2, "F": 5, "G": 1}
    assert sorted(rows()) == [f"{letter}{n}" for letter, count in counts.items() for n in range(1, count + 1)]


def test_a_status_is_a_known_word() -> None:
    assert {status for status in rows().values() if not re.fullmatch(r"stands|part [2-6]", status)} == set()


def test_every_row_that_stands_is_proven_by_a_test() -> None:
    assert {row for row, status in rows().items() if status == "stands"} - ids_in_tests() == set()


def test_a_row_of_which_something_follows_does_not_stand() -> None:
    following = {name for name, cells in whole_rows().items() if re.search(r"\bfollows?\b|\bpart \d", cells[2])}
    assert {name for name in following if rows()[name] == "stands"} == set()


def test_no_test_claims_a_row_that_does_not_exist() -> None:
    assert ids_in_tests() - set(rows()) == set()
