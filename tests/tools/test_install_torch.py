"""Installing torch: its size is said first, and a CUDA build without a GPU is warned of."""

import http.server
import importlib.metadata
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools import install_torch
from tools.install_torch import cuda_warning, has_nvidia_gpu, planned, size_of, summary


class _Index(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(404 if self.path == "/gone" else 200)
        if self.path == "/torch.whl":
            self.send_header("Content-Length", str(200 * 2**20))
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(206 if self.path == "/ranged.whl" else 404)
        if self.path == "/ranged.whl":
            self.send_header("Content-Range", f"bytes 0-0/{3 * 2**20}")
            self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(b"x" if self.path == "/ranged.whl" else b"")

    def log_message(self, *_args: object) -> None:
        """Stay silent."""


@pytest.fixture
def index() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def report(*items: tuple[str, str, str]) -> dict[str, Any]:
    """Build what `pip install --dry-run --report` writes, as far as it is read."""
    return {
        "install": [
            {"download_info": {"url": url}, "metadata": {"name": name, "version": version}}
            for name, version, url in items
        ]
    }


def test_sizes_come_from_the_index_and_an_unknown_one_stays_unknown(index: str, tmp_path: Path) -> None:
    local = tmp_path / "sympy.whl"
    local.write_bytes(b"x" * 2**20)
    downloads = planned(
        report(
            ("torch", "2.13.0", f"{index}/torch.whl"),
            ("sympy", "1.14", local.as_uri()),
            ("numpy", "2.4", f"{index}/numpy.whl"),
            ("jinja2", "3.1", f"{index}/gone"),
            ("filelock", "4.0", f"{index}/ranged.whl"),
        ),
        size_of,
    )
    assert [each.num_bytes for each in downloads] == [200 * 2**20, 2**20, None, None, 3 * 2**20]
    assert (
        summary(downloads) == "torch==2.13.0 brings 5 packages: 204 MiB to download, and numpy, jinja2 of unknown size."
    )
    assert summary(downloads[2:4]) == "torch==2.13.0 brings 2 packages; the size of the download is unknown."


def test_a_cuda_build_without_a_gpu_is_warned_of_with_the_way_to_the_cpu_build(tmp_path: Path) -> None:
    cuda = planned(
        report(
            ("torch", "2.13.0+cu130", "/gone"),
            ("nvidia-cublas", "13.1", "/gone"),
            ("triton", "3.7", "/gone"),
            ("numpy", "2.4", "/gone"),
        ),
        size_of,
    )
    assert "3 of these packages" in cuda_warning(cuda, has_gpu=False)
    assert "TORCH_INDEX=" in cuda_warning(cuda, has_gpu=False)
    assert cuda_warning(cuda, has_gpu=True) == ""
    assert cuda_warning(planned(report(("torch", "2.13.0+cpu", "/gone")), size_of), has_gpu=False) == ""
    assert not has_nvidia_gpu(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert has_nvidia_gpu(tmp_path)


def test_nothing_is_said_when_the_version_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "2.13.0+cpu")
    assert install_torch.main([]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_an_index_that_does_not_have_it_fails_with_pips_own_words(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], index: str
) -> None:
    monkeypatch.setattr(install_torch, "REQUIREMENT", "torch==0.0.0.1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert install_torch.main(["--index", f"{index}/gone", "--dry-run"]) == 1
    assert "pip failed" in capfd.readouterr().err


def test_a_local_wheel_whose_name_is_escaped_in_its_address_tells_its_size(tmp_path: Path) -> None:
    wheel = tmp_path / "torch-2.13.0+cpu-py3-none-any.whl"
    wheel.write_bytes(b"12345")
    assert install_torch.size_of(f"file://{str(wheel).replace('+', '%2B')}") == 5
