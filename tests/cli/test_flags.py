import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from qwenops.cli.flags import own_flags, own_options
from qwenops.errors import ConfigError
from qwenops.options import Unit, option


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    share: float = option(0.5, help="A share.", minimum=0, maximum=1)
    hidden: int = option(3, help="No flag.", flag=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    names: tuple[str, ...] = option((), help="Names.", flag="--name")
    wait_s: float = option(1.0, help="A time.", unit=Unit.SECONDS)
    path: Path | None = option(None, help="A path.")
    is_fast: bool = option(False, help="Fast.", flag="--fast")
    inner: Inner = field(default_factory=Inner)


def parsed(*argv: str) -> Outer:
    found: list[Outer] = []

    @click.command()
    @own_flags(Outer)
    @click.pass_context
    def command(ctx: click.Context) -> None:
        found.append(own_options(ctx, Outer))

    with command.make_context("x", list(argv)) as ctx:
        command.invoke(ctx)
    return found[0]


def test_without_flags_options_have_their_defaults() -> None:
    assert parsed() == Outer()


def test_every_flag_sets_its_option_also_one_that_lies_deeper() -> None:
    argv = ["--name", "a,b", "--wait", "2m", "--path", "here", "--fast", "--share", "0.25"]
    wanted = Outer(names=("a", "b"), wait_s=120.0, path=Path("here"), is_fast=True, inner=Inner(share=0.25))
    assert parsed(*argv) == wanted


def test_a_value_that_is_not_possible_is_refused_in_the_words_of_all_options() -> None:
    with pytest.raises(ConfigError, match="--share: 2 is out of bounds"):
        parsed("--share", "2")
    with pytest.raises(click.NoSuchOption):
        parsed("--hidden", "4")


def test_the_options_object_stays_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed().wait_s = 3.0  # type: ignore[misc]  # that is what is tested
