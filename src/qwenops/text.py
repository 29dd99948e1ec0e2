"""Sentences for people that remember how they were made, so that a door can say them in another language.

    raise ModelNotFoundError(say("There is no model called {name!r}.", name=name), hint=say("Run `qwenops list`."))

A `Text` is a `str` (the English sentence, filled in), so logs and tests need not know about it. The command line and
the HTTP application translate its template and fill it in again. `make messages` collects every template of `say`.
"""

from collections.abc import Callable
from typing import Any


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


def say(template: str, **arguments: Any) -> Text:
    """Fill `template` in as `str.format` does; without arguments it is taken as it stands."""
    text = Text(template.format(**arguments) if arguments else template)
    text.template = template
    text.arguments = arguments
    return text


def translate_text(value: Any, translate: Callable[[str], str]) -> Any:
    """Translate a `Text`; give anything else back as it is."""
    return value.translated(translate) if isinstance(value, Text) else value
