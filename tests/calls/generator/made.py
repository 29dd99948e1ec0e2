"""Calls that several tests look at, made once."""

from functools import cache
from typing import Any

from qwenops.calls.generator.generate import Generator, open_generator
from qwenops.calls.generator.options import Difficulty, GeneratorOptions
from qwenops.calls.generator.truth import Synthetic

MANY = 600


@cache
def opened(seed: int = 3, noise: float = 0.08) -> Generator:
    """Return a generator of many calls."""
    return open_generator(GeneratorOptions(calls=MANY, seed=seed, noise=noise))


@cache
def calls(noise: float = 0.08) -> tuple[Synthetic, ...]:
    """Return many calls."""
    generator = opened(noise=noise)
    return tuple(generator.call(index) for index in range(MANY))


def with_knobs(calls: int = MANY, seed: int = 3, **knobs: Any) -> Generator:
    """Return a generator with some knobs set."""
    return open_generator(GeneratorOptions(calls=calls, seed=seed, difficulty=Difficulty(**knobs)))
