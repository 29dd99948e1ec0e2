"""The commands that look at files of this machine: models, keys, configuration, doctor."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from qwenops.config import all_options
from qwenops.models.names import parse_name
from qwenops.serve.runfile import run_folder, this_process, write_run_file
from tests.cli.conftest import Run


@pytest.mark.slow
def test_models_are_pulled_listed_shown_and_removed(qwenops: Run) -> None:
    assert json.loads(qwenops("list", "--json").out)["models"] == []
    assert "qwenops pull" in qwenops("list").err
    pulled = qwenops("pull", "random:tiny", "--json")
    assert pulled.code == 0, pulled.err
    assert json.loads(pulled.out)["model"]["name"] == "random:tiny"
    assert "random:tiny" in qwenops("list").out
    shown = qwenops("show", "random:tiny", "--verify")
    assert shown.code == 0, shown.err
    assert "SHA-256" in shown.out
    assert "int8" in shown.out
    data = json.loads(qwenops("show", "random:tiny", "--json").out)
    assert data["schema"] == "qwenops.model/1"
    assert data["model"]["shape"]["layers"] == 2
    asked = qwenops("rm", "random:tiny")
    assert asked.code == 2
    assert "--yes" in asked.err
    removed = qwenops("rm", "random:tiny", "--yes", "--json")
    assert json.loads(removed.out)["freed_bytes"] > 10 * 2**20
    assert qwenops("show", "random:tiny").code == 4
    assert qwenops("rm", "random:tiny", "--yes").code == 4


def test_a_model_of_no_known_name_is_refused_with_the_nearest(qwenops: Run) -> None:
    ran = qwenops("pull", "qwen3:0.6")
    assert ran.code == 4
    assert "qwen3:0.6b" in ran.err


def test_a_model_that_is_not_there_is_said_to_before_anything_else(qwenops: Run) -> None:
    ran = qwenops("rm", "qwen3:0.6b")
    assert ran.code == 4
    assert ran.err.startswith("Error: qwen3:0.6b is not in the store.")


@pytest.mark.parametrize("spelling", ["qwen3:0.6b", "Qwen/Qwen3-0.6B"])
def test_a_model_that_is_served_is_removed_by_force_only(qwenops: Run, home: Path, spelling: str) -> None:
    folder = home / "models" / "incoming" / parse_name("qwen3:0.6b").key
    folder.mkdir(parents=True)
    server = this_process(url="http://127.0.0.1:8123", model=spelling, engine="fake", name="mine")
    write_run_file(run_folder({"QWENOPS_HOME": str(home)}), server)
    refused = qwenops("rm", "qwen3:0.6b", "--yes")
    assert refused.code == 2
    assert "8123" in refused.err
    assert str(os.getpid()) in refused.err
    assert folder.is_dir()
    assert qwenops("rm", "qwen3:0.6b", "--yes", "--force").code == 0
    assert not folder.exists()


def test_the_first_key_says_what_it_changes_and_the_second_does_not(qwenops: Run) -> None:
    sentence = "from now on every request needs one"
    assert sentence in qwenops("keys", "create", "one").err
    assert sentence not in qwenops("keys", "create", "two").err


def test_keys_are_created_listed_and_revoked_and_their_secret_is_shown_once(qwenops: Run, home: Path) -> None:
    made = qwenops("keys", "create", "callcentre", "--expires", "90d", "--requests-per-min", "30")
    secret = made.out.strip()
    assert secret.startswith("qo-")
    assert secret not in (home / "keys.sqlite").read_bytes().decode("latin-1")
    listed = qwenops("keys", "list", "--json")
    (key,) = json.loads(listed.out)["keys"]
    assert (key["name"], key["scopes"], key["limits"]["requests_per_min"]) == ("callcentre", ["inference"], 30)
    assert key["expires"] > key["created"]
    assert secret not in listed.out + qwenops("keys", "list").out
    assert qwenops("keys", "create", "callcentre").code == 2
    assert qwenops("keys", "revoke", "callcentre").code == 0
    assert "revoked" in qwenops("keys", "list").out
    assert qwenops("keys", "revoke", "callcentre").code == 2


def test_config_show_says_where_each_value_came_from(qwenops: Run, tmp_path: Path) -> None:
    (tmp_path / "here" / "qwenops.toml").write_text("[serve]\nport = 9001\n", "utf-8")
    ran = qwenops("config", "show", "--json", QWENOPS_SERVE_HOST="::1")
    options = json.loads(ran.out)["options"]
    assert options["serve.port"] == {"value": 9001, "origin": "file", "where": str(Path.cwd() / "qwenops.toml")}
    assert options["serve.host"] == {"value": "::1", "origin": "environment", "where": "QWENOPS_SERVE_HOST"}
    assert options["engine.threads"]["origin"] == "default"
    assert set(options) == {each.key for each in all_options()}
    table = qwenops("--lang", "zh", "config", "show").out
    assert "文件" in table
    assert "默认值" in table


def test_config_never_prints_a_secret(qwenops: Run) -> None:
    environ = {"QWENOPS_HUB_HUGGINGFACE_TOKEN": "hush-hush"}
    for argv in (["config", "show"], ["config", "show", "--json"], ["config", "check"]):
        ran = qwenops(*argv, **environ)
        assert ran.code == 0
        assert "hush" not in ran.out + ran.err


def test_config_check_finds_what_is_wrong_and_what_was_meant(qwenops: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("[serve]\nport = 9001\n", "utf-8")
    bad.write_text("[serve]\nprot = 9001\n", "utf-8")
    assert json.loads(qwenops("config", "check", good, "--json").out)["set"] == ["serve.port"]
    wrong = qwenops("config", "check", bad)
    assert wrong.code == 2
    assert "serve.port" in wrong.err
    assert qwenops("--config", bad, "config", "show").code == 2
    assert qwenops("config", "check", tmp_path / "none.toml").code == 2


def leaves(table: dict[str, Any]) -> list[Any]:
    return [leaf for value in table.values() for leaf in (leaves(value) if isinstance(value, dict) else [value])]


def test_config_init_writes_a_file_that_changes_nothing_and_never_replaces_one_unasked(qwenops: Run) -> None:
    assert qwenops("config", "init").code == 0
    assert not leaves(tomllib.loads(Path("qwenops.toml").read_text("utf-8")))
    assert qwenops("config", "check").code == 0
    refused = qwenops("config", "init")
    assert refused.code == 2
    assert "--force" in refused.err
    assert qwenops("config", "init", "--force").code == 0


def test_config_schema_is_json(qwenops: Run) -> None:
    assert json.loads(qwenops("config", "schema").out)["properties"]["serve"]["properties"]["port"]["maximum"] == 65535


@pytest.mark.slow
def test_doctor_prints_findings_in_both_languages_and_as_json(qwenops: Run) -> None:
    english = qwenops("doctor", "--fast", "--port", "0")
    assert english.code == 0, english.out
    assert "Memory" in english.out
    chinese = qwenops("--lang", "zh", "doctor", "--fast", "--port", "0")
    assert "内存" in chinese.out
    data = json.loads(qwenops("doctor", "--fast", "--port", "0", "--json").out)
    assert data["schema"] == "qwenops.doctor/1"
    assert {"name", "status", "what", "todo"} <= set(data["checks"][0])
