"""What a manifest says about options, machine and prompts."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

from qwenops.bench.manifest import Fingerprint, machine_data, options_data, options_of, versions
from qwenops.bench.options import BenchOptions
from qwenops.hardware import detect_machine


def test_options_are_read_as_they_were_written() -> None:
    options = BenchOptions(
        rate=0.05, users=None, duration_s=0.5, slo="ttft p95 < 2s", folder=Path("a") / "b", cache="bust", warmup=0
    )
    data = json.loads(json.dumps(options_data(options)))
    assert options_of({"options": data}) == options
    assert options_of({"options": {**data, "colour": "blue"}}) == options


def test_machines_that_may_be_compared_have_equal_fingerprints() -> None:
    machine = detect_machine()
    same = replace(machine, memory=replace(machine.memory, available_bytes=1))
    other = replace(machine, processor=replace(machine.processor, model="another"))
    assert machine_data(same)["fingerprint"] == machine_data(machine)["fingerprint"]
    assert machine_data(other)["fingerprint"] != machine_data(machine)["fingerprint"]
    json.dumps(machine_data(machine))


def test_what_was_asked_has_one_name_in_whatever_order_it_ended() -> None:
    asked = [(0, "a"), (1, "b"), (2, "a")]
    names = set()
    for order in itertools.permutations(asked):
        name = Fingerprint()
        for index, prompt_hash in order:
            name.add(index, prompt_hash)
        names.add(str(name))
    assert len(names) == 1
    swapped = Fingerprint()
    for index, prompt_hash in ((0, "b"), (1, "a"), (2, "a")):
        swapped.add(index, prompt_hash)
    assert str(swapped) not in names


def test_versions_name_this_program_and_python() -> None:
    assert {"qwenops", "python", "numpy"} <= versions().keys()
