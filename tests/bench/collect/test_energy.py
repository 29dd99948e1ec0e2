from pathlib import Path

import pytest

from qwenops.bench.collect.energy import open_meter, spent

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


def test_what_idling_would_have_taken_is_taken_off() -> None:
    energy = spent({"package": 10.0, "dram": 1.0}, {"package": 70.0, "dram": 6.0}, 5.0, idle_watts=4.0)
    assert (energy.joules, energy.idle_joules, energy.active_joules) == (65.0, 20.0, 45.0)
    unknown = spent({"package": 10.0}, {"package": 70.0}, 5.0, idle_watts=None)
    assert (unknown.joules, unknown.active_joules) == (60.0, None)


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
