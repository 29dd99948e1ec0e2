"""Reading the kernel's small text files; a missing or broken one is None, never an error."""

from pathlib import Path


def read_text(path: Path) -> str | None:
    """Return the file's text without blanks around it, or None when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """Return the whole number in the file, or None."""
    return parse_int(read_text(path))


def parse_int(text: str | None) -> int | None:
    """Return the whole number that `text` is, or None."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def read_table(path: Path, separator: str | None = None) -> dict[str, str]:
    """Return lines of `name value` as a dict; the first of equal names counts."""
    table: dict[str, str] = {}
    for line in (read_text(path) or "").splitlines():
        name, _, value = line.partition(separator) if separator else line.partition(" ")
        table.setdefault(name.strip(), value.strip())
    return table


def parse_cpu_list(text: str | None) -> frozenset[int] | None:
    """Return the numbers of a list such as `0-3,8`; None when there is no list or it is broken."""
    if not text:
        return None
    found: set[int] = set()
    try:
        for part in text.replace("\n", ",").split(","):
            first, _, last = part.strip().partition("-")
            found.update(range(int(first), int(last or first) + 1))
    except ValueError:
        return None
    return frozenset(found)


def parse_size(text: str | None) -> int | None:
    """Return the bytes of a size such as `32768K` or `1 kB`; None when it is broken."""
    if not text:
        return None
    factors = {"K": 1024, "M": 1024**2, "G": 1024**3}
    digits = text.split()[0].rstrip("BbKkMmGg")
    unit = text[len(digits) :].strip()[:1].upper()
    number = parse_int(digits)
    return None if number is None else number * factors.get(unit, 1)
