"""Runs a program with less of the machine than there is: so many cores of CPU time, so many bytes of memory.

The kernel's control groups do it. Root makes a group of its own below the group that this process is in (version 1 or
2, whichever has the controller) and removes it afterwards; anybody else asks their systemd for a scope. What the kernel
did to the program meanwhile (kills for lack of memory, throttled time) is counted and given out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from qwenops.command import Argument


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of the machine a program gets; None is no limit."""

    cpu_cores: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the kernel counted for a limited program; None where it does not say."""

    oom_kills: int | None = None
    throttled_s: float | None = None
    peak_memory_bytes: int | None = None


class LimitedGroup:
    """A control group that exists as long as the `with` block of `limited` lasts."""

    def joined(self, argv: Sequence[Argument]) -> tuple[str, ...]:
        """Return the command that runs `argv` inside the group, as the same process id."""
        raise NotImplementedError

    def usage(self) -> Usage:
        """Return what the kernel has counted so far."""
        raise NotImplementedError


def parse_limits(text: str) -> Limits:
    """Read `cpu=1,memory=3GiB`; each part is optional, one is needed.

    Raises:
        ConfigError: It is no limit.
    """
    raise NotImplementedError(text)


@contextmanager
def limited(limits: Limits) -> Iterator[LimitedGroup]:
    """Make a control group with these limits; what still runs in it at the end is killed, and the group removed.

    Raises:
        MissingPartError: Neither this user nor its systemd may make one.
    """
    raise NotImplementedError(limits)
    yield
