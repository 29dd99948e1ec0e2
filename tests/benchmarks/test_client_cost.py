"""The benchmark of the client measures what it says, and the client is nowhere near disturbing a server."""

import pytest

from benchmarks.client_cost import _measured, parsers


@pytest.mark.slow
@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_twenty_streams_are_all_answered_and_cost_a_small_part_of_a_core(api: str) -> None:
    found = _measured(api, "uvloop", 20, 40.0, 3.0)
    assert found["answered_ratio"] == 1.0
    assert 0.0 < found["cpu_share"] < 0.25, "the goal of 5 % is the benchmark's; a test machine may be busy"


def test_the_parser_in_use_is_the_fastest_of_those_at_hand() -> None:
    cost = parsers()
    assert cost["pydantic_core.from_json"] == min(cost.values())
