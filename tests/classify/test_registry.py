import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from qwenops.classify.registry import CANDIDATE, CHAMPION, RECORD, Registry, describe, diff, trained_on
from qwenops.errors import ConfigError, InsufficientDiskError, ModelLoadError, ModelNotFoundError
from tests.classify.artefacts import write_artefact


def ticking() -> Iterator[datetime]:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    while True:
        at += timedelta(seconds=1)
        yield at


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(root=tmp_path / "registry", now=ticking().__next__)


def filled(registry: Registry, tmp_path: Path, count: int) -> list[str]:
    """Register versions that differ and return their folders' names."""
    keys = []
    for number in range(count):
        folder = write_artefact(tmp_path / f"made-{number}", note=f"version {number}")
        keys.append(registry.register("complaints", folder, by="ops").key)
    return keys


def test_an_artefact_becomes_the_next_version_and_the_candidate(registry: Registry, tmp_path: Path) -> None:
    folder = write_artefact(tmp_path / "made")
    found = registry.register("complaints", folder, by="ops")
    assert found.version == 1
    assert found.ref == f"complaints@1-{found.sha256[:12]}"
    assert found.folder == registry.root / "complaints" / f"0001-{found.sha256[:12]}"
    assert (found.folder / "adapter" / "weights.bin").read_bytes() == bytes(range(256))
    assert registry.pointed("complaints", CANDIDATE) == found.key
    assert registry.pointed("complaints") == ""
    assert registry.find("complaints@candidate") == registry.open("complaints@1") == found
    assert found.num_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_same_content_stays_one_version_and_other_content_is_another(registry: Registry, tmp_path: Path) -> None:
    one = registry.register("complaints", write_artefact(tmp_path / "a"), by="ops")
    same = registry.register("complaints", write_artefact(tmp_path / "b"), by="ops")
    other = registry.register("complaints", write_artefact(tmp_path / "c", note="new"), by="ops")
    assert same == one
    assert other.version == 2
    assert registry.keys("complaints") == (one.key, other.key)
    again = registry.register("complaints", one.folder, by="ops")
    assert again == one, "a copy out of the registry is the same artefact"


def test_one_changed_byte_anywhere_is_refused(registry: Registry, tmp_path: Path) -> None:
    found = registry.register("complaints", write_artefact(tmp_path / "made"), by="ops")
    files = sorted(path for path in found.folder.rglob("*") if path.is_file())
    assert {path.name for path in files} >= {RECORD, "weights.bin", "taxonomy.yaml", "manifest.json"}
    for path in files:
        raw = path.read_bytes()
        path.chmod(0o644)
        for place in {0, len(raw) // 2, len(raw) - 1}:
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            with pytest.raises(ModelLoadError, match="damaged"):
                registry.open("complaints@1")
            with pytest.raises(ModelLoadError, match="damaged"):
                registry.promote("complaints", by="ops")
        path.write_bytes(raw)
    registry.open("complaints@1")


def test_a_file_that_is_gone_or_came_or_leads_elsewhere_is_refused(registry: Registry, tmp_path: Path) -> None:
    found = registry.register("complaints", write_artefact(tmp_path / "made"), by="ops")
    extra = found.folder / "extra.json"
    extra.write_text("{}")
    with pytest.raises(ModelLoadError, match=r"extra\.json does not belong"):
        registry.open("complaints@1")
    extra.unlink()
    weights = found.folder / "adapter" / "weights.bin"
    weights.rename(tmp_path / "weights.bin")
    with pytest.raises(ModelLoadError, match="missing"):
        registry.open("complaints@1")
    weights.symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        registry.open("complaints@1")


def test_a_version_that_is_put_under_another_name_is_refused(registry: Registry, tmp_path: Path) -> None:
    one, _ = filled(registry, tmp_path, 2)
    folder = registry.root / "complaints"
    (folder / one).rename(folder / f"0009-{one.partition('-')[2]}")
    with pytest.raises(ModelLoadError, match="not the one that it was named by"):
        registry.open("complaints@9")


def test_promote_and_rollback_move_the_champion_and_remember(registry: Registry, tmp_path: Path) -> None:
    one, two, three = filled(registry, tmp_path, 3)
    assert registry.promote("complaints", by="a").new == three, "the candidate, where nobody says which"
    registry.promote("complaints@1", by="b")
    change = registry.promote("complaints@2", by="c")
    assert (change.old, change.new, change.by) == (one, two, "c")
    assert registry.promote("complaints@2", by="d").old == two, "to promote it again changes nothing"
    assert registry.rollback("complaints", by="e").new == one
    assert registry.rollback("complaints", by="f").new == three
    with pytest.raises(ConfigError, match="nothing before"):
        registry.rollback("complaints", by="g")
    assert registry.pointed("complaints", CANDIDATE) == three
    moves = [(each.action, each.by) for each in registry.aliases("complaints").changes if each.alias == CHAMPION]
    assert moves == [*(("promoted", who) for who in "abc"), ("rolled_back", "e"), ("rolled_back", "f")]


def test_rollback_refuses_a_version_that_is_damaged_and_stays_where_it_is(registry: Registry, tmp_path: Path) -> None:
    one, two = filled(registry, tmp_path, 2)
    registry.promote("complaints@1", by="ops")
    registry.promote("complaints@2", by="ops")
    weights = registry.root / "complaints" / one / "adapter" / "weights.bin"
    weights.chmod(0o644)
    weights.write_bytes(b"other")
    with pytest.raises(ModelLoadError, match=r"weights\.bin is not what was registered"):
        registry.rollback("complaints", by="ops")
    assert registry.pointed("complaints") == two


PROMOTER = """
import sys
from pathlib import Path
from qwenops.classify.registry import Registry
from qwenops.errors import ConfigError

registry = Registry(root=Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    try:
        if sys.argv[2] == "rollback":
            registry.rollback("complaints", by="back")
        else:
            registry.promote(f"complaints@{number % 3 + 1}", by=sys.argv[2])
    except ConfigError:
        pass
"""


@pytest.mark.slow
def test_promotions_and_rollbacks_at_the_same_time_are_one_after_the_other(registry: Registry, tmp_path: Path) -> None:
    keys = filled(registry, tmp_path, 3)
    processes = [
        subprocess.Popen([sys.executable, "-c", PROMOTER, str(registry.root), who, "12"])
        for who in ("one", "two", "rollback", "three")
    ]
    seen: set[str] = set()
    while any(process.poll() is None for process in processes):
        seen.add(registry.pointed("complaints"))  # a reader needs no lock and never sees half a file
    assert [process.returncode for process in processes] == [0] * 4
    assert seen <= {"", *keys}
    aliases = registry.aliases("complaints")
    moves = [each for each in aliases.changes if each.alias == CHAMPION]
    assert len(moves) > 10
    assert all(after.old == before.new for before, after in pairwise(moves)), "none was lost"
    stack: list[str] = []
    for each in moves:
        if each.action == "rolled_back":
            stack.pop()
            assert stack[-1] == each.new
        else:
            stack.append(each.new)
    assert (*aliases.pointers[CHAMPION].before, aliases.pointers[CHAMPION].now) == tuple(stack)


def test_those_who_register_at_the_same_time_get_versions_of_their_own(registry: Registry, tmp_path: Path) -> None:
    folders = [write_artefact(tmp_path / f"made-{n}", note=str(n)) for n in range(6)]
    versions: list[int] = []
    threads = [
        threading.Thread(target=lambda f=folder: versions.append(registry.register("c", f, by="ops").version))
        for folder in folders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_leaves_the_registry_as_it_was(registry: Registry, tmp_path: Path) -> None:
    (key,) = filled(registry, tmp_path, 1)
    large = write_artefact(tmp_path / "large", note="x")
    (large / "model.bin").write_bytes(os.urandom(200_000))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        with pytest.raises(InsufficientDiskError):
            registry.register("complaints", large, by="ops")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert registry.keys("complaints") == (key,)
    assert registry.pointed("complaints", CANDIDATE) == key
    assert registry.register("complaints", large, by="ops").version == 2


def test_what_a_crash_left_behind_goes_with_the_next_version(registry: Registry, tmp_path: Path) -> None:
    filled(registry, tmp_path, 1)
    left = registry.root / "complaints" / ".0002-abcdefabcdef.xyz.tmp"
    left.mkdir()
    (left / "model.bin").write_bytes(b"half")
    filled(registry, tmp_path, 2)
    assert not left.exists()


@pytest.mark.parametrize(
    ("ref", "error", "said"),
    [
        ("nobody", ModelNotFoundError, "There are: complaints"),
        ("complaint", ModelNotFoundError, "complaints"),
        ("complaints@7", ModelNotFoundError, "Versions: 1"),
        ("complaints", ModelNotFoundError, "aliases: candidate"),
        ("complaints@1-ffff", ModelNotFoundError, "Versions: 1"),
        ("../complaints", ConfigError, "lower-case"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    registry: Registry, tmp_path: Path, ref: str, error: type[ConfigError], said: str
) -> None:
    filled(registry, tmp_path, 1)
    with pytest.raises(error) as caught:
        registry.find(ref)
    assert said in caught.value.hint


def test_an_artefact_is_found_by_version_and_by_the_beginning_of_its_hash(registry: Registry, tmp_path: Path) -> None:
    _, two = filled(registry, tmp_path, 2)
    found = registry.find("complaints@2")
    assert found.key == two
    assert registry.find(f"complaints@2-{found.sha256[:4]}") == registry.find(found.ref) == found
    assert registry.find(f"complaints@{two}") == found


def test_a_damaged_file_of_aliases_is_said_and_not_taken_for_an_empty_one(registry: Registry, tmp_path: Path) -> None:
    filled(registry, tmp_path, 1)
    path = registry.root / "complaints" / "aliases.json"
    for text in ("{", "[]", '{"schema": "other"}', json.dumps({"schema": "qwenops.aliases/1"})):
        path.write_text(text)
        with pytest.raises(ModelLoadError, match=r"aliases\.json is damaged"):
            registry.pointed("complaints")


def test_diff_says_in_what_two_versions_differ(registry: Registry, tmp_path: Path) -> None:
    one = registry.register("c", write_artefact(tmp_path / "a", note="old"), by="ops")
    folder = write_artefact(tmp_path / "b", note="new", temperature=2.0)
    (folder / "adapter" / "weights.bin").write_bytes(b"other")
    two = registry.register("c", folder, by="ops")
    found = {each.where: (each.old, each.new) for each in diff(one, two)}
    assert found["manifest.json: note"] == ("old", "new")
    assert found["calibration.json: scaling.value"] == (1.0, 2.0)
    assert set(found) == {"manifest.json: note", "calibration.json: scaling.value", "adapter/weights.bin"}
    assert diff(one, one) == []


def test_the_hashes_of_what_it_was_trained_on_are_known(registry: Registry, tmp_path: Path) -> None:
    found = registry.register("c", write_artefact(tmp_path / "a", data="b" * 64), by="ops")
    assert trained_on(found) == {"b" * 64}
    assert describe(found)["manifest.json"]["data"] == {"sources": {"calls.jsonl": "b" * 64}}


def test_an_empty_folder_is_no_artefact(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no artefact"):
        registry.register("c", tmp_path / "empty", by="ops")
