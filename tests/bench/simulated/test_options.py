import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.bench.simulated.options import (
    Faults,
    Simulated,
    SimulatedOptions,
    format_simulated,
    parameters,
    parse_simulated,
)
from qwenops.errors import ConfigError


def test_nothing_said_is_the_default() -> None:
    assert parse_simulated("simulated:") == parse_simulated("simulated:?") == Simulated()


def test_a_text_says_how_the_server_works_and_what_goes_wrong() -> None:
    made = parse_simulated(
        "simulated:?slots=2&decode_tokens_per_s=12.5&service=exponential&service_s=250ms&freeze=5s@10s,1m@2m"
        "&virtual=1&memory_bytes=2GiB&line_end=crlf&cut_after=3&blank_end=no"
    )
    assert made.server.slots == 2
    assert made.server.decode_tokens_per_s == 12.5
    assert made.server.service_s == 0.25
    assert made.server.freezes_ns == ((10_000_000_000, 15_000_000_000), (120_000_000_000, 180_000_000_000))
    assert made.server.memory_bytes == 2 << 30
    assert made.server.virtual
    assert (made.faults.line_end, made.faults.cut_after, made.faults.blank_end) == ("crlf", 3, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://127.0.0.1", "no simulated server"),
        ("simulated:?slots", "cannot be read"),
        ("simulated:?slots=0", "out of bounds"),
        ("simulated:?slots=many", "not possible"),
        ("simulated:?slots=2&slots=3", "twice"),
        ("simulated:?slot=2&colour=red", "no colour, slot"),
        ("simulated:?service=poisson", "not possible"),
        ("simulated:?freeze=5s", "does not say when"),
        ("simulated:?freeze=long@10s", "no duration"),
        ("simulated:?prefill_tokens_per_s=inf", "not possible"),
    ],
)
def test_a_text_that_is_wrong_is_refused_with_what_was_possible(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        parse_simulated(text)
    assert raised.value.hint


def test_freezes_that_overlap_are_one() -> None:
    assert parse_simulated("simulated:?freeze=5s@10s,2s@14s,1s@1s").server.freezes_ns == (
        (1_000_000_000, 2_000_000_000),
        (10_000_000_000, 16_000_000_000),
    )


def test_the_table_has_every_parameter_with_its_default_and_what_it_means() -> None:
    names = {each.name for options in (SimulatedOptions, Faults) for each in dataclasses.fields(options)}
    table = parameters()
    assert {name for name, _default, _help in table} == names
    assert len(table) == len(names)
    assert all(help_.endswith(".") for _name, _default, help_ in table)


@given(
    server=st.builds(
        SimulatedOptions,
        slots=st.integers(1, 4096),
        decode_tokens_per_s=st.floats(0, 1e6),
        service=st.sampled_from(["work", "exponential", "fixed"]),
        freeze=st.lists(st.sampled_from(["5s@10s", "1m@2m", "500ms@1h"]), max_size=2).map(tuple),
        virtual=st.booleans(),
        leak_bytes_per_h=st.integers(0, 1 << 40),
    ),
    faults=st.builds(
        Faults,
        cut_after=st.none() | st.integers(0, 99),
        retry_after=st.sampled_from(["", "2", "Fri, 31 Dec 1999 23:59:59 GMT"]),
        line_end=st.sampled_from(["lf", "crlf", "cr"]),
    ),
)
def test_what_is_written_is_read_as_the_same(server: SimulatedOptions, faults: Faults) -> None:
    said = Simulated(server=server, faults=faults)
    assert parse_simulated(format_simulated(said)) == said


def test_only_a_server_without_a_cache_is_as_new_when_it_is_idle() -> None:
    assert parse_simulated("simulated:").server.regenerates
    assert not parse_simulated("simulated:?cache_tokens=4096").server.regenerates
