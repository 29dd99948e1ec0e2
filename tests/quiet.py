"""Tests that count milliseconds: they are tried again where the machine is busy, and are strict where it is not."""

import os
import time
from collections.abc import Iterator

PAUSE_S = 5.0


def quiet_tries(most: int) -> Iterator[int]:
    """Yield the number of each try, after a pause where the machine was busy before it; a quiet one gets two tries."""
    for number in range(most):
        busy = os.getloadavg()[0] > len(os.sched_getaffinity(0)) / 2
        if number > 1 and not busy:
            return
        if number and busy:
            time.sleep(PAUSE_S)
        yield number
