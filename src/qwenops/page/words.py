"""One text in every language at once, as HTML and as SVG."""

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qwenops.text import LANGUAGES, Language, Text, translate_text

TAGS: Mapping[Language, str] = {"en": "en", "zh": "zh-CN"}
"""What a browser calls our languages."""
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Says a text in every language; the page's style shows one of them."""

    translate: Mapping[Language, Callable[[str], str]]

    def versions(self, text: str) -> dict[Language, str]:
        """Return a text by language; a plain `str` is the same in all."""
        return {language: str(translate_text(text, self.translate[language])) for language in LANGUAGES}

    def html(self, text: str) -> str:
        """Return a text as HTML; what stands in backticks becomes code."""
        return self._marked(text, "span", lambda said: _CODE.sub(r"<code>\1</code>", html.escape(said)))

    def svg(self, text: str) -> str:
        """Return a text as the content of an SVG `text`."""
        return self._marked(text, "tspan", html.escape)

    def _marked(self, text: str, tag: str, written: Callable[[str], str]) -> str:
        said = self.versions(text) if isinstance(text, Text) else {}
        if len(set(said.values())) <= 1:
            return written(next(iter(said.values()), str(text)))
        return "".join(f'<{tag} lang="{TAGS[each]}">{written(words)}</{tag}>' for each, words in said.items())
