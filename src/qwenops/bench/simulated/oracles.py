"""What queueing theory says about servers that the model can be told to be. Pure.

Rates are per second, times in seconds; `load` is the arrival rate by the rate at which all servers together could work.
"""

import math


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability that an arrival waits in M/M/c.

    Args:
        servers: How many there are.
        offered: Arrival rate by the service rate of one server, below `servers`.
    """
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return servers * blocked / (servers - offered * (1.0 - blocked))


def mmc_wait_s(rate_per_s: float, service_s: float, servers: int) -> float:
    """Return the mean time in the queue of M/M/c."""
    offered = rate_per_s * service_s
    return erlang_c(servers, offered) * service_s / (servers - offered)


def mmc_wait_tail(rate_per_s: float, service_s: float, servers: int, wait_s: float) -> float:
    """Return the probability of waiting longer than `wait_s` in M/M/c, first come first served."""
    offered = rate_per_s * service_s
    return erlang_c(servers, offered) * math.exp(-(servers - offered) * wait_s / service_s)


def mmc_rate_for_tail(service_s: float, servers: int, wait_s: float, tail: float) -> float:
    """Return the highest arrival rate at which at most a share `tail` of M/M/c waits longer than `wait_s`."""
    low, high = 0.0, servers / service_s
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mmc_wait_tail(middle, service_s, servers, wait_s) <= tail else (low, middle)
    return low


def md1_wait_s(rate_per_s: float, service_s: float) -> float:
    """Return the mean time in the queue of M/D/1 (Pollaczek and Khinchine)."""
    load = rate_per_s * service_s
    return load * service_s / (2.0 * (1.0 - load))


def sharing_time_s(rate_per_s: float, service_s: float, own_s: float | None = None) -> float:
    """Return the mean time in a server that shares its processor among all (M/G/1-PS), for work of `own_s`."""
    return (service_s if own_s is None else own_s) / (1.0 - rate_per_s * service_s)


def usl_throughput(users: float, one_per_s: float, contention: float, coherence: float) -> float:
    """Return what `users` get done per second by the Universal Scalability Law."""
    return one_per_s * users / (1.0 + contention * (users - 1.0) + coherence * users * (users - 1.0))


def usl_knee(contention: float, coherence: float) -> float:
    """Return the number of users at which that is most."""
    return math.inf if coherence == 0 else math.sqrt((1.0 - contention) / coherence)


def frozen_share(rate_per_s: float, service_s: float, freeze_s: float) -> float:
    """Return how many requests, that are due at even intervals at a server for one, a freeze makes late.

    Those due during the freeze wait for its end; those after it until the backlog is worked off.
    """
    backlog = freeze_s * rate_per_s
    return backlog / (1.0 - rate_per_s * service_s)
