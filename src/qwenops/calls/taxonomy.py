"""Reading taxonomies: the presets that come with qwenops, and the user's own files.

`load` says everything that is wrong with a file at once, each with its line: what is missing or unknown, codes that
stand there twice or in the wrong place, classes too few or too many, migrations that lead back or nowhere.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qwenops.calls.classes import (
    Axis,
    AxisValue,
    Class,
    ClassSeverity,
    Migration,
    Taxonomy,
    Words,
    followed,
    parse_ref,
    way,
)
from qwenops.calls.marked import Marked, MarkedFile, read_marked
from qwenops.calls.problems import Severity, refuse
from qwenops.errors import ConfigError
from qwenops.text import LANGUAGES, Language, say

__all__ = [
    "MOST_LEAVES",
    "PRESETS",
    "SCHEMA",
    "TAXONOMY",
    "Class",
    "ClassSeverity",
    "Taxonomy",
    "load",
    "parse_ref",
    "presets",
]

SCHEMA = "qwenops.taxonomy/1"
TAXONOMY = "taxonomy.yaml"
"""What the file is called in the folder of a trained model."""
PRESETS = Path(__file__).parent / "taxonomies"
MOST_LEAVES = 256
"""A model tells classes apart by single tokens, and has so many."""

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TOP_FIELDS = ("schema", "name", "version", "title", "source", "classes", "axes", "migrations")
_CLASS_FIELDS = ("code", "name", "description", "examples", "severity", "complaint", "review", "children")
_MIGRATION_FIELDS = ("from", "to", "map", "split", "notes")


def presets() -> tuple[str, ...]:
    """Return the names of the taxonomies that come with qwenops."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def load(name_or_path: str | Path) -> Taxonomy:
    """Read a preset (`telecom-cn`, or `telecom-cn@2` to insist on a version) or a file.

    Raises:
        ConfigError: There is no such preset, or it is at another version.
        InvalidDataError: The file cannot be read, or is no taxonomy; all that is wrong is named with its line.
    """
    wanted = Path(name_or_path)
    if isinstance(name_or_path, Path) or wanted.suffix in {".yaml", ".yml"} or len(wanted.parts) > 1:
        return _read(read_marked(wanted), wanted)
    known = parse_ref(name_or_path)
    name = known[0] if known else name_or_path
    if name not in presets():
        raise ConfigError(
            say("There is no taxonomy {name!r}; there are {names}.", name=name, names=", ".join(presets())),
            hint=say("Name one of those, or a file that ends in .yaml."),
        )
    path = PRESETS / f"{name}.yaml"
    found = _read(read_marked(path), path)
    if known and known[1] != found.version:
        raise ConfigError(
            say("{ref} is what comes with qwenops, not {asked}.", ref=found.ref, asked=name_or_path),
            hint=say("Use {ref}, or name a file that has the other version.", ref=found.ref),
        )
    return found


def _read(file: MarkedFile, path: Path) -> Taxonomy:
    top = file.fields(file.root, "", known=_TOP_FIELDS, required=("schema", "name", "version", "title", "classes"))
    schema = top.get("schema")
    if schema is not None and schema.value != SCHEMA:
        file.wrong(say("It must be {schema}.", schema=SCHEMA), schema, "schema")
    name = _code(file, top.get("name"), "name", _NAME)
    version = file.number(top.get("version"), "version")
    if version == 0:
        file.wrong(say("Versions begin with 1."), top["version"], "version")
    title = _words(file, top.get("title"), "title")
    source = file.text(top.get("source"), "source")
    classes = _classes(file, top.get("classes"))
    leaves = tuple(code for code, each in classes.items() if not each.children)
    _check_leaves(file, top.get("classes"), [classes[code] for code in leaves])
    axes = _axes(file, top.get("axes"))
    migrations = _migrations(file, top.get("migrations"), version or 0, leaves)
    refuse(file.problems, say("The taxonomy {path} cannot be used.", path=str(path)))
    return Taxonomy(
        name=name,
        version=version or 0,
        title=title,
        source=source,
        classes=classes,
        leaves=leaves,
        axes=axes,
        migrations=migrations,
        path=path,
        sha256=file.sha256,
        warnings=tuple(file.problems),
    )


def _classes(file: MarkedFile, node: Marked | None) -> dict[str, Class]:
    found: dict[str, Class] = {}
    lines: dict[str, int] = {}
    for where, each in file.items(node, "classes"):
        _class(file, each, where, None, found, lines)
    return found


def _class(
    file: MarkedFile, node: Marked, where: str, above: Class | None, found: dict[str, Class], lines: dict[str, int]
) -> str:
    """Read a class and all below it into `found`, each before its children; return its code, empty if it has none."""
    fields = file.fields(node, where, known=_CLASS_FIELDS, required=("code", "name"))
    code = _code(file, fields.get("code"), f"{where}.code", _CODE)
    if code:
        _check_code(file, fields["code"], f"{where}.code", above, lines)
    severity = _severity(file, fields.get("severity"), f"{where}.severity")
    complaint = file.flag(fields.get("complaint"), f"{where}.complaint")
    review = file.flag(fields.get("review"), f"{where}.review")
    inherited = above or Class(code="", name=Words())
    itself = Class(
        code=code,
        name=_words(file, fields.get("name"), f"{where}.name"),
        description=_words(file, fields.get("description"), f"{where}.description"),
        examples=_examples(file, fields.get("examples"), f"{where}.examples"),
        severity=inherited.severity if severity is None else severity,
        complaint=inherited.complaint if complaint is None else complaint,
        review=inherited.review if review is None else review,
        parent=inherited.code,
    )
    is_new = bool(code) and code not in found
    if is_new:
        found[code] = itself
        lines[code] = fields["code"].line
    below = [
        _class(file, each, place, itself, found, lines)
        for place, each in file.items(fields.get("children"), f"{where}.children")
    ]
    if is_new:
        found[code] = replace(itself, children=tuple(dict.fromkeys(child for child in below if child)))
        if not below and not itself.description.zh:
            told = say("{code} has no description; annotators and models have only its name.", code=code)
            file.wrong(told, fields["code"], where, Severity.WARNING)
    return code


def _check_code(file: MarkedFile, node: Marked, where: str, above: Class | None, lines: Mapping[str, int]) -> None:
    code = str(node.value).strip()
    if code in lines:
        told = say("The code {code} stands here again, after line {first}.", code=code, first=lines[code])
        file.wrong(told, node, where)
    parent = code.rpartition(".")[0]
    if above is not None and not above.code:
        return  # what is above is wrong already
    if parent != (above.code if above else ""):
        wanted = f"{above.code}.{code.rpartition('.')[2]}" if above else code.partition(".")[0]
        told = say("The code {code} does not belong here; its place asks for {wanted}.", code=code, wanted=wanted)
        file.wrong(told, node, where)


def _check_leaves(file: MarkedFile, node: Marked | None, leaves: Sequence[Class]) -> None:
    if node is None:
        return
    if len(leaves) < 2:  # noqa: PLR2004 -- with one class there is nothing to tell apart
        file.wrong(say("At least two classes without children belong here."), node, "classes")
    if len(leaves) > MOST_LEAVES:
        told = say(
            "There are {count} classes without children, and models know {most}.", count=len(leaves), most=MOST_LEAVES
        )
        file.wrong(told, node, "classes")
    if all(each.complaint for each in leaves):
        told = say("No class is marked `complaint: false`, so every inquiry will be called a complaint.")
        file.wrong(told, node, "classes", Severity.WARNING)
    if not any(each.review for each in leaves):
        told = say("No class is marked `review: true`, so there is none for calls that fit nowhere.")
        file.wrong(told, node, "classes", Severity.WARNING)


def _axes(file: MarkedFile, node: Marked | None) -> dict[str, Axis]:
    found: dict[str, Axis] = {}
    for where, each in file.items(node, "axes"):
        fields = file.fields(each, where, known=("code", "name", "values"), required=("code", "name", "values"))
        code = _code(file, fields.get("code"), f"{where}.code", _CODE)
        if code and code in found:
            file.wrong(say("The axis {code} stands here again.", code=code), fields["code"], f"{where}.code")
        values: dict[str, AxisValue] = {}
        for place, value in file.items(fields.get("values"), f"{where}.values"):
            parts = file.fields(value, place, known=("code", "name"), required=("code", "name"))
            key = _code(file, parts.get("code"), f"{place}.code", _CODE)
            if key and key in values:
                file.wrong(say("The value {code} stands here again.", code=key), parts["code"], f"{place}.code")
            values[key] = AxisValue(code=key, name=_words(file, parts.get("name"), f"{place}.name"))
        if "values" in fields and len(values) < 2:  # noqa: PLR2004 -- one value says nothing
            file.wrong(say("An axis needs at least two values."), fields["values"], f"{where}.values")
        name = _words(file, fields.get("name"), f"{where}.name")
        found[code] = Axis(code=code, name=name, values=tuple(values.values()))
    return found


def _migrations(file: MarkedFile, node: Marked | None, version: int, leaves: Sequence[str]) -> dict[int, Migration]:
    found: dict[int, Migration] = {}
    places: dict[int, tuple[str, Marked]] = {}
    for where, each in file.items(node, "migrations"):
        migration = _migration(file, each, where)
        if migration is None:
            continue
        if migration.since in found:
            told = say("A migration from version {version} stands there already.", version=migration.since)
            file.wrong(told, each, where)
            continue
        found[migration.since] = migration
        places[migration.since] = where, each
    for since, migration in found.items():
        where, each = places[since]
        if not since < migration.until <= version:
            told = say(
                "A migration leads to a higher version, {version} at most; this one leads from {since} to {until}.",
                version=version,
                since=since,
                until=migration.until,
            )
            file.wrong(told, each, where)
        elif migration.until < version and migration.until not in found:
            told = say("No migration leads on from version {version}.", version=migration.until)
            file.wrong(told, each, where)
    if not any(problem.severity is Severity.ERROR for problem in file.problems):
        for since, migration in found.items():
            _check_targets(file, places[since], migration, way(found, migration.until, version) or (), leaves)
    return found


def _migration(file: MarkedFile, node: Marked, where: str) -> Migration | None:
    fields = file.fields(node, where, known=_MIGRATION_FIELDS, required=("from", "to"))
    since = file.number(fields.get("from"), f"{where}.from")
    until = file.number(fields.get("to"), f"{where}.to")
    renamed = {
        old: _code(file, new, f"{where}.map.{old}", _CODE)
        for old, new in file.mapping(fields.get("map"), f"{where}.map").items()
    }
    split: dict[str, tuple[str, ...]] = {}
    for old, new in file.mapping(fields.get("split"), f"{where}.split").items():
        split[old] = file.texts(new, f"{where}.split.{old}")
        if len(set(split[old])) < 2:  # noqa: PLR2004 -- into one is no split
            told = say("At least two codes belong here; a new name for one class is a `map`.")
            file.wrong(told, new, f"{where}.split.{old}")
        if old in renamed:
            told = say("{code} cannot be both renamed and split.", code=old)
            file.wrong(told, new, f"{where}.split.{old}")
    notes = _words(file, fields.get("notes"), f"{where}.notes")
    if since is None or until is None:
        return None
    return Migration(since=since, until=until, renamed=renamed, split=split, notes=notes)


def _check_targets(
    file: MarkedFile,
    place: tuple[str, Marked],
    migration: Migration,
    later: Sequence[Migration],
    leaves: Sequence[str],
) -> None:
    """Note where a migration leads to a class that is not there at last."""
    where, node = place
    targets = [*migration.renamed.values(), *(code for codes in migration.split.values() for code in codes)]
    for target in dict.fromkeys(targets):
        now, choices = followed(target, later)
        for gone in sorted(set(choices or (now,)) - set(leaves)):
            file.wrong(say("It leads to {code}, which is no class without children.", code=gone), node, where)


def _code(file: MarkedFile, node: Marked | None, where: str, pattern: re.Pattern[str]) -> str:
    found = file.text(node, where)
    if node is not None and found and pattern.fullmatch(found) is None:
        told = say("{code!r} is no code: letters, digits, - and _, with dots between levels.", code=found)
        file.wrong(told, node, where)
        return ""
    return found


def _words(file: MarkedFile, node: Marked | None, where: str) -> Words:
    """Read a text in both languages: `{zh: …, en: …}`, one of them, or a plain text that serves for both."""
    if node is None:
        return Words()
    if not isinstance(node.value, dict):
        text = file.text(node, where)
        return Words(zh=text, en=text)
    fields = file.fields(node, where, known=LANGUAGES)
    zh = file.text(fields.get("zh"), f"{where}.zh")
    en = file.text(fields.get("en"), f"{where}.en")
    if not fields:
        file.wrong(say("A text in zh, in en or in both belongs here."), node, where)
    return Words(zh=zh or en, en=en or zh)


def _examples(file: MarkedFile, node: Marked | None, where: str) -> dict[Language, tuple[str, ...]]:
    fields = file.fields(node, where, known=LANGUAGES)
    found: dict[Language, tuple[str, ...]] = {}
    for language in LANGUAGES:
        if texts := file.texts(fields.get(language), f"{where}.{language}"):
            found[language] = texts
    return found


def _severity(file: MarkedFile, node: Marked | None, where: str) -> ClassSeverity | None:
    if node is None:
        return None
    possible = [each.value for each in ClassSeverity]
    if not isinstance(node.value, str) or node.value not in possible:
        file.wrong(say("It must be one of {choices}.", choices=", ".join(possible)), node, where)
        return None
    return ClassSeverity(node.value)
