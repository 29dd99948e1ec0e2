from pathlib import Path

import pytest

from qwenops.engines.process import count_oom_kills
from qwenops.engines.worker import RestartPolicy

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
V1 = "31 24 0:27 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        (
            {
                "proc/self/mountinfo": V2,
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.events": "low 0\noom 5\noom_kill 3\n",
                "proc/vmstat": "oom_kill 100\n",
            },
            3,
        ),
        (
            {
                "proc/self/mountinfo": V1,
                "proc/self/cgroup": "3:cpu:/x\n5:memory:/a\n",
                "sys/fs/cgroup/memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            },
            2,
        ),
        ({"proc/vmstat": "pgpgin 1\noom_kill 6\n"}, 6),
        ({}, 0),
    ],
)
def test_killings_for_lack_of_memory_are_counted_wherever_the_kernel_counts_them(
    tmp_path: Path, files: dict[str, str], count: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert count_oom_kills(tmp_path) == count


def test_the_wait_before_a_restart_doubles_up_to_its_limit() -> None:
    policy = RestartPolicy(first_delay_s=1, longest_delay_s=10)
    assert [policy.delay_s(deaths, 0.0) for deaths in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert policy.delay_s(1, 1.0) == 0.75
