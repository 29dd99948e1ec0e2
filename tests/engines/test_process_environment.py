import asyncio
from pathlib import Path

import pytest

from qwenops.engines import process as processes
from qwenops.engines.process import WorkerProcess
from qwenops.hardware import Machine, detect_machine
from tests.hardware.trees import processor, write_tree

AMX = "avx2 fma avx512f avx512bw avx512dq avx512vl avx512_bf16 amx_tile amx_bf16 amx_int8"


def with_amx(root: Path) -> Machine:
    write_tree(root, processor(4, flags=AMX))
    return detect_machine(root, affinity=lambda: {0, 1, 2, 3}, environ={})


@pytest.mark.parametrize(("threads", "limited"), [(1, True), (2, False), (0, False)])
async def test_one_thread_on_amx_starts_its_process_without_amx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, *, limited: bool
) -> None:
    machine = with_amx(tmp_path)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(processes, "detect_machine", lambda: machine)
    process = WorkerProcess(lambda _parts: None)
    try:
        await process.start(threads=threads)
        environment = await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_bytes)
    finally:
        await process.end(grace_s=0)
    assert (b"ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in environment) is limited
