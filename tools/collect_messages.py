"""Collect the sentences that users read, bring the catalogues up to date and compile them.

A sentence is the template of a `say(...)`, the help of an `option(...)`, or one of click's own words. Translations are
kept by their English sentence; a sentence that is gone takes its translation with it, and a new one is listed here
until somebody translates it in `src/qwenops/locale/<language>/LC_MESSAGES/qwenops.po`.

    python tools/collect_messages.py            # update and compile
    python tools/collect_messages.py --check    # change nothing; exit 1 when something is missing or out of date
"""

import argparse
import ast
import importlib.util
import io
import string
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from babel.messages import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "qwenops"
LANGUAGES = ("zh",)
CLICK_MODULES = ("core", "decorators", "exceptions", "formatting", "parser", "types")

MessageId = str | tuple[str, ...]


class PlainCatalog(Catalog):
    """A catalogue whose header says what reading needs and no dates or versions: equal input gives equal bytes."""

    @property
    def mime_headers(self) -> list[tuple[str, str]]:
        """Return the header."""
        return [
            ("Project-Id-Version", "qwenops"),
            ("Language", str(self.locale_identifier or "")),
            ("Plural-Forms", self.plural_forms),
            ("MIME-Version", "1.0"),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Transfer-Encoding", "8bit"),
        ]


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in a file with the name of what is called."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            yield name, node


def constant(node: ast.expr | None, path: Path) -> str:
    """Return the text of a literal.

    Raises:
        ValueError: It is put together at run time, so nobody can translate it.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    line = getattr(node, "lineno", 0)
    raise ValueError(f"{path.relative_to(ROOT)}:{line}: say() and option(help=) take one literal text")


def own_sentences(source: Path = SOURCE) -> set[MessageId]:
    """Return every sentence of this package."""
    found: set[MessageId] = set()
    for path in sorted(source.rglob("*.py")):
        for name, call in calls(path):
            if name == "say" and call.args and not _says_again(call):
                found.add(constant(call.args[0], path))
            if name == "option":
                found.update(
                    constant(word.value, path) for word in call.keywords if word.arg == "help" and _is_ours(path)
                )
    return found


def _says_again(call: ast.Call) -> bool:
    """Whether a sentence that crossed a process border is put together again, from a template that stands elsewhere."""
    return not isinstance(call.args[0], ast.Constant) and any(word.arg is None for word in call.keywords)


def _is_ours(path: Path) -> bool:
    """Whether `option` in this file declares one of ours; click's has its help in `say`."""
    return "cli" not in path.parts


def click_words() -> set[MessageId]:
    """Return the words that click itself prints."""
    spec = importlib.util.find_spec("click")
    if spec is None or spec.origin is None:
        raise RuntimeError("click is not installed")
    found: set[MessageId] = set()
    for module in CLICK_MODULES:
        for name, call in calls(Path(spec.origin).parent / f"{module}.py"):
            texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            if name in {"_", "gettext"} and texts:
                found.add(texts[0])
            if name == "ngettext" and len(texts) > 1:
                found.add((texts[0], texts[1]))
    return found


def catalogue_path(language: str) -> Path:
    """Return where the translations of a language are kept."""
    return SOURCE / "locale" / language / "LC_MESSAGES" / "qwenops.po"


def updated(language: str, sentences: set[MessageId]) -> Catalog:
    """Return a catalogue of exactly these sentences with the translations that are there."""
    path = catalogue_path(language)
    old = read_po(io.BytesIO(path.read_bytes()), locale=language) if path.exists() else Catalog(locale=language)
    new = PlainCatalog(
        locale=language,
        header_comment="# The words of qwenops in another language; `make messages` keeps this file up to date.",
        fuzzy=False,
    )
    for sentence in sorted(sentences, key=lambda each: each if isinstance(each, str) else each[0]):
        before = old.get(sentence)
        flags = {flag for flag in before.flags if flag == "fuzzy"} if before else set()
        new.add(sentence, before.string if before else None, flags=flags)
    return new


def problems(catalogue: Catalog) -> list[str]:
    """Return what is wrong with the translations, one line each."""
    found = []
    for message in catalogue:
        if not message.id:
            continue
        said = [message.string] if isinstance(message.string, str) else list(message.string or ("",))
        if not all(said):
            found.append(f"not translated: {message.id!r}")
        elif message.fuzzy:
            found.append(f"fuzzy: {message.id!r}")
        elif any(fields(text) != _expected(message) for text in said):
            found.append(f"other fields than the English: {message.id!r} -> {message.string!r}")
    return found


def _expected(message: Message) -> set[str]:
    """Return the fields of the last form, which speaks of many."""
    return fields(message.id if isinstance(message.id, str) else message.id[-1])


def fields(text: str) -> set[str]:
    """Return the names in braces; a text that is no template has none."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}
    except ValueError:
        return set()


def files_of(language: str, catalogue: Catalog) -> dict[Path, bytes]:
    """Return the two files of a language and what belongs into them."""
    po, mo = io.BytesIO(), io.BytesIO()
    write_po(po, catalogue, no_location=True, width=0)
    write_mo(mo, catalogue)
    path = catalogue_path(language)
    return {path: po.getvalue(), path.with_suffix(".mo"): mo.getvalue()}


def main(argv: Sequence[str] | None = None) -> int:
    """Update or check all catalogues; return 1 when something is left to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(argv)
    sentences = own_sentences() | click_words()
    left: list[str] = []
    for language in LANGUAGES:
        catalogue = updated(language, sentences)
        left += [f"{language}: {problem}" for problem in problems(catalogue)]
        for path, content in files_of(language, catalogue).items():
            if options.check and (not path.exists() or path.read_bytes() != content):
                left.append(f"{path.relative_to(ROOT)} is out of date: run `make messages`")
            elif not options.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    print("\n".join(left) or f"{len(sentences)} sentences in {len(LANGUAGES) + 1} languages")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
