"""Models come from a hub whole and verified, whatever happens on the way."""

import asyncio
import hashlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.web import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenops.errors import (
    DownloadError,
    InsufficientDiskError,
    IntegrityError,
    ModelLoadError,
    ModelNotFoundError,
    QwenOpsError,
    UnsupportedModelError,
)
from qwenops.models.download import is_public
from qwenops.models.hub import HubOptions, with_environment
from qwenops.models.progress import Progress
from qwenops.models.spec import TINY, Scheme
from qwenops.models.store import Store
from qwenops.models.tokenizer import open_tokenizer
from tests.models.fake_hub import COMMIT, FakeHub, Fault

NAME = "qwen3:0.6b"
REPO = "Qwen/Qwen3-0.6B"
WEIGHTS = "model.safetensors"


def model_files(seed: int = 0, size_bytes: int = 300_000) -> dict[str, bytes]:
    return {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "LICENSE": b"Apache-2.0\n",
        "README.md": b"# A model\n",
        "config.json": json.dumps(TINY.to_config(dtype="bfloat16")).encode(),
        "merges.txt": b"a b\n",
        "tokenizer.json": json.dumps({"seed": seed}).encode(),
        "chat_template.jinja": b"",
        WEIGHTS: random.Random(seed).randbytes(size_bytes),
        "pytorch_model.bin": b"\x80\x04 pickle",
        "onnx/model.safetensors": b"elsewhere",
    }


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub(repos={REPO: model_files()}).running() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(root=tmp_path / "models", environ={})


def options(hub: FakeHub, **changes: Any) -> HubOptions:
    usual = HubOptions(
        source="huggingface",
        huggingface_url=hub.url,
        modelscope_url=hub.url,
        retry_pause_s=0.001,
        stall_timeout_s=2.0,
    )
    return replace(usual, **changes)


def quiet(_progress: Progress) -> None:
    pass


def begin_of(request: Request) -> int:
    """Return the first byte that a request asked for."""
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def weights_of(hub: FakeHub) -> bytes:
    return hub.repos[REPO][WEIGHTS]


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
async def test_a_model_is_fetched_with_the_files_it_needs(store: Store, hub: FakeHub, source: str) -> None:
    stored = await store.pull(NAME, options(hub, source=source), quiet)
    assert sorted(path.name for path in stored.checkpoint.iterdir()) == [
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "merges.txt",
        WEIGHTS,
        "tokenizer.json",
    ]
    assert all((stored.checkpoint / name).read_bytes() == hub.repos[REPO][name] for name in stored.manifest.hashes)
    assert stored.revision == COMMIT
    assert stored.sha256 == hashlib.sha256(weights_of(hub)).hexdigest()
    assert store.verify(NAME) == store.resolve("Qwen/Qwen3-0.6B") == stored
    assert list((store.root / "incoming").iterdir()) == []


async def test_a_second_pull_fetches_no_file(store: Store, hub: FakeHub) -> None:
    await store.pull(NAME, options(hub), quiet)
    hub.requests.clear()
    await store.pull(NAME, options(hub), quiet)
    assert [each.path for each in hub.requests if "resolve" in each.path] == []


async def test_a_model_that_is_there_needs_no_network(store: Store, hub: FakeHub) -> None:
    await store.pull(NAME, options(hub), quiet)
    hub.requests.clear()
    await store.ensure(NAME, options(hub), quiet)
    assert hub.requests == []


async def test_a_long_listing_comes_in_pages(store: Store, hub: FakeHub) -> None:
    hub.page_size = 3
    stored = await store.pull(NAME, options(hub), quiet)
    assert WEIGHTS in stored.manifest.hashes


async def test_the_revision_that_was_asked_for_is_pinned(store: Store, hub: FakeHub) -> None:
    stored = await store.pull(f"hf:{REPO}@v1", options(hub), quiet)
    assert stored.revision == COMMIT
    assert all(COMMIT in each.path for each in hub.requests if "resolve" in each.path)
    with pytest.raises(ModelNotFoundError, match="at revision v9"):
        await store.pull(f"hf:{REPO}@v9", options(hub), quiet)


@pytest.mark.parametrize("prefix", ["hf", "ms"])
async def test_a_repository_that_does_not_exist_is_said_to(store: Store, hub: FakeHub, prefix: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no model some/thing"):
        await store.pull(f"{prefix}:some/thing", options(hub), quiet)


async def test_a_hub_that_names_no_whole_commit_is_asked_for_the_branch(store: Store, hub: FakeHub) -> None:
    hub.short_commit_only = True
    stored = await store.pull(f"ms:{REPO}", options(hub), quiet)
    assert stored.revision == COMMIT[:8]
    assert all("/resolve/master/" in each.path for each in hub.requests if "resolve" in each.path)


async def test_a_download_that_is_cut_goes_on_where_it_stopped(store: Store, hub: FakeHub) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=100_000), Fault(cut_after=50_000)]
    stored = await store.pull(NAME, options(hub), quiet)
    assert (stored.checkpoint / WEIGHTS).read_bytes() == weights_of(hub)
    asked = hub.asked(f"{REPO}/{WEIGHTS}")
    assert begin_of(asked[0]) == 0
    assert begin_of(asked[1]) >= 65_536
    assert begin_of(asked[2]) > begin_of(asked[1])


async def test_what_arrived_before_a_failure_is_kept_for_the_next_run(store: Store, hub: FakeHub) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=200_000), *[Fault(status=503)] * 4]
    with pytest.raises(DownloadError, match="5 tries: HTTP status 503"):
        await store.pull(NAME, options(hub), quiet)
    with pytest.raises(ModelNotFoundError):
        store.resolve(NAME)
    hub.requests.clear()
    await store.pull(NAME, options(hub), quiet)
    assert begin_of(hub.asked(f"{REPO}/{WEIGHTS}")[-1]) >= 100_000
    store.verify(NAME)


async def test_another_hub_completes_what_the_first_began(store: Store, hub: FakeHub) -> None:
    seen: list[str] = []
    hub.faults[WEIGHTS] = [Fault(cut_after=200_000), *[Fault(status=500)] * 4]
    stored = await store.pull(NAME, options(hub, source="auto"), lambda progress: seen.append(progress.what))
    assert stored.manifest.hub == "ms"
    assert any("Trying the next hub" in each for each in seen)
    assert (stored.checkpoint / WEIGHTS).read_bytes() == weights_of(hub)
    assert "Range" in hub.asked(f"{REPO}/{WEIGHTS}")[-1].headers


async def test_a_hub_that_cannot_be_reached_is_passed_over(store: Store, hub: FakeHub) -> None:
    unreachable = options(hub, source="auto", huggingface_url="http://127.0.0.1:9")
    stored = await store.pull(NAME, unreachable, quiet)
    assert stored.manifest.hub == "ms"


@pytest.mark.usefixtures("unresolved")
async def test_hubs_whose_names_do_not_resolve_are_left_soon_and_named_together(store: Store) -> None:
    offline = HubOptions(
        huggingface_url="https://one.invalid", modelscope_url="https://two.invalid", retry_pause_s=0.001
    )
    seen: list[str] = []
    with pytest.raises(DownloadError, match=r"\(one\.invalid, two\.invalid\): the name two\.invalid cannot") as caught:
        await store.pull(NAME, offline, lambda progress: seen.append(progress.what))
    assert [each.partition(":")[0] for each in seen if "Trying again" in each] == ["one.invalid", "two.invalid"]
    assert all(each in caught.value.hint for each in (f"pull {NAME}", "QWENOPS_HUB_HUGGINGFACE_URL", "random:0.6b"))


async def test_one_hub_that_refuses_is_not_called_unreachable(store: Store, hub: FakeHub) -> None:
    hub.faults["config.json"] = [Fault(status=500)] * 5
    with pytest.raises(DownloadError, match="5 tries: HTTP status 500"):
        await store.pull(NAME, options(hub, source="auto", huggingface_url="http://127.0.0.1:9"), quiet)


@pytest.mark.proves("E1")
async def test_the_number_of_tries_is_bounded(store: Store, hub: FakeHub) -> None:
    hub.faults[WEIGHTS] = [Fault(status=500)] * 10
    with pytest.raises(DownloadError, match="5 tries"):
        await store.pull(NAME, options(hub), quiet)
    assert len(hub.faults[WEIGHTS]) == 5


async def test_a_listing_is_tried_again_too(store: Store, hub: FakeHub) -> None:
    hub.faults["listing"] = [Fault(status=502), Fault(status=429)]
    await store.pull(NAME, options(hub), quiet)


async def test_a_server_that_goes_silent_is_left(store: Store, hub: FakeHub) -> None:
    hub.faults[WEIGHTS] = [Fault(stall_after=100_000)]
    stored = await store.pull(NAME, options(hub, stall_timeout_s=0.2), quiet)
    assert (stored.checkpoint / WEIGHTS).read_bytes() == weights_of(hub)


@pytest.mark.parametrize(
    "second",
    [Fault(ignore_range=True), Fault(range_as_200=True), Fault(status=416)],
    ids=["range ignored", "range answered as 200", "range refused"],
)
async def test_odd_answers_to_a_range_are_understood(store: Store, hub: FakeHub, second: Fault) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=100_000), second]
    stored = await store.pull(NAME, options(hub), quiet)
    assert (stored.checkpoint / WEIGHTS).read_bytes() == weights_of(hub)


async def test_a_file_that_changed_in_between_is_fetched_from_its_beginning(store: Store, hub: FakeHub) -> None:
    other = random.Random(7).randbytes(len(weights_of(hub)))
    hub.faults[WEIGHTS] = [Fault(cut_after=100_000, body=other, etag='"old"')]
    stored = await store.pull(NAME, options(hub), quiet)
    assert (stored.checkpoint / WEIGHTS).read_bytes() == weights_of(hub)


async def test_pieces_that_do_not_fit_are_thrown_away_and_fetched_again(store: Store, hub: FakeHub) -> None:
    other = random.Random(7).randbytes(len(weights_of(hub)))
    honest = f'"{hashlib.sha256(weights_of(hub)).hexdigest()[:32]}"'
    hub.faults[WEIGHTS] = [Fault(cut_after=100_000, body=other, etag=honest)]
    stored = await store.pull(NAME, options(hub), quiet)
    assert (stored.checkpoint / WEIGHTS).read_bytes() == weights_of(hub)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
async def test_a_file_with_another_hash_is_refused_with_its_name(store: Store, hub: FakeHub, name: str) -> None:
    hub.faults[name] = [Fault(body=bytes(len(hub.repos[REPO][name])))]
    with pytest.raises(IntegrityError, match=name):
        await store.pull(NAME, options(hub), quiet)
    with pytest.raises(ModelNotFoundError):
        store.resolve(NAME)
    await store.pull(NAME, options(hub), quiet)
    store.verify(NAME)


async def test_a_server_that_sends_more_than_it_listed_is_refused(store: Store, hub: FakeHub) -> None:
    hub.faults[WEIGHTS] = [Fault(body=weights_of(hub) + b"more")] * 5
    with pytest.raises(DownloadError, match="another size"):
        await store.pull(NAME, options(hub), quiet)


async def test_the_token_goes_to_the_hub_and_not_to_its_cdn(
    store: Store, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.token = "hf_very-secret"
    assert hub.token not in repr(options(hub, huggingface_token=hub.token))
    seen: list[str] = []
    with pytest.raises(DownloadError, match="may not be read") as refused:
        await store.pull(NAME, options(hub), quiet)
    await store.pull(NAME, options(hub, huggingface_token=hub.token), lambda progress: seen.append(progress.what))
    assert all("Authorization" in each.headers for each in hub.requests[1:] if "/resolve/" in each.path)
    cdn = [each for each in hub.asked(WEIGHTS) if "/resolve/" not in each.path]
    assert len(cdn) == 1
    assert "Authorization" not in cdn[0].headers
    assert hub.token not in caplog.text + "".join(seen) + str(refused.value)


async def test_the_signature_of_an_address_is_not_shown(store: Store, hub: FakeHub) -> None:
    hub.faults[WEIGHTS] = [Fault(status=500)] * 5
    with pytest.raises(DownloadError) as caught:
        await store.pull(NAME, options(hub), quiet)
    assert "secret" not in str(caught.value)


def test_tokens_and_mirrors_are_read_where_the_hubs_own_tools_read_them(tmp_path: Path) -> None:
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/token").write_text("hf_file\n")
    environ = {"HF_ENDPOINT": "https://mirror.example", "MODELSCOPE_API_TOKEN": "ms", "MODELSCOPE_DOMAIN": "ms.example"}
    filled = with_environment(HubOptions(), environ, tmp_path)
    assert filled.huggingface_url == "https://mirror.example"
    assert filled.huggingface_token == "hf_file"
    assert filled.modelscope_token == "ms"
    assert filled.modelscope_url == "https://ms.example"
    chosen = with_environment(HubOptions(huggingface_url="https://own.example"), environ, tmp_path)
    assert chosen.huggingface_url == "https://own.example"


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:1/x",
        "http://[::1]:1/x",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706434:1/x",
        "http://127.2:1/x",
        "file:///etc/passwd",
    ],
)
async def test_a_public_hub_cannot_lead_into_a_private_network(tmp_path: Path, hub: FakeHub, target: str) -> None:
    def public(address: str) -> bool:
        return address == "127.0.0.1" or is_public(address)  # for this test, the hub is out on the internet

    outside = Store(root=tmp_path / "models", environ={}, public=public)
    hub.faults["config.json"] = [Fault(redirect=target)]
    with pytest.raises(DownloadError, match="which is refused"):
        await outside.pull(NAME, options(hub), quiet)


async def test_a_name_that_resolves_into_a_private_network_is_refused(tmp_path: Path, hub: FakeHub) -> None:
    calls: list[str] = []

    def public(address: str) -> bool:
        calls.append(address)
        return len(calls) == 1  # the hub itself is public, whatever `localhost` means afterwards

    outside = Store(root=tmp_path / "models", environ={}, public=public)
    local = hub.url.replace("127.0.0.1", "localhost")
    with pytest.raises(DownloadError, match="refused"):
        await outside.pull(NAME, options(hub, huggingface_url=local), quiet)


@pytest.mark.parametrize(
    "path", ["../../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json", "C:evil.json"]
)
async def test_file_names_that_leave_their_folder_are_refused(store: Store, hub: FakeHub, path: str) -> None:
    hub.extra_files = [{"type": "file", "oid": "0" * 40, "size": 4, "path": path}]
    with pytest.raises(DownloadError, match="is refused"):
        await store.pull(NAME, options(hub), quiet)


async def test_a_repository_of_pickles_is_refused(store: Store, hub: FakeHub) -> None:
    del hub.repos[REPO][WEIGHTS], hub.repos[REPO]["onnx/model.safetensors"]
    with pytest.raises(ModelLoadError, match=r"only pickles \(pytorch_model.bin\)"):
        await store.pull(NAME, options(hub), quiet)


async def test_a_model_of_another_architecture_is_refused_before_its_weights_come(store: Store, hub: FakeHub) -> None:
    hub.repos[REPO]["config.json"] = b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
    with pytest.raises(UnsupportedModelError, match="llama"):
        await store.pull(NAME, options(hub), quiet)
    assert hub.asked(WEIGHTS) == []


async def test_a_damaged_manifest_is_written_anew_and_stands_in_nobodys_way(store: Store, hub: FakeHub) -> None:
    stored = await store.pull(NAME, options(hub), quiet)
    other = await store.pull(f"ms:{REPO}", options(hub), quiet)
    (path,) = [each for each in (store.root / "manifests").iterdir() if "ms" not in each.name]
    path.write_text("{")
    with pytest.raises(ModelLoadError, match="damaged"):
        store.resolve(NAME)
    assert store.resolve(other.name) == other
    store.clean()
    hub.requests.clear()
    again = await store.ensure(NAME, options(hub), quiet)
    assert again.manifest.hashes == stored.manifest.hashes
    assert hub.asked(f"{REPO}/{WEIGHTS}") == []


async def test_an_address_that_is_no_hub_says_so(store: Store, hub: FakeHub) -> None:
    with pytest.raises(DownloadError, match="not the address of a hub"):
        await store.pull(NAME, options(hub, huggingface_url="ftp://example.org"), quiet)
    hub.faults["listing"] = [Fault(status=404)]
    with pytest.raises(ModelNotFoundError, match=REPO):
        await store.pull(NAME, options(hub), quiet)


async def test_progress_reaches_the_total(store: Store, hub: FakeHub) -> None:
    seen: list[Progress] = []
    stored = await store.pull(NAME, options(hub), seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes == stored.num_bytes
    assert seen[-1].fraction == 1.0
    assert any(each.bytes_per_s > 0 for each in seen)
    done = [each.done_bytes for each in seen if each.total_bytes]
    assert done == sorted(done)


async def test_too_little_disk_is_said_before_anything_is_fetched(
    store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage._replace(free=1000))
    with pytest.raises(InsufficientDiskError) as caught:
        await store.pull(NAME, options(hub), quiet)
    assert caught.value.needed_bytes > 300_000
    assert hub.asked(WEIGHTS) == []


async def test_a_disk_that_runs_full_loses_nothing(store: Store, hub: FakeHub) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (131_072, hard))
    try:
        with pytest.raises(InsufficientDiskError):
            await store.pull(NAME, options(hub), quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    parts = [path.stat().st_size for path in (store.root / "incoming").rglob("*.part")]
    assert max(parts) > 100_000
    await store.pull(NAME, options(hub), quiet)
    assert "Range" in hub.asked(f"{REPO}/{WEIGHTS}")[-1].headers
    store.verify(NAME)


async def test_two_pulls_in_one_process_fetch_once(store: Store, hub: FakeHub) -> None:
    hub.pause_s = 0.01
    seen: list[str] = []
    first, second = await asyncio.gather(
        store.pull(NAME, options(hub), quiet),
        store.pull(NAME, options(hub), lambda progress: seen.append(progress.what)),
    )
    assert first.manifest.hashes == second.manifest.hashes
    assert len(hub.asked(f"{REPO}/{WEIGHTS}")) == 1
    assert any("Another process" in each for each in seen)


PULLING = """
import asyncio, sys, pathlib
from qwenops.models.hub import HubOptions
from qwenops.models.store import Store
options = HubOptions(source="huggingface", huggingface_url=sys.argv[2], retry_pause_s=0.01)
store = Store(root=pathlib.Path(sys.argv[1]))
stored = asyncio.run(store.pull(sys.argv[3], options, lambda p: print(p.what, flush=True)))
print("DONE", stored.sha256)
"""


async def pulling(store: Store, hub: FakeHub, name: str = NAME) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PULLING, str(store.root), hub.url, name, stdout=asyncio.subprocess.PIPE
    )


@pytest.mark.slow
async def test_two_processes_fetch_a_model_once(store: Store, hub: FakeHub) -> None:
    hub.pause_s = 0.05
    processes = [await pulling(store, hub) for _ in range(2)]
    outputs = [(await process.communicate())[0].decode() for process in processes]
    assert all("DONE" in each for each in outputs)
    assert len(hub.asked(f"{REPO}/{WEIGHTS}")) == 1
    assert any("waiting for it" in each for each in outputs)


@pytest.mark.slow
async def test_a_pull_that_is_killed_goes_on_where_it_was(store: Store, hub: FakeHub) -> None:
    hub.repos[REPO] = model_files(size_bytes=6_000_000)
    hub.pause_s = 0.005
    process = await pulling(store, hub)
    while max([path.stat().st_size for path in store.root.rglob("*.part")], default=0) < 2_000_000:
        await asyncio.sleep(0.01)
        assert process.returncode is None
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    with pytest.raises(ModelNotFoundError):
        store.resolve(NAME)
    hub.pause_s = 0.0
    await store.pull(NAME, options(hub), quiet)
    assert begin_of(hub.asked(f"{REPO}/{WEIGHTS}")[-1]) >= 1_000_000
    store.verify(NAME)
    assert list((store.root / "incoming").iterdir()) == []


async def test_every_failure_is_one_of_ours(store: Store, hub: FakeHub) -> None:
    hub.faults["config.json"] = [Fault(status=status) for status in (301, 400, 418)]
    for _ in range(3):
        with pytest.raises(QwenOpsError):
            await store.pull(NAME, options(hub, attempts=1), quiet)


@pytest.mark.reference
@pytest.mark.slow
async def test_hugging_faces_own_client_understands_this_hub(hub: FakeHub, tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    found = await asyncio.to_thread(
        huggingface_hub.snapshot_download, REPO, endpoint=hub.url, local_dir=tmp_path, token=False
    )
    assert (Path(found) / "config.json").read_bytes() == hub.repos[REPO]["config.json"]


def faults() -> st.SearchStrategy[Fault]:
    """Return anything that may go wrong with one request for a file of 300,000 bytes."""
    places = st.integers(0, 300_000)
    return st.builds(
        Fault,
        cut_after=st.none() | places,
        status=st.none() | st.sampled_from([206, 408, 416, 429, 500, 503]),
        body=st.none() | st.sampled_from([bytes(300_000), b"", b"short", bytes(300_001)]),
        ignore_range=st.booleans(),
        range_as_200=st.booleans(),
        etag=st.none() | st.sampled_from(['"old"', 'W/"weak"', ""]),
    )


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(troubles=st.lists(faults(), max_size=6))
def test_whatever_goes_wrong_a_file_is_right_or_it_is_not_there(tmp_path: Path, troubles: list[Fault]) -> None:
    store = Store(root=tmp_path / "models", environ={})
    shutil.rmtree(store.root, ignore_errors=True)

    async def pull_twice() -> None:
        async with FakeHub(repos={REPO: model_files()}).running() as hub:
            hub.faults[WEIGHTS] = troubles
            try:
                await store.pull(NAME, options(hub), quiet)
            except QwenOpsError:
                with pytest.raises(ModelNotFoundError):
                    store.resolve(NAME)
            hub.faults[WEIGHTS] = []
            await store.pull(NAME, options(hub), quiet)
            store.verify(NAME)

    asyncio.run(pull_twice())


@pytest.mark.slow
async def test_a_true_model_is_pulled_converted_and_its_tokenizer_opened(
    store: Store, hub: FakeHub, tiny_checkpoint: Path
) -> None:
    hub.repos["some/tiny"] = contents_of(tiny_checkpoint)
    stored = await store.pull("ms:some/tiny", options(hub), quiet)
    artefact = await asyncio.to_thread(store.artefact, stored, Scheme.INT8, lambda _fraction, _what: None)
    assert artefact.sha256 == stored.sha256
    assert open_tokenizer(artefact.folder).eos_token_ids == open_tokenizer(tiny_checkpoint).eos_token_ids
