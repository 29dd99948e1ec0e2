"""What a model is called by those who call the server, and which revision it says it is."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from qwenops.cli.opening import served_name
from qwenops.cli.serve import Opening
from qwenops.cli.terminal import Terminal
from qwenops.config import load
from qwenops.engines.resilient import ResilientEngine
from qwenops.errors import ModelNotServedError
from qwenops.models.manifest import read_manifest, save_manifest
from qwenops.models.names import parse_name
from qwenops.models.store import Store
from qwenops.serve.serving import ServedModel


def test_a_folder_is_called_by_its_own_name_and_other_models_by_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert served_name(str(tmp_path / "mine")) == "mine"
    assert served_name("./mine/") == "mine"
    assert served_name("mine") == "mine"
    assert served_name(".") == tmp_path.name
    assert served_name("./gone") == "gone"
    assert served_name("Qwen/Qwen3-0.6B") == "qwen3:0.6b"
    assert served_name("hf:owner/name@main") == "hf:owner/name@main"
    assert served_name("random:none") == "random:none"


@asynccontextmanager
async def opened(home: Path, wanted: str, **environ: str) -> AsyncIterator[ServedModel]:
    """Open a model as `serve` does, with the fake engine."""
    environ |= {"QWENOPS_HOME": str(home), "QWENOPS_MODEL_ENGINE": "fake"}
    opening = Opening(
        wanted=wanted,
        made=load(environ=environ, cwd=home, user_config=home),
        terminal=Terminal(environ=environ, verbosity=-1),
        report=lambda _fraction, _doing, _detail="": None,
    )
    served = await opening.open(lambda _phase, _fraction, _doing: None)
    assert isinstance(served.engine, ResilientEngine)
    try:
        await served.engine.ready()
        yield served
    finally:
        await served.engine.aclose()


@pytest.mark.slow
async def test_the_path_of_a_folder_stays_here_and_is_understood_all_the_same(
    stocked_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(Store(root=stocked_home / "models").resolve("random:tiny").checkpoint, folder)
    async with opened(stocked_home, str(folder)) as served:
        assert served.engine.info.model == "mine"
        assert served.known_as(str(folder)) == served.known_as("mine") == "mine"
        with pytest.raises(ModelNotServedError) as caught:
            served.known_as("other")
        assert str(tmp_path) not in caught.value.hint


@pytest.mark.slow
async def test_the_settings_may_give_another_name_which_a_fallback_does_not_take(
    stocked_home: Path, tmp_path: Path
) -> None:
    async with opened(stocked_home, "random:tiny", QWENOPS_ENGINE_MODEL_NAME="desk") as served:
        assert served.engine.info.model == "desk"
        assert served.known_as("random:tiny") == "desk"
    environ = {"QWENOPS_ENGINE_MODEL_NAME": "desk", "QWENOPS_MODEL_FALLBACK": "random:tiny"}
    async with opened(stocked_home, str(tmp_path / "gone"), **environ) as served:
        info = served.engine.info
        assert (info.model, info.fallback_for) == ("random:tiny", "desk")
        assert served.known_as(str(tmp_path / "gone")) == "desk"


@pytest.mark.slow
async def test_the_revision_of_the_manifest_is_the_one_of_the_served_model(stocked_home: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(stocked_home, tmp_path / "home", symlinks=True))
    path = Store(root=home / "models").places.manifest(parse_name("random:tiny").key)
    manifest = read_manifest(path)
    assert manifest is not None
    save_manifest(path, replace(manifest, revision="c0ffee"))
    async with opened(home, "random:tiny") as served:
        assert served.revision == "c0ffee"
