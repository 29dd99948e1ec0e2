"""Run command lines in this process, as the door does, with a home of their own."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwenops.cli.door import run
from qwenops.models.hub import HubOptions
from qwenops.models.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command line left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def qwenops(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs `qwenops ...` with an environment of nothing but what is given."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*argv: str, **environ: str) -> Ran:
        base = {"QWENOPS_HOME": str(home), "XDG_CONFIG_HOME": str(home), "LANG": "C.UTF-8"}
        code = run([str(word) for word in argv], base | environ)
        out, err = capfd.readouterr()
        return Ran(code=code, out=out, err=err)

    return call


@pytest.fixture(scope="session")
def stocked_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose store has `random:tiny`; its servers and keys are shared by the tests that use it."""
    folder = tmp_path_factory.mktemp("stocked")
    store = Store(root=folder / "models")
    asyncio.run(store.pull("random:tiny", HubOptions(), lambda _progress: None))
    return folder
