"""The reference pages are those that the code gives."""

import pytest

from tools.generate_reference import PAGES, commands, main


def test_the_reference_is_in_step_with_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--check"])
    assert code == 0, capsys.readouterr().out + "\nRun `make reference`."


def test_every_command_is_in_the_reference() -> None:
    page = PAGES["reference/cli.md"]()
    assert all(f"## `{path}`\n" in page for path, _ in commands())
