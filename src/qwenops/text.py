"""Sentences for people that remember how they were made, so that a door can say them in another language.

    raise ModelNotFoundError(say("There is no model called {name!r}.", name=name), hint=say("Run `qwenops list`."))

A `Text` is a `str` (the English sentence, filled in), so logs and tests need not know about it. The command line and
the HTTP application translate its template and fill it in again. `make messages` collects every template of `say`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
DOMAIN = "qwenops"
CATALOGUES = Path(__file__).parent / "locale"
_STOPS = ".。 "


Report = Callable[[float, str], None]
"""Is told how far a piece of work is: the fraction that is done, from 0 to 1, and in a sentence what is being done."""


class Text(str):
    """A filled-in English sentence with its template and its arguments."""

    __slots__ = ("arguments", "template")
    template: str
    arguments: dict[str, Any]

    def translated(self, translate: Callable[[str], str]) -> str:
        """Say it in another language; `translate` maps an English template to that language's."""
        said = {name: translate_text(value, translate) for name, value in self.arguments.items()}
        template = translate(self.template)
        return template.format(**said) if said else template


class Clause(Text):
    """A sentence within another one, in every language without the stop at its end."""

    __slots__ = ()

    def translated(self, translate: Callable[[str], str]) -> str:
        """Say it in another language."""
        return super().translated(translate).rstrip(_STOPS)


def clause(sentence: str) -> str:
    """Return a sentence, or what may be one, as it stands before the stop of a sentence around it."""
    if not isinstance(sentence, Text):
        return sentence.rstrip(_STOPS)
    said = Clause(sentence.rstrip(_STOPS))
    said.template = sentence.template
    said.arguments = sentence.arguments
    return said


def say(template: str, **arguments: Any) -> Text:
    """Fill `template` in as `str.format` does; without arguments it is taken as it stands."""
    text = Text(template.format(**arguments) if arguments else template)
    text.template = template
    text.arguments = arguments
    return text


def translate_text(value: Any, translate: Callable[[str], str]) -> Any:
    """Translate a `Text`; give anything else back as it is."""
    return value.translated(translate) if isinstance(value, Text) else value


def choose_language(asked: str, environ: Mapping[str, str]) -> Language:
    """Return the language to speak: `asked`, else QWENOPS_LANG, LC_ALL, LC_MESSAGES or LANG; else English."""
    names = [asked, *(environ.get(name, "") for name in ("QWENOPS_LANG", "LC_ALL", "LC_MESSAGES", "LANG"))]
    first = next((name for name in names if name), "")
    return "zh" if first.lower().startswith("zh") else "en"


def translator(language: Language) -> Callable[[str], str]:
    """Return what maps an English template to `language`; an unknown template stays English."""
    if language == "en":
        return str
    import gettext

    spoken = gettext.translation(DOMAIN, CATALOGUES, [language], fallback=True)
    return lambda template: spoken.gettext(template) if template else ""
