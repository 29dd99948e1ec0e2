import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="checkpoints hold torch's tensors, which come with the train extra")

from qwenops.classify.train import checkpoint as checkpoints  # noqa: E402 -- after the skip
from qwenops.classify.train.checkpoint import Standing, fingerprint_of, load, save  # noqa: E402 -- after the skip
from qwenops.errors import InsufficientDiskError, RunFolderError  # noqa: E402 -- after the skip

pytestmark = pytest.mark.reference

STANDING = Standing(
    epoch=1,
    batch=3,
    step=9,
    loss_sum=0.1 + 0.2,
    best_epoch=1,
    best_macro_f1=1 / 3,
    best_nll=0.7,
    history=[{"epoch": 0, "loss": None, "macro_f1": 0.2, "accuracy": 0.3, "nll": 1.4}],
)
TENSORS = {"now/a": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), "mean/a": torch.zeros(3, 4)}


def saved(run: Path, standing: Standing = STANDING) -> None:
    save(run, fingerprint="f", standing=standing, decided={"precision": "f32"}, tensors=TENSORS)


def test_everything_comes_back_bit_by_bit(tmp_path: Path) -> None:
    saved(tmp_path)
    found = load(tmp_path, "f")
    assert found is not None
    assert found.standing == STANDING
    assert found.decided == {"precision": "f32"}
    assert set(found.tensors) == set(TENSORS)
    assert all(torch.equal(found.tensors[name], each) for name, each in TENSORS.items())


def test_a_fresh_place_comes_back_with_its_infinity(tmp_path: Path) -> None:
    saved(tmp_path, Standing())
    found = load(tmp_path, "f")
    assert found is not None
    assert found.standing == Standing()


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert load(tmp_path, "f") is None
    assert load(tmp_path / "nowhere", "f") is None


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(RunFolderError, match="its data or its model are others") as caught:
        load(tmp_path, "g")
    assert "--restart" in caught.value.hint


@pytest.mark.parametrize("damage", ["tensors", "state", "format"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    saved(tmp_path)
    folder = tmp_path / checkpoints.FOLDER
    if damage == "tensors":
        raw = bytearray((folder / checkpoints.TENSORS).read_bytes())
        raw[-1] ^= 1
        (folder / checkpoints.TENSORS).write_bytes(raw)
    elif damage == "state":
        (folder / checkpoints.STATE).write_text("{")
    else:
        state = json.loads((folder / checkpoints.STATE).read_text())
        (folder / checkpoints.STATE).write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(RunFolderError):
        load(tmp_path, "f")


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)

    def full(_path: Path, _tensors: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "write_tensors", full)
        with pytest.raises(InsufficientDiskError):
            saved(tmp_path, replace(STANDING, step=10))
    found = load(tmp_path, "f")
    assert found is not None
    assert found.standing.step == 9
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.FOLDER]


def test_a_crash_while_writing_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "file_sha256", lambda _path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, replace(STANDING, step=10))
    found = load(tmp_path, "f")
    assert found is not None
    assert found.standing.step == 9


def test_fingerprints_know_every_fact() -> None:
    facts = {"options": {"rank": 16}, "train": "a"}
    assert fingerprint_of(facts) == fingerprint_of(dict(reversed(facts.items())))
    assert fingerprint_of(facts) != fingerprint_of({**facts, "train": "b"})
