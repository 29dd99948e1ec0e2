"""A way of speaking for tests: one author, one customer, any language."""

from functools import cache

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.facts import Facts
from qwenops.calls.generator.numbers import draw_habit
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.people import draw_person
from qwenops.calls.generator.tongue import Tongue
from qwenops.calls.generator.world import World, authors, load_world


@cache
def world() -> World:
    """Return everything of one author."""
    return load_world(GeneratorOptions(authors=authors()[:1]))


def tongue(seed: int, *, lang: str = "zh", written: bool) -> Tongue:
    """Return a way of speaking."""
    whole, dice = world(), Dice(seed, "tongue")
    names = whole.lexicon.names
    return Tongue(
        packs=whole.packs[authors()[0]],
        phrases=whole.lexicon.phrases,
        facts={each: Facts(lang=each, names=names[each], written=written, dice=dice) for each in names},
        person=draw_person(Dice(seed, "person"), names[lang], whole.lexicon.area_codes, lang),
        habit=draw_habit(dice),
        written=written,
        dice=dice,
    )
