"""Waiting between tries, and what is said about addresses."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from qwenops.errors import DownloadError
from qwenops.models.download import LONGEST_PAUSE_S, Web, open_web, shown
from qwenops.models.hub import HubOptions, RemoteFile
from tests.models.fake_hub import FakeHub, Fault

REPO = "a/b"


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub(repos={REPO: {"config.json": b"{}"}}).running() as running:
        yield running


@pytest.fixture
async def web(hub: FakeHub) -> AsyncIterator[Web]:
    async with open_web(hub.url, {}, HubOptions(retry_pause_s=1.0, attempts=9), environ={}) as opened:
        yield opened


class Naps(list[float]):
    """Pauses that are noted and not made."""

    async def __call__(self, pause_s: float) -> None:
        self.append(pause_s)


def config(hub: FakeHub) -> RemoteFile:
    return RemoteFile(path="config.json", size_bytes=2, url=f"{hub.url}/{REPO}/resolve/main/config.json")


async def test_pauses_double_with_jitter_up_to_a_limit(hub: FakeHub, web: Web, tmp_path: Path) -> None:
    naps = web.sleep = Naps()
    web.jitter = Random(1)
    hub.faults["config.json"] = [Fault(status=503)] * 9
    with pytest.raises(DownloadError, match="9 tries: HTTP status 503"):
        await web.fetch(config(hub), tmp_path / "part", lambda _count: None)
    assert len(naps) == 8
    for number, pause_s in enumerate(naps):
        usual_s = min(2**number, LONGEST_PAUSE_S)
        assert 0.5 * usual_s <= pause_s <= 1.5 * usual_s
    assert len({round(pause_s / 2**number, 6) for number, pause_s in enumerate(naps[:5])}) == 5


async def test_a_server_that_asks_for_time_gets_it_within_reason(hub: FakeHub, web: Web, tmp_path: Path) -> None:
    naps = web.sleep = Naps()
    said: list[str] = []
    web.tell = said.append
    asked = ("12", "99999", "Fri, 31 Dec 1999 23:59:59 GMT")
    hub.faults["config.json"] = [Fault(status=429, retry_after=each) for each in asked]
    await web.fetch(config(hub), tmp_path / "part", lambda _count: None)
    assert naps[0] == 12
    assert said[0].endswith("HTTP status 429. Trying again in 12 s")
    assert len(said) == 3
    assert naps[1] == LONGEST_PAUSE_S
    assert naps[2] <= 6


async def test_a_refusal_is_not_tried_again(hub: FakeHub, web: Web, tmp_path: Path) -> None:
    naps = web.sleep = Naps()
    for status in (400, 401, 403, 404):
        hub.faults["config.json"] = [Fault(status=status)]
        with pytest.raises(DownloadError):
            await web.fetch(config(hub), tmp_path / "part", lambda _count: None)
    assert naps == []


@pytest.mark.usefixtures("unresolved")
async def test_a_hub_that_has_answered_gets_every_try_when_a_name_does_not_resolve(
    hub: FakeHub, web: Web, tmp_path: Path
) -> None:
    web.sleep = Naps()
    hub.faults["config.json"] = [Fault(redirect="http://cdn.invalid/x")] * 9
    with pytest.raises(DownloadError, match=r"9 tries: the name cdn\.invalid cannot be resolved"):
        await web.fetch(config(hub), tmp_path / "part", lambda _count: None)
    assert web.unreachable is None


async def test_redirects_in_circles_and_to_nowhere_end(hub: FakeHub, web: Web, tmp_path: Path) -> None:
    hub.faults["config.json"] = [Fault(redirect=config(hub).url)] * 20
    with pytest.raises(DownloadError, match="in circles"):
        await web.fetch(config(hub), tmp_path / "part", lambda _count: None)
    hub.faults["config.json"] = [Fault(status=301)]
    with pytest.raises(DownloadError, match="nowhere"):
        await web.fetch(config(hub), tmp_path / "part", lambda _count: None)


async def test_an_empty_file_is_a_file(hub: FakeHub, web: Web, tmp_path: Path) -> None:
    hub.repos[REPO]["empty.txt"] = b""
    empty = RemoteFile(path="empty.txt", size_bytes=0, url=f"{hub.url}/{REPO}/resolve/main/empty.txt")
    await web.fetch(empty, tmp_path / "part", lambda _count: None)
    assert (tmp_path / "part").read_bytes() == b""


def test_addresses_are_shown_without_what_is_secret_in_them() -> None:
    assert shown("https://user:pass@cdn.example/a/b?Signature=x&token=y") == "https://cdn.example/a/b"
