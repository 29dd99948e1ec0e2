import os
import shutil
from pathlib import Path

import pytest

from qwenops.command import Finished, run

SCRIPT = Path(__file__).parents[2] / "tools" / "install_infra.sh"
PROGRAMS = ("curl", "taskset", "unshare")
PACKAGES = "curl util-linux"


class Place:
    """A folder of programs that is all the script can see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bash", "sort", "mktemp", "rm", "cat", "chmod"):
            self.folder.joinpath(name).symlink_to(shutil.which(name) or name)
        self.program("id", "echo 0")
        self.program("google-chrome", ":")
        self.program("fc-list", "echo Noto Sans CJK SC")

    def program(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def install(self) -> Finished:
        return run(["bash", SCRIPT], timeout_s=30, env={"PATH": str(self.folder)}, ok_codes=None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "bin").mkdir()
    return Place(tmp_path / "bin")


def brings(place: Place, names: tuple[str, ...]) -> str:
    """Write an `apt-get` that notes how it is called and brings programs."""
    made = "".join(
        f'cat "{place.folder}/id" > "{place.folder}/{name}"; chmod +x "{place.folder}/{name}"; ' for name in names
    )
    return f'echo "$@" >> "{place.folder}/calls"; {made}:'


def test_nothing_is_done_when_all_programs_are_here(place: Place) -> None:
    for name in PROGRAMS:
        place.program(name, ":")
    finished = place.install()
    assert (finished.returncode, finished.stdout) == (0, "All programs of the infrastructure tests are here.\n")


def test_missing_programs_are_installed_without_recommendations(place: Place) -> None:
    place.program("apt-get", brings(place, PROGRAMS))
    finished = place.install()
    assert (finished.returncode, finished.stdout) == (0, f"Installing {PACKAGES} ...\nDone.\n")
    assert (place.folder / "calls").read_text() == f"install --yes --quiet=2 --no-install-recommends {PACKAGES}\n"


def test_old_lists_of_packages_are_fetched_once(place: Place) -> None:
    place.program(
        "apt-get",
        f'if [ "$1" = update ]; then : > "{place.folder}/fresh"; exit 0; fi\n'
        f'[ -e "{place.folder}/fresh" ] || exit 100\n{brings(place, PROGRAMS)}',
    )
    assert place.install().returncode == 0


def test_a_failure_of_apt_is_shown(place: Place) -> None:
    place.program("apt-get", "echo 'E: no such package'; exit 100")
    finished = place.install()
    assert finished.returncode == 1
    assert "E: no such package" in finished.stderr


def test_without_root_it_says_what_to_do(place: Place) -> None:
    place.program("apt-get", ":")
    place.program("id", "echo 1000")
    finished = place.install()
    assert finished.returncode == 1
    assert finished.stderr == f"install_infra: installing {PACKAGES} needs root. Run: sudo make infra\n"


def test_without_apt_it_names_the_packages(place: Place) -> None:
    finished = place.install()
    assert finished.returncode == 1
    assert f"Install these packages by your system's own means: {PACKAGES}" in finished.stderr


def test_a_package_that_does_not_bring_the_program_is_noticed(place: Place) -> None:
    place.program("apt-get", brings(place, ("curl", "taskset")))
    finished = place.install()
    assert finished.returncode == 1
    assert "unshare is still missing after installing util-linux" in finished.stderr


def test_a_browser_and_chinese_fonts_are_brought_where_there_are_none(place: Place) -> None:
    for name in PROGRAMS:
        place.program(name, ":")
    (place.folder / "google-chrome").unlink()
    place.program("fc-list", ":")
    place.program("apt-get", brings(place, ("chromium", "fc-list")))
    finished = place.install()
    assert (finished.returncode, finished.stdout) == (0, "Installing chromium fontconfig fonts-noto-cjk ...\nDone.\n")


def test_a_package_that_brings_no_fonts_is_noticed(place: Place) -> None:
    for name in PROGRAMS:
        place.program(name, ":")
    place.program("fc-list", ":")
    place.program("apt-get", ":")
    finished = place.install()
    assert finished.returncode == 1
    assert "no Chinese fonts after installing fonts-noto-cjk" in finished.stderr


def test_the_makefile_calls_it() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert "tools/install_infra.sh" in (SCRIPT.parents[1] / "Makefile").read_text()
