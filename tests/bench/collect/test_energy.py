from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.collect.energy import consumption, open_meter
from qwenops.bench.record import NS_PER_S, Failure, Phase, RequestRecord

RANGE_UJ = 262_143_328_850


def zone(root: Path, name: str, label: str, energy_uj: int) -> Path:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    return folder / "energy_uj"


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, Path]:
    """Return the counters of a machine with two sockets, as the kernel lays them out."""
    return {
        "package-0": zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000),
        "core": zone(tmp_path, "intel-rapl:0:0", "core", 5),
        "dram": zone(tmp_path, "intel-rapl:0:1", "dram", 10_000_000),
        "package-1": zone(tmp_path, "intel-rapl:1", "package-1", 2_000_000),
        "psys": zone(tmp_path, "intel-rapl:2", "psys", 77),
        "again": zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000),
    }


def test_packages_and_memory_are_counted_once_from_the_opening(tmp_path: Path, machine: dict[str, Path]) -> None:
    meter = open_meter(tmp_path)
    assert meter.reason is None
    assert meter.read_j() == {"package": 0.0, "dram": 0.0}
    machine["package-0"].write_text("4000000")
    machine["package-1"].write_text("7000000")
    machine["dram"].write_text("10500000")
    for name in ("core", "psys", "again"):
        machine[name].write_text("99000000")
    assert meter.read_j() == {"package": 8.0, "dram": 0.5}


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path, machine: dict[str, Path]) -> None:
    machine["package-0"].write_text(str(RANGE_UJ - 1_000_000))
    meter = open_meter(tmp_path)
    machine["package-0"].write_text("2000000")
    assert meter.read_j()["package"] == pytest.approx(3.0)
    machine["package-0"].write_text("1000000")  # once more around
    assert meter.read_j()["package"] == pytest.approx(3.0 + RANGE_UJ / 1e6 - 1.0)


def test_a_counter_that_cannot_be_read_for_a_moment_loses_nothing(tmp_path: Path, machine: dict[str, Path]) -> None:
    meter = open_meter(tmp_path)
    machine["dram"].unlink()
    assert meter.read_j()["dram"] == 0.0
    machine["dram"].write_text("12000000")
    assert meter.read_j()["dram"] == 2.0


def sample(second: int, package_j: float) -> dict[str, Any]:
    return {"at_ns": second * NS_PER_S, "energy_j": {"package": package_j, "dram": 0.0}}


def answer(from_s: float, to_s: float, tokens: int = 10, failure: Failure | None = None) -> RequestRecord:
    return RequestRecord(
        index=0,
        segment="load",
        phase=Phase.MEASURE,
        item="",
        prompt_hash="",
        scheduled_ns=round(from_s * NS_PER_S),
        ended_ns=round(to_s * NS_PER_S),
        completion_tokens=tokens,
        failure=failure,
    )


def test_what_answers_took_is_told_apart_from_idling() -> None:
    # 5 W for ten idle seconds, 25 W for four busy ones, 5 W again; two answers overlap within the four seconds.
    power_w = [5] * 10 + [25] * 4 + [5] * 6
    host = [sample(second, float(sum(power_w[:second]))) for second in range(len(power_w) + 1)]
    used = consumption(host, [answer(10.2, 13.0), answer(12.5, 13.9, failure=Failure.CUT)])
    assert used is not None
    assert (used.joules, used.idle_watts, used.active_joules) == (100.0, 5.0, 80.0)
    assert (used.joules_per_token, used.joules_per_request) == (10.0, 100.0)


def test_without_idle_time_nothing_is_taken_off() -> None:
    host = [sample(second, 10.0 * second) for second in range(11)]
    used = consumption(host, [answer(0.0, 10.0, tokens=0)])
    assert used is not None
    assert (used.joules, used.idle_watts, used.active_joules, used.joules_per_token) == (100.0, None, None, None)


def test_a_meter_that_was_opened_anew_takes_nothing_back() -> None:
    host = [sample(0, 0.0), sample(1, 10.0), sample(2, 2.0), sample(3, 12.0)]
    used = consumption(host, [answer(0.0, 3.0)])
    assert used is not None
    assert used.joules == 20.0


def test_samples_without_energy_have_none() -> None:
    assert consumption([{"at_ns": 1}, {"at_ns": 2}], [answer(0, 1)]) is None
    assert consumption([], []) is None


class TestUnavailable:
    def test_a_machine_without_powercap(self, tmp_path: Path) -> None:
        meter = open_meter(tmp_path)
        assert "no /sys/class/powercap" in str(meter.reason)
        assert meter.read_j() == {}

    def test_a_machine_whose_powercap_counts_no_package(self, tmp_path: Path) -> None:
        zone(tmp_path, "intel-rapl:0", "psys", 1)
        assert "no zone of a package" in str(open_meter(tmp_path).reason)

    def test_counters_that_this_user_may_not_read(self, tmp_path: Path, machine: dict[str, Path]) -> None:
        for file in machine.values():
            file.unlink()
            file.mkdir()  # cannot be read, also not by root
        assert "may not read" in str(open_meter(tmp_path).reason)
