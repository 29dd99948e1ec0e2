"""What classes and classifiers are called on a page, in the language of the reader."""

from collections.abc import Callable, Mapping

from qwenops.calls.classes import Words
from qwenops.classify.linear import Kind
from qwenops.classify.trial import MODEL
from qwenops.text import Text, say

LANGUAGE = say("language: en")
"""Is translated into `language: zh` by the Chinese catalogue, and so tells which language is being spoken."""
CHINESE = "language: zh"
_SYSTEMS: Mapping[str, Text] = {
    MODEL: say("the trained model"),
    Kind.LOGISTIC.value: say("TF-IDF with logistic regression"),
    Kind.COMPLEMENT.value: say("TF-IDF with naive Bayes"),
    Kind.PRIOR.value: say("the shares of the classes"),
}


class ClassName(Text):
    """The name of a class, which its taxonomy has in both languages; no catalogue knows it."""

    __slots__ = ("zh",)
    zh: str

    def translated(self, translate: Callable[[str], str]) -> str:
        """Say it in the language that `translate` speaks."""
        return self.zh if translate(LANGUAGE.template) == CHINESE else str(self)


def class_name(code: str, names: Mapping[str, Words]) -> str:
    """Return what a class is called; its code where nobody gave it a name."""
    words = names.get(code)
    if words is None or not (words.en or words.zh):
        return code
    found = ClassName(words.en or words.zh)
    found.template = str(found)
    found.arguments = {}
    found.zh = words.zh or words.en
    return found


def system_name(name: str) -> str:
    """Return what a classifier is called that a trial only has a word for; others keep their name."""
    return _SYSTEMS.get(name, name)
