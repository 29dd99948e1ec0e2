"""Queues of known law, many runs at once: each row of a result is one run, in the order of arrival, begun empty.

Time is measured in mean services of one server. The formulas are those of textbooks for the steady state.
"""

import math

import numpy as np
import numpy.typing as npt

Runs = npt.NDArray[np.float64]


def mm1_sojourns(random: np.random.Generator, runs: int, n: int, load: float) -> Runs:
    """Return the times in the system of one server, first come first served (Lindley's recursion)."""
    found = np.empty((runs, n))
    waiting = np.zeros(runs)
    for index in range(n):
        service = random.exponential(1.0, runs)
        found[:, index] = waiting + service
        waiting = np.maximum(waiting + service - random.exponential(1.0 / load, runs), 0.0)
    return found


def mm1_sojourn_bound(load: float, share: float) -> float:
    """Return the time that the share `share` of sojourns exceeds."""
    return -math.log(share) / (1.0 - load)


def mmc_waits(random: np.random.Generator, runs: int, n: int, load: float, servers: int) -> Runs:
    """Return the times in the queue of several servers."""
    free_at = np.zeros((runs, servers))
    now = np.zeros(runs)
    rows = np.arange(runs)
    found = np.empty((runs, n))
    for index in range(n):
        now += random.exponential(1.0 / (load * servers), runs)
        first = free_at.argmin(axis=1)
        found[:, index] = np.maximum(free_at[rows, first] - now, 0.0)
        free_at[rows, first] = now + found[:, index] + random.exponential(1.0, runs)
    return found


def mmc_wait_share(load: float, servers: int, bound: float) -> float:
    """Return the share of waits above a bound: Erlang's C with its exponential tail."""
    offered = load * servers
    below = sum(offered**k / math.factorial(k) for k in range(servers))
    last = offered**servers / math.factorial(servers) / (1.0 - load)
    return last / (below + last) * math.exp(-servers * (1.0 - load) * bound)


def shared_sojourns(random: np.random.Generator, runs: int, n: int, load: float, places: int = 150) -> Runs:
    """Return the times in the system of one server that all who are there share (M/M/1 processor sharing)."""
    left = np.full((runs, places), np.inf)
    owner = np.zeros((runs, places), dtype=np.int64)
    began = np.zeros((runs, places))
    found = np.full((runs, n + 1), np.nan)
    now, next_at = np.zeros(runs), random.exponential(1.0 / load, runs)
    arrived, over = np.zeros(runs, dtype=np.int64), np.zeros(runs, dtype=np.int64)
    rows = np.arange(runs)
    while over.min() < n:
        present = np.isfinite(left).sum(axis=1)
        shortest = left.argmin(axis=1)
        ends_at = np.where(present > 0, now + left[rows, shortest] * np.maximum(present, 1), np.inf)
        comes = next_at <= ends_at
        then = np.where(comes, next_at, ends_at)
        left -= ((then - now) / np.maximum(present, 1))[:, None]
        now = then
        gone, place = rows[~comes], shortest[~comes]
        who = owner[gone, place]
        found[gone, np.minimum(who, n)] = now[gone] - began[gone, place]
        over[gone] += who < n
        left[gone, place] = np.inf
        new = rows[comes]
        place = np.isinf(left[new]).argmax(axis=1)
        left[new, place], owner[new, place], began[new, place] = (
            random.exponential(1.0, new.size),
            arrived[new],
            now[new],
        )
        arrived[new] += 1
        next_at[new] = now[new] + random.exponential(1.0 / load, new.size)
    return found[:, :n]


def shedding(random: np.random.Generator, runs: int, n: int, load: float, room: int) -> tuple[Runs, Runs]:
    """Return whether each was turned away by a server with so much room, and how many it found there."""
    there = np.zeros(runs, dtype=np.int64)
    refused, seen = np.zeros((runs, n)), np.zeros((runs, n))
    for index in range(n):
        seen[:, index] = there
        refused[:, index] = there >= room
        there = there + (there < room)
        there = np.maximum(there - random.poisson(random.exponential(1.0 / load, runs)), 0)
    return refused, seen


def shed_share(load: float, room: int) -> float:
    """Return the share that such a server turns away."""
    return (1.0 - load) * load**room / (1.0 - load ** (room + 1))
