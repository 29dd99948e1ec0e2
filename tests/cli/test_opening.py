"""What `serve` opens and reads again: a fallback must have the same tokens, and changed options are all named."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from qwenops.cli.serve import Opening, changed_elsewhere, greet, known_model
from qwenops.cli.terminal import Terminal
from qwenops.config import Settings, load
from qwenops.errors import ConfigError, ModelNotFoundError


def nothing(_fraction: float, _doing: str, _detail: str = "", /) -> None:
    """Listen to nothing."""


def settings_of(folder: Path, text: str) -> Settings:
    file = folder / "qwenops.toml"
    file.write_text(text, "utf-8")
    return load(environ={}, file=file, cwd=folder, user_config=folder)


@pytest.mark.slow
async def test_a_model_takes_the_place_of_another_only_if_its_tokens_mean_the_same(
    stocked_home: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    same, other = (Path(shutil.copytree(tiny_checkpoint, tmp_path / name)) for name in ("same", "other"))
    tokenizer = json.loads((same / "tokenizer.json").read_text("utf-8"))
    (same / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1), "utf-8")
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["Ġthe"], vocabulary["Ġa"] = vocabulary["Ġa"], vocabulary["Ġthe"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    made = settings_of(tmp_path, "[model]\nengine = 'fake'\n")
    terminal = Terminal(environ={"QWENOPS_HOME": str(stocked_home)}, verbosity=-1)
    opening = Opening(wanted="random:tiny", made=made, terminal=terminal, report=nothing)
    served = await opening.open(lambda _phase, _fraction, _doing: None)
    try:
        engine = await opening._open_one(str(same), made.engine)
        await engine.aclose()
        with pytest.raises(ConfigError, match=r"tokens of .*/other are not those"):
            await opening._open_one(str(other), made.engine)
    finally:
        await served.engine.aclose()


def test_options_outside_the_servers_section_that_changed_are_named_without_their_secrets(tmp_path: Path) -> None:
    before = settings_of(tmp_path, "[serve]\nport = 1\n[model]\nname = 'one'\n[hub]\nhuggingface_token = 'hf_old'\n")
    after = settings_of(
        tmp_path,
        "[serve]\nport = 2\n[model]\nname = 'two'\n[engine]\nmax_running = 4\n[hub]\nhuggingface_token = 'hf_new'\n",
    )
    found = {each.key: (each.old, each.new) for each in changed_elsewhere(before, after)}
    assert found == {
        "model.name": ("one", "two"),
        "engine.max_running": (16, 4),
        "hub.huggingface_token": ("***", "***"),
    }
    assert not any(each.live for each in changed_elsewhere(before, after))
    overridden = changed_elsewhere(before, after, but=("model.name",))
    assert "model.name" not in {each.key for each in overridden}
    assert changed_elsewhere(before, before) == ()


def test_a_name_that_means_nothing_is_refused_unless_a_fallback_can_serve(tmp_path: Path) -> None:
    terminal = Terminal(environ={"QWENOPS_HOME": str(tmp_path)})
    alone = settings_of(tmp_path, "")
    assert known_model("Qwen/Qwen3-0.6B", terminal, alone) == "qwen3:0.6b"
    with pytest.raises(ModelNotFoundError, match=r"qwen3:0\.7b"):
        known_model("qwen3:0.7b", terminal, alone)
    fallback = settings_of(tmp_path, "[model]\nfallback = 'random:tiny'\n")
    assert known_model("qwen3:0.7b", terminal, fallback) == "qwen3:0.7b"


def test_the_request_that_is_shown_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    greet(Terminal(environ={}, language="zh"), "http://127.0.0.1:8000")
    (command,) = re.findall(r"curl .*\n.*", capsys.readouterr().err)
    words = shlex.split(command)
    assert words[1] == "http://127.0.0.1:8000/v1/chat/completions"
    assert json.loads(words[words.index("-d") + 1])["messages"][0]["content"] == "你是谁？"
