import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from qwenops.bench.collect import kernel

PROC = Path("/proc")


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_process_is_read_as_psutil_reads_it() -> None:
    mine, other = kernel.read_process(PROC, os.getpid()), psutil.Process()
    assert mine is not None
    times = other.cpu_times()
    assert (mine.pid, mine.parent, mine.threads) == (os.getpid(), os.getppid(), other.num_threads())
    assert mine.cpu_s == pytest.approx(times.user + times.system, abs=0.1)
    assert mine.rss_bytes == pytest.approx(other.memory_info().rss, rel=0.05)
    assert kernel.count_descriptors(PROC, os.getpid()) == pytest.approx(other.num_fds(), abs=1)
    assert (kernel.read_pss_bytes(PROC, os.getpid()) or 0) == pytest.approx(other.memory_full_info().pss, rel=0.1)
    assert (kernel.read_peak_bytes(PROC, os.getpid()) or 0) >= mine.rss_bytes * 0.9


def test_a_name_with_brackets_and_blanks_is_a_name(tmp_path: Path) -> None:
    fields = ["S", "1", *["0"] * 20]
    fields[11:13], fields[17], fields[19], fields[21:] = ["100", "50"], "3", "999", ["20", "0"]
    rest = " ".join(fields)
    found = kernel.read_process(tree(tmp_path, {"5/stat": f"5 (a) b (c) {rest}"}), 5)
    assert found is not None
    assert (found.name, found.parent, found.threads, found.began_ticks) == ("a) b (c", 1, 3, 999)
    assert found.cpu_s == pytest.approx(150 * kernel.TICK_S)
    assert found.rss_bytes == 20 * kernel.PAGE_BYTES


def test_the_children_of_children_belong_to_the_tree() -> None:
    argv = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with subprocess.Popen([sys.executable, "-c", argv]) as child:
        try:
            found, processes = frozenset[int](), kernel.read_processes(PROC)
            deadline_s = time.monotonic() + 20
            while len(found) < 2 and time.monotonic() < deadline_s:
                time.sleep(0.02)
                processes = kernel.read_processes(PROC)
                found = kernel.tree_of([child.pid], processes)
            assert len(found) == 2
            assert child.pid in found
            assert kernel.tree_of([2**22 + 1], processes) == frozenset()
        finally:
            for each in psutil.Process(child.pid).children():
                each.kill()
            child.kill()


def test_cpu_times_are_those_of_psutil() -> None:
    mine, other = kernel.read_cpu_times(PROC), psutil.cpu_times()
    assert mine is not None
    assert mine[0].idle_s == pytest.approx(other.idle, abs=1)
    assert mine[0].steal_s == pytest.approx(other.steal, abs=1)
    assert mine[0].user_s == pytest.approx(other.user + other.nice, abs=1)
    assert len(mine[1]) == psutil.cpu_count()


def test_pressure_paging_and_memory_are_read(tmp_path: Path) -> None:
    proc = tree(
        tmp_path,
        {
            "pressure/memory": "some avg10=1.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.0 total=1000000\n",
            "vmstat": "pgpgin 10\npgpgout 20\npswpin 2\npswpout 0\nnr_free_pages 7\n",
            "meminfo": "MemTotal:  100 kB\nMemAvailable:  60 kB\nSwapTotal: 8 kB\nSwapFree: 3 kB\n",
        },
    )
    assert kernel.read_pressure(proc / "pressure/memory") == {"some": 2.5, "full": 1.0}
    assert kernel.read_paging(proc) == {
        "pgpgin": 10240,
        "pgpgout": 20480,
        "pswpin": 2 * kernel.PAGE_BYTES,
        "pswpout": 0,
    }
    assert kernel.read_memory(proc)["SwapFree"] == 3072


def test_frequency_heat_and_throttling_are_read(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "cpu/cpu0/cpufreq/scaling_cur_freq": "2000000",
            "cpu/cpu1/cpufreq/scaling_cur_freq": "3000000",
            "cpu/cpu0/thermal_throttle/core_throttle_count": "4",
            "cpu/cpu1/thermal_throttle/package_throttle_count": "5",
            "thermal/thermal_zone0/type": "acpitz",
            "thermal/thermal_zone0/temp": "99000",
            "thermal/thermal_zone1/type": "x86_pkg_temp",
            "thermal/thermal_zone1/temp": "61500",
        },
    )
    assert kernel.read_frequency_hz(root / "cpu") == 2.5e9
    assert kernel.count_thermal_throttles(root / "cpu") == 9
    assert kernel.read_temperature_c(root / "thermal") == 61.5


def test_what_is_not_there_is_none_and_no_error(tmp_path: Path) -> None:
    assert kernel.read_cpu_times(tmp_path) is None
    assert kernel.read_process(tmp_path, 1) is None
    assert kernel.read_processes(tmp_path / "nothing") == {}
    assert kernel.read_pressure(tmp_path / "cpu") is None
    assert kernel.read_disk_bytes(tmp_path, 1) is None
    assert kernel.count_descriptors(tmp_path, 1) is None
    assert kernel.count_switches(tmp_path, 1) is None
    assert kernel.read_pss_bytes(tmp_path, 1) is None
    assert kernel.read_frequency_hz(tmp_path) is None
    assert kernel.count_thermal_throttles(tmp_path) is None
    assert kernel.read_temperature_c(tmp_path) is None
    assert kernel.read_memory(tmp_path) == {}
    assert kernel.read_paging(tmp_path) == {}


MIB = 1 << 20


def test_what_a_process_allocates_is_its_own_and_what_it_maps_from_a_file_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * (32 * MIB))
    looked = f"import mmap; f = open({str(file)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, access=1); sum(m[::4096])"
    own, resident = {}, {}
    for name, code in {"idle": "", "mapped": looked, "allocated": f"held = b'x' * {32 * MIB}"}.items():
        with subprocess.Popen(
            [sys.executable, "-c", f"{code}\nprint(flush=True)\ninput()"], stdin=-1, stdout=-1
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            own[name] = kernel.read_own_bytes(PROC, child.pid) or 0
            found = kernel.read_process(PROC, child.pid)
            assert found is not None
            resident[name] = found.rss_bytes
            child.kill()
    assert resident["mapped"] - resident["idle"] > 30 * MIB
    assert own["mapped"] - own["idle"] < 4 * MIB
    assert own["allocated"] - own["idle"] > 30 * MIB
    assert kernel.read_own_bytes(tmp_path, 1) is None
