"""What is in the store stays whole, is shared, is found by its name, and goes when nobody needs it."""

import asyncio
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from qwenops.errors import DeadlineError, IntegrityError, ModelLoadError, ModelNotFoundError, UnsupportedModelError
from qwenops.models.convert import convert
from qwenops.models.hub import HubOptions
from qwenops.models.locks import held, held_if_free
from qwenops.models.manifest import Manifest, StoredFile, read_manifest, save_manifest
from qwenops.models.names import parse_name
from qwenops.models.progress import Progress
from qwenops.models.spec import Scheme
from qwenops.models.store import Store, default_root

NO_HUB = HubOptions(huggingface_url="http://127.0.0.1:9", modelscope_url="http://127.0.0.1:9", retry_pause_s=0.0)


def quiet(_progress: Progress) -> None:
    pass


def silent(_fraction: float, _what: str) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(root=tmp_path / "models", environ={})


def test_the_store_lies_where_the_environment_says(tmp_path: Path) -> None:
    assert default_root({"QWENOPS_HOME": str(tmp_path)}) == tmp_path / "models"
    assert default_root({}).parts[-2:] == ("qwenops", "models")


def test_a_model_that_is_not_there_says_how_to_get_it(store: Store) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        store.resolve("Qwen3-0.6B")
    assert caught.value.hint == "Run `qwenops pull qwen3:0.6b`."
    assert store.list() == ()


@pytest.mark.slow
class TestRandomModels:
    """Random weights are made once, in the store, and live like any other model."""

    async def test_they_are_made_converted_listed_and_removed(self, store: Store) -> None:
        stored = await store.ensure("random:tiny", NO_HUB, quiet)
        again = await store.pull("random:tiny", NO_HUB, quiet)
        assert again == stored == store.resolve("random:tiny")
        artefact = await asyncio.to_thread(store.artefact, stored, Scheme.INT8, silent)
        assert artefact.sha256 == stored.sha256
        assert store.artefact(stored, Scheme.INT8, silent).folder == artefact.folder
        assert [each.name for each in store.list()] == ["random:tiny"]
        shown, variants = store.show("random:tiny")
        assert (shown, [each.scheme for each in variants]) == (stored, [Scheme.INT8])
        assert variants[0].num_bytes >= artefact.num_bytes
        store.verify("random:tiny")
        freed = store.remove("random:tiny")
        assert freed >= stored.num_bytes + artefact.num_bytes
        assert store.list() == ()
        assert not artefact.folder.exists()

    async def test_a_damaged_converted_model_is_made_again(self, store: Store) -> None:
        stored = await store.pull("random:tiny", NO_HUB, quiet)
        artefact = store.artefact(stored, Scheme.BF16, silent)
        os.truncate(artefact.folder / "openvino_model.bin", 10)
        again = store.artefact(stored, Scheme.BF16, silent)
        assert (again.folder / "openvino_model.bin").stat().st_size > 10

    async def test_a_file_that_was_cut_off_is_noticed_and_repaired(self, store: Store) -> None:
        stored = await store.pull("random:tiny", NO_HUB, quiet)
        os.truncate(stored.checkpoint / "model.safetensors", 1000)
        with pytest.raises(ModelLoadError, match="cut off"):
            store.resolve("random:tiny")
        assert await store.ensure("random:tiny", NO_HUB, quiet) == store.resolve("random:tiny")

    async def test_a_killed_maker_leaves_nothing_that_stays(self, store: Store) -> None:
        program = (
            "import asyncio, pathlib, sys\n"
            "from qwenops.models.hub import HubOptions\n"
            "from qwenops.models.store import Store\n"
            "store = Store(root=pathlib.Path(sys.argv[1]))\n"
            "asyncio.run(store.pull('random:0.6b', HubOptions(), lambda p: print(p.what, flush=True)))\n"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(store.root))
        deadline_s = time.monotonic() + 60
        while not list((store.root / "checkpoints").glob(".*.tmp/*.safetensors*")):
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        assert list((store.root / "checkpoints").iterdir()) != []
        while list((store.root / "checkpoints").iterdir()):  # its child dies with it, but not in the same instant
            assert time.monotonic() < deadline_s
            store.clean()
            await asyncio.sleep(0.02)
        assert store.list() == ()

    async def test_they_are_made_in_a_child_which_tells_how_far_it_is(self, store: Store) -> None:
        program = (
            "import asyncio, pathlib, sys\n"
            "from qwenops.models.hub import HubOptions\n"
            "from qwenops.models.store import Store\n"
            "store = Store(root=pathlib.Path(sys.argv[1]))\n"
            "asyncio.run(store.pull('random:tiny', HubOptions(), lambda p: print(p.fraction, flush=True)))\n"
            "print([name for name in ('numpy', 'openvino') if name in sys.modules])\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(store.root), stdout=asyncio.subprocess.PIPE
        )
        *told, loaded = (await process.communicate())[0].decode().splitlines()
        assert loaded == "[]"
        fractions = [float(each) for each in told]
        assert fractions == sorted(fractions)
        assert fractions[0] == 0.0
        assert fractions[-1] == 1.0
        assert len(set(fractions)) > 10

    async def test_a_making_that_nobody_waits_for_ends_and_frees_the_name(self, store: Store) -> None:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def told(progress: Progress) -> None:
            if progress.done_bytes:
                loop.call_soon_threadsafe(begun.set)

        making = asyncio.create_task(store.pull("random:0.6b", NO_HUB, told))
        await asyncio.wait_for(begun.wait(), 60)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        with held_if_free(store.places.lock(parse_name("random:0.6b").key)) as free:
            assert free
        assert store.list() == ()
        assert list((store.root / "checkpoints").iterdir()) == []
        assert [child for child in psutil.Process().children() if "qwenops.models.random" in child.cmdline()] == []


@pytest.mark.slow
class TestFolders:
    """A folder outside the store is used as it lies, and never touched."""

    @pytest.fixture
    def folder(self, tiny_checkpoint: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(tiny_checkpoint, tmp_path / "mine"))

    def test_a_checkpoint_is_resolved_and_converted(self, store: Store, folder: Path) -> None:
        stored = asyncio.run(store.pull(str(folder), NO_HUB, quiet))
        assert stored.checkpoint == folder
        artefact = store.artefact(stored, Scheme.INT8, silent)
        assert store.root in artefact.folder.parents
        assert [each.name for each in store.list()] == [str(folder)]
        before = sorted(folder.iterdir())
        assert store.remove(str(folder)) >= artefact.num_bytes
        assert sorted(folder.iterdir()) == before

    def test_a_folder_without_a_configuration_is_no_model(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(UnsupportedModelError, match=r"has no config\.json"):
            store.resolve(str(tmp_path / "empty"))

    def test_a_folder_that_changed_is_another_model(self, store: Store, folder: Path) -> None:
        first = store.resolve(str(folder))
        first_artefact = store.artefact(first, Scheme.INT8, silent)
        config = folder / "generation_config.json"
        config.write_text(config.read_text("utf-8").replace("151645", "151644"), "utf-8")
        second = store.resolve(str(folder))
        assert second.manifest.fingerprint != first.manifest.fingerprint
        assert store.artefact(second, Scheme.INT8, silent).folder != first_artefact.folder
        store.clean()
        assert not first_artefact.folder.exists()

    def test_an_unchanged_folder_is_not_hashed_again(
        self, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long_after = Store(root=store.root, environ={}, wall_clock=lambda: time.time() + 100)
        stored = long_after.resolve(str(folder))
        long_after.artefact(stored, Scheme.INT8, silent)

        def refuse(path: Path) -> str:
            raise AssertionError(path)

        monkeypatch.setattr("qwenops.models.store.file_sha256", refuse)
        assert store.resolve(str(folder)) == stored

    def test_a_damaged_converted_form_is_found(self, store: Store, folder: Path) -> None:
        artefact = store.artefact(store.resolve(str(folder)), Scheme.INT8, silent)
        store.verify(str(folder))
        with (artefact.folder / "openvino_model.bin").open("r+b") as file:
            file.seek(1000)
            file.write(b"\xff\x00\xff\x00")
        with pytest.raises(IntegrityError, match=r"openvino_model\.bin"):
            store.verify(str(folder))
        assert store.show(str(folder))[1] == ()

    def test_a_converted_folder_is_used_as_it_is(self, store: Store, folder: Path, tmp_path: Path) -> None:
        converted = convert(folder, tmp_path / "converted", Scheme.INT8, silent)
        stored = store.resolve(str(converted.folder))
        assert stored.sha256 == converted.sha256
        assert store.artefact(stored, Scheme.INT8, silent).folder == converted.folder
        with pytest.raises(ModelLoadError, match="converted to int8, not to int4"):
            store.artefact(stored, Scheme.INT4, silent)

    def test_a_folder_without_a_model_is_refused(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"no config\.json"):
            store.resolve(str(tmp_path))


CONVERTING = """
import pathlib, sys
from qwenops.models.spec import Scheme
from qwenops.models.store import Store
store = Store(root=pathlib.Path(sys.argv[1]))
made = store.artefact(store.resolve(sys.argv[2]), Scheme.INT8, lambda fraction, what: print(what, flush=True))
print("DONE", made.folder)
"""


@pytest.mark.slow
async def test_two_processes_convert_a_model_once(store: Store, tiny_checkpoint: Path) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CONVERTING,
            str(store.root),
            str(tiny_checkpoint),
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    outputs = [(await process.communicate())[0].decode() for process in processes]
    assert all("DONE" in each for each in outputs)
    converted = [[each for each in said.splitlines()[:-1] if "Another process" not in each] for said in outputs]
    assert sum(map(bool, converted)) == 1


class TestShared:
    """Models share contents; removing one leaves what another needs."""

    @staticmethod
    def put(store: Store, name: str, contents: dict[str, bytes]) -> None:
        """Put a model into the store as a pull does at its end."""
        import hashlib

        from qwenops.models.names import parse_name

        key = parse_name(name).key
        incoming = store.places.incoming(key)
        incoming.mkdir(parents=True)
        files = []
        for path, content in contents.items():
            file = StoredFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            (incoming / file.blob).write_bytes(content)
            files.append(file)
        manifest = Manifest(name=name, source="hf", hub="hf", repo="a/b", revision="c", files=tuple(files))
        assert store._commit(key, manifest, incoming)

    def test_equal_files_are_kept_once_and_as_long_as_one_model_needs_them(self, store: Store) -> None:
        self.put(store, "hf:a/one", {"config.json": b"{}", "model.safetensors": b"weights 1"})
        self.put(store, "hf:a/two", {"config.json": b"{}", "model.safetensors": b"weights 2"})
        assert len(list(store.places.blobs.iterdir())) == 3
        assert store.remove("hf:a/one") >= len(b"weights 1")
        assert len(list(store.places.blobs.iterdir())) == 2
        assert (store.resolve("hf:a/two").checkpoint / "config.json").read_bytes() == b"{}"
        store.verify("hf:a/two")

    def test_damage_is_found_named_and_made_good_by_the_next_pull(self, store: Store) -> None:
        self.put(store, "hf:a/one", {"config.json": b"{}", "model.safetensors": b"weights 1"})
        (store.resolve("hf:a/one").checkpoint / "model.safetensors").resolve().write_bytes(b"weights x")
        with pytest.raises(IntegrityError, match=r"model\.safetensors") as caught:
            store.verify("hf:a/one")
        assert "qwenops pull hf:a/one" in caught.value.hint
        with pytest.raises(ModelLoadError, match="missing"):
            store.resolve("hf:a/one")

    def test_a_name_that_is_not_there_cannot_be_removed(self, store: Store) -> None:
        self.put(store, "hf:me/my-model", {"config.json": b"{}"})
        with pytest.raises(ModelNotFoundError) as caught:
            store.remove("hf:me/my-modle")
        assert "hf:me/my-model" in caught.value.hint

    def test_a_known_model_that_is_not_there_is_not_offered_as_its_own_alternative(self, store: Store) -> None:
        with pytest.raises(ModelNotFoundError, match="not in the store") as caught:
            store.remove("random:tiny")
        assert "random:tiny" not in caught.value.hint

    def test_left_overs_of_crashes_are_cleaned(self, store: Store) -> None:
        self.put(store, "hf:a/one", {"config.json": b"{}"})
        (store.places.blobs / "sha256-orphan").write_bytes(b"x")
        (store.root / "manifests" / ".half.json.123.partial").write_text("{")
        store.places.checkpoint("nobody").mkdir()
        (store.root / "artefacts" / "0000-int8-v1").mkdir(parents=True)
        (store.root / "artefacts" / ".0000-int8-v1.abc.tmp").mkdir()
        store.clean()
        assert [path.name for path in store.places.blobs.iterdir()] == [
            each.blob for each in store.resolve("hf:a/one").manifest.files
        ]
        assert [path.name for path in (store.root / "manifests").iterdir() if path.name.startswith(".")] == []
        assert not store.places.checkpoint("nobody").exists()
        assert list((store.root / "artefacts").iterdir()) == []

    def test_what_a_crash_left_between_contents_and_manifest_is_kept(self, store: Store) -> None:
        file = StoredFile(path="config.json", size_bytes=2, sha256="ab" * 32)
        incoming = store.places.incoming("some-model")
        save_manifest(incoming / "manifest.json", Manifest(name="hf:a/b", source="hf", revision="c", files=(file,)))
        store.places.blobs.mkdir(parents=True)
        (store.places.blobs / file.blob).write_bytes(b"{}")
        store.clean()
        assert (store.places.blobs / file.blob).exists()

    def test_an_old_incomplete_download_goes_and_a_fresh_one_stays(self, store: Store) -> None:
        store.places.incoming("some-model").mkdir(parents=True)
        store.clean()
        assert store.places.incoming("some-model").exists()
        later = Store(root=store.root, environ={}, wall_clock=lambda: time.time() + 15 * 24 * 3600)
        with held(store.places.lock("some-model"), lambda: None):
            later.clean()
            assert store.places.incoming("some-model").exists()
        later.clean()
        assert not store.places.incoming("some-model").exists()


class TestManifests:
    """A manifest is whole, or says that it is not."""

    def test_it_comes_back_as_it_was_written(self, tmp_path: Path) -> None:
        file = StoredFile(path="config.json", size_bytes=2, sha256="ab" * 32, git_sha1="cd" * 20)
        manifest = Manifest(name="hf:a/b", source="hf", hub="hf", repo="a/b", revision="c", files=(file,))
        save_manifest(tmp_path / "m.json", manifest)
        assert read_manifest(tmp_path / "m.json") == manifest
        assert read_manifest(tmp_path / "none.json") is None
        assert [path.name for path in tmp_path.iterdir()] == ["m.json"]

    @pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', '{"format": 1, "files": [{"x": 1}]}'])
    def test_a_damaged_one_says_what_to_do(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(ModelLoadError) as caught:
            read_manifest(tmp_path / "m.json")
        assert "pull the model again" in caught.value.hint


class TestLocks:
    """One at a time, and nobody waits for ever."""

    def test_the_second_waits_is_told_at_each_look_and_gives_up(self, tmp_path: Path) -> None:
        told: list[int] = []
        with held(tmp_path / "x.lock", lambda: None), held_if_free(tmp_path / "x.lock") as free:
            assert not free
            with (
                pytest.raises(DeadlineError, match="Another process"),
                held(tmp_path / "x.lock", lambda: told.append(1), timeout_s=0.3),
            ):
                pass
        assert 2 <= len(told) <= 5
        with held_if_free(tmp_path / "x.lock") as free:
            assert free

    def test_a_wait_ends_with_what_the_one_who_is_told_raises(self, tmp_path: Path) -> None:
        def unwanted() -> None:
            raise InterruptedError

        with held(tmp_path / "x.lock", lambda: None):
            with pytest.raises(InterruptedError), held(tmp_path / "x.lock", unwanted):
                pass
            with held_if_free(tmp_path / "x.lock") as free:
                assert not free
