"""Checkpoints as the hubs publish them: `config.json` and safetensors, one file or several shards with an index.

Files are memory-mapped, and nothing in them is executed. Everything that can be checked without reading the numbers is
checked when a checkpoint is opened: names, shapes, number formats, and that each file is as long as its header says.
"""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from qwenops.errors import ModelLoadError
from qwenops.models.spec import HEAD, ModelSpec
from qwenops.text import Text, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Dtype = Literal["BF16", "F16", "F32"]
ITEM_BYTES: dict[str, int] = {"BF16": 2, "F16": 2, "F32": 4}

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_HEADER_BYTES = 100_000_000
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
HASH_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies: file, number format, shape and byte range within the file."""

    file: str
    dtype: Dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint whose names, shapes and sizes have been checked."""

    folder: Path
    spec: ModelSpec
    config: Mapping[str, Any]
    entries: Mapping[str, TensorEntry]
    maps: Mapping[str, mmap.mmap]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the weight files, sorted."""
        return tuple(sorted(self.maps))

    @property
    def num_bytes(self) -> int:
        """The size of the weight files together."""
        return sum(len(each) for each in self.maps.values())

    def read(self, name: str, rows: slice = slice(None)) -> "NDArray[np.float32]":
        """Return some rows of a tensor as float32, copied; bf16 and f16 widen exactly."""
        return _widened(self.raw(name)[rows], self.entries[name].dtype)

    def raw(self, name: str) -> "NDArray[Any]":
        """Return a read-only view of a tensor's bits, as `uint16` or `uint32`, without copying."""
        entry = self.entries[name]
        return _bits(self.maps[entry.file], entry)

    def release(self, name: str) -> None:
        """Tell the kernel that a tensor's pages are not needed any more."""
        entry = self.entries[name]
        begin = -(-entry.begin // mmap.PAGESIZE) * mmap.PAGESIZE
        length = entry.end - begin
        if length > 0:
            self.maps[entry.file].madvise(mmap.MADV_DONTNEED, begin, length)

    def sha256(self) -> dict[str, str]:
        """Hash every file that the result depends on: the weights and the configuration."""
        return {name: file_sha256(self.folder / name) for name in (*self.files, "config.json")}


def _bits(mapped: mmap.mmap, entry: TensorEntry) -> "NDArray[Any]":
    import numpy as np

    item = ITEM_BYTES[entry.dtype]
    flat = np.frombuffer(
        mapped,
        dtype=np.uint16 if item == 2 else np.uint32,  # noqa: PLR2004 -- two bytes
        count=(entry.end - entry.begin) // item,
        offset=entry.begin,
    )
    return flat.reshape(entry.shape)


def _widened(raw: "NDArray[Any]", dtype: Dtype) -> "NDArray[np.float32]":
    """Return bits as the float32 numbers that they stand for, in new memory."""
    import numpy as np

    match dtype:
        case "BF16":
            wide = raw.astype(np.uint32)
            wide <<= 16
            return cast("NDArray[np.float32]", wide.view(np.float32))
        case "F16":
            return raw.view(np.float16).astype(np.float32)
        case "F32":
            return raw.view(np.float32).copy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """One memory-mapped safetensors file that belongs to no checkpoint, such as an adapter."""

    entries: Mapping[str, TensorEntry]
    mapped: mmap.mmap

    def read(self, name: str) -> "NDArray[np.float32]":
        """Return a tensor as float32, copied; bf16 and f16 widen exactly."""
        entry = self.entries[name]
        return _widened(_bits(self.mapped, entry), entry.dtype)


def open_tensors(path: Path) -> Tensors:
    """Open one safetensors file.

    Raises:
        ModelLoadError: The file is missing, damaged, or a pickle.
    """
    mapped = _map(path.parent, path.name)
    return Tensors(entries=_read_header(mapped, path.name), mapped=mapped)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint and check everything that can be checked without reading its numbers.

    Raises:
        ModelLoadError: A file is missing, damaged, of another architecture, or a pickle.
    """
    config = read_json(folder / "config.json")
    generation_path = folder / "generation_config.json"
    spec = ModelSpec.from_config(config, read_json(generation_path) if generation_path.exists() else None)
    weight_map = _weight_map(folder)
    entries: dict[str, TensorEntry] = {}
    maps: dict[str, mmap.mmap] = {}
    for file in sorted(set(weight_map.values()) if weight_map else {SINGLE}):
        maps[file] = _map(folder, file)
        for name, entry in _read_header(maps[file], file).items():
            if name in entries:
                raise _damaged(file, say("it repeats the tensor {name}", name=name))
            entries[name] = entry
    _check_index(weight_map, entries)
    _check_against_spec(spec, entries)
    return Checkpoint(folder=folder, spec=spec, config=config, entries=entries, maps=maps)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelLoadError: The file is missing, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError(
            say("{folder} has no {name}, so it is not a model's folder.", folder=str(path.parent), name=path.name),
            hint=say("Give the folder that holds config.json and the .safetensors files."),
        ) from None
    except (ValueError, OSError) as error:
        raise _damaged(path.name, say("it cannot be read as JSON ({error})", error=str(error))) from error
    if not isinstance(value, dict):
        raise _damaged(path.name, say("it holds no JSON object"))
    return value


def file_sha256(path: Path) -> str:
    """Hash a file without holding it in memory."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _weight_map(folder: Path) -> dict[str, str]:
    """Return tensor name to shard name; empty when there is a single file."""
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise _damaged(INDEX, say("it has no weight_map"))
        for shard in weight_map.values():
            if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise _damaged(INDEX, say("it names the file {shard!r}", shard=shard))
        return cast("dict[str, str]", weight_map)
    if (folder / SINGLE).exists():
        return {}
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise _pickle(pickles[0])
    raise ModelLoadError(
        say("{folder} holds no weights: neither {single} nor {index}.", folder=str(folder), single=SINGLE, index=INDEX),
        hint=say("Fetch the checkpoint again, in the safetensors format."),
    )


def _map(folder: Path, file: str) -> mmap.mmap:
    try:
        descriptor = os.open(folder / file, os.O_RDONLY)
    except FileNotFoundError:
        raise ModelLoadError(
            say("The checkpoint's index names {file}, which is missing in {folder}.", file=file, folder=str(folder)),
            hint=say("Fetch the missing file, or the whole model again."),
        ) from None
    try:
        if os.fstat(descriptor).st_size < struct.calcsize("<Q"):
            raise _damaged(file, say("it is shorter than a header"))
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def _read_header(mapped: mmap.mmap, file: str) -> dict[str, TensorEntry]:
    (length,) = struct.unpack("<Q", mapped[:8])
    if length > min(LARGEST_HEADER_BYTES, len(mapped) - 8):
        raise _no_header(mapped, file, say("its header says it is {length} bytes long", length=length))
    try:
        header = json.loads(mapped[8 : 8 + length])
    except ValueError as error:
        raise _no_header(mapped, file, say("its header is not JSON ({error})", error=str(error))) from error
    if not isinstance(header, dict):
        raise _damaged(file, say("its header is no JSON object"))
    entries = {name: _entry(file, name, value, 8 + length) for name, value in header.items() if name != "__metadata__"}
    _check_ranges(file, entries, 8 + length, len(mapped))
    return entries


def _entry(file: str, name: str, value: object, data_begin: int) -> TensorEntry:
    try:
        fields = cast("dict[str, Any]", value)
        dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError):
        raise _damaged(file, say("its entry for {name} is incomplete", name=name)) from None
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _damaged(file, say("its entry for {name} has impossible numbers", name=name))
    if dtype not in get_args(Dtype):
        raise ModelLoadError(
            say(
                "{file} stores {name} as {dtype}; known are {known}.",
                file=file,
                name=name,
                dtype=dtype,
                known=", ".join(get_args(Dtype)),
            ),
            hint=say("Use the original bf16 checkpoint of the model."),
        )
    count = 1
    for each in shape:
        count *= each
    if end - begin != count * ITEM_BYTES[dtype]:
        raise _damaged(file, say("its entry for {name} does not fit its shape", name=name))
    return TensorEntry(file=file, dtype=dtype, shape=tuple(shape), begin=data_begin + begin, end=data_begin + end)


def _check_ranges(file: str, entries: Mapping[str, TensorEntry], data_begin: int, size: int) -> None:
    """The tensors must cover the rest of the file, each byte once."""
    at = data_begin
    for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
        if entry.begin != at:
            raise _damaged(file, say("the tensor {name} overlaps another or leaves a gap", name=name))
        at = entry.end
    if at != size:
        raise _damaged(file, say("it has {size} bytes and its header promises {promised}", size=size, promised=at))


def _check_index(weight_map: Mapping[str, str], entries: Mapping[str, TensorEntry]) -> None:
    for name, shard in weight_map.items():
        entry = entries.get(name)
        if entry is None or entry.file != shard:
            raise _damaged(shard, say("the index places {name} in it, and it is not there", name=name))


def _check_against_spec(spec: ModelSpec, entries: Mapping[str, TensorEntry]) -> None:
    wanted = {tensor.name: tensor.shape for tensor in spec.tensors()}
    missing = [name for name in wanted if name not in entries]
    # Published checkpoints repeat a tied head; it is the embedding.
    ignored = {HEAD} if spec.tie_word_embeddings else set()
    unknown = sorted(set(entries) - set(wanted) - ignored)
    if missing:
        raise ModelLoadError(
            say(
                "The weights lack {count} tensors that config.json asks for, the first is {name}.",
                count=len(missing),
                name=missing[0],
            ),
            hint=say("Check that config.json belongs to these weights."),
        )
    if unknown:
        raise ModelLoadError(
            say(
                "The weights hold {count} tensors that this architecture does not have, the first is {name}.",
                count=len(unknown),
                name=unknown[0],
            ),
            hint=say("Check that config.json belongs to these weights; merge adapters before converting."),
        )
    for name, shape in wanted.items():
        if entries[name].shape != shape:
            raise ModelLoadError(
                say(
                    "The tensor {name} has the shape {found}, and config.json asks for {wanted}.",
                    name=name,
                    found=str(entries[name].shape),
                    wanted=str(shape),
                ),
                hint=say("Check that config.json belongs to these weights."),
            )


def _damaged(file: str, what: Text) -> ModelLoadError:
    return ModelLoadError(
        say("{file} is damaged: {what}.", file=file, what=what),
        hint=say("Fetch the file again; `qwenops pull` checks its hash."),
    )


def _no_header(mapped: mmap.mmap, file: str, what: Text) -> ModelLoadError:
    # The beginning of a pickle is also the beginning of some header lengths, so it is looked at only now.
    return _pickle(file) if mapped[:4].startswith(PICKLE_MAGIC) else _damaged(file, what)


def _pickle(file: str) -> ModelLoadError:
    return ModelLoadError(
        say("{file} is a pickle, which can run code when it is opened; only safetensors are read.", file=file),
        hint=say("Fetch the model in the safetensors format."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTensor:
    """A tensor to be written; `chunks` is called once and yields its bytes in order."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[bytes | memoryview]]

    @property
    def num_bytes(self) -> int:
        """The bytes that `chunks` must yield together."""
        count = ITEM_BYTES[self.dtype]
        for each in self.shape:
            count *= each
        return count


def write_safetensors(path: Path, tensors: Iterable[NewTensor]) -> None:
    """Write one safetensors file, holding one chunk in memory at a time."""
    ordered = list(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.num_bytes],
        }
        at += tensor.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in ordered:
            for chunk in tensor.chunks():
                file.write(chunk)
        if file.tell() != 8 + len(text) + at:
            raise AssertionError(path, file.tell())


def write_shards(folder: Path, tensors: Iterable[NewTensor], *, shard_bytes: int) -> None:
    """Write tensors as the hubs do: one file, or shards of at most `shard_bytes` with an index."""
    shards = list(_shards(tensors, shard_bytes))
    if len(shards) == 1:
        write_safetensors(folder / SINGLE, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard)
        weight_map.update({tensor.name: name for tensor in shard})
    total = sum(tensor.num_bytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Iterable[NewTensor], shard_bytes: int) -> Iterator[list[NewTensor]]:
    shard: list[NewTensor] = []
    held = 0
    for tensor in tensors:
        if shard and held + tensor.num_bytes > shard_bytes:
            yield shard
            shard, held = [], 0
        shard.append(tensor)
        held += tensor.num_bytes
    yield shard
