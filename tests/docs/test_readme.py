"""The commands of both READMEs, run as they stand.

Two substitutions, as no model hub can be reached from a test: `qwen3:0.6b` becomes `random:0.6b`, and port 8000 a free
one. `make test` is what runs this file, so it is only asked for its plan.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh-CN.md")
MODEL = "random:0.6b"
START_TIMEOUT_S = 300.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def commands(readme: str) -> list[str]:
    """Return the commands of all shell blocks, joined over continued lines, without comments."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*$", "", line).strip() for line in lines if line.strip()]


def shell(command: str, environ: dict[str, str], timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S602 -- README commands are shell commands
        command, shell=True, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The user's environment with a home of its own: no keys, no settings, and a store that goes at the end."""
    home = tmp_path_factory.mktemp("home")
    users = {name: value for name, value in os.environ.items() if not name.startswith("QWENOPS_")}
    yield users | {"QWENOPS_HOME": str(home), "XDG_CONFIG_HOME": str(home), "LANG": "C.UTF-8"}
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def served(environ: dict[str, str]) -> Iterator[str]:
    """The README's `serve`, on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = next(each for each in commands("README.md") if " serve " in each)
    argv = [*command.replace("qwen3:0.6b", MODEL).split(), "--port", str(port)]
    with subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_ready(url, server)
            yield url
        finally:
            server.terminate()
            assert server.wait(60) == 0


def wait_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stderr.read() if server.stderr else ""
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310 -- loopback
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.3)
    pytest.fail(f"not ready within {START_TIMEOUT_S} s")


def test_both_readmes_give_the_same_commands() -> None:
    english, chinese = (commands(readme) for readme in READMES)
    assert english == chinese


def test_no_command_of_the_readme_is_left_untried() -> None:
    tried = re.compile(
        r"make (demo|test)|\.venv/bin/qwenops (doctor|serve qwen3:0\.6b|bench quick http://127\.0\.0\.1:8000|"
        r"classify april\.csv --classifier complaints --out april\.xlsx --review)|"
        r"curl http://127\.0\.0\.1:8000/.*"
    )
    assert [each for each in commands("README.md") if not tried.fullmatch(each)] == []


@pytest.fixture(scope="module")
def story(environ: dict[str, str]) -> Iterator[Path]:
    """Run `make demo` as it stands; yield the folder of its story, which goes at the end."""
    done = shell("make demo", environ, timeout_s=580)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = [ROOT / page for page in re.findall(r"^Report: (.*\.html)$", done.stdout, re.MULTILINE)]
    assert len(pages) == 2
    assert all(page.is_file() for page in pages)
    folder = next(parent for parent in pages[0].parents if (parent / "home").is_dir())
    yield folder
    shutil.rmtree(folder)


@pytest.mark.proves("A3")
def test_make_demo_runs_and_leaves_nothing_running(story: Path, environ: dict[str, str]) -> None:
    assert (story / "new" / "filed.xlsx").is_file()
    own = environ | {"QWENOPS_HOME": str(story / "home")}
    assert json.loads(shell(".venv/bin/qwenops ps --json", own).stdout)["servers"] == []


def test_a_table_is_classified_as_the_readme_says(story: Path, environ: dict[str, str], tmp_path: Path) -> None:
    rows = ["通话编号,通话内容", "c-1,客服：您好。客户：宽带断了三天了。", "c-2,客户：账单里这个会员我从来没点过。"]
    (tmp_path / "april.csv").write_text("\n".join(rows) + "\n", "utf-8")
    command = next(each for each in commands("README.md") if " classify " in each)
    here = command.replace("april.", f"{tmp_path}/april.") + " --json"
    done = shell(here, environ | {"QWENOPS_HOME": str(story / "home")})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classified"] == 2
    assert (tmp_path / "april.xlsx").is_file()


def test_make_test_has_a_plan(environ: dict[str, str]) -> None:
    assert "pytest" in shell("make -n test", environ).stdout


def test_doctor_says_what_this_machine_can_do(environ: dict[str, str]) -> None:
    done = shell(".venv/bin/qwenops doctor", environ)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.infra
def test_the_served_model_answers_the_readmes_curl(request: pytest.FixtureRequest, environ: dict[str, str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here; `make infra` installs it")
    served = request.getfixturevalue("served")
    for command in commands("README.md"):
        if command.startswith("curl"):
            here = command.replace("http://127.0.0.1:8000", served).replace("qwen3:0.6b", MODEL)
            answer = json.loads(shell(here.replace("curl ", "curl -sS --max-time 120 ", 1), environ).stdout)
            assert answer["choices"][0]["message"]["content"]


def test_the_served_model_is_measured_as_the_readme_says(served: str, environ: dict[str, str], tmp_path: Path) -> None:
    command = next(each for each in commands("README.md") if " bench " in each)
    here = command.replace("http://127.0.0.1:8000", f"{served} --max-tokens 16 --json --runs {tmp_path}")
    done = shell(here, environ)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["outcome"] == "done"
    assert Path(told["report"]).is_file()
