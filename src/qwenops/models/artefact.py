"""A converted model: a folder with everything that serving needs, described by its manifest.

    openvino_model.xml, openvino_model.bin      the stateful model
    config.json, generation_config.json         as the checkpoint has them
    tokenizer.json, tokenizer_config.json, chat_template.jinja
    manifest.json                               source, scheme, hashes, the error of each tensor

The folder appears whole or not at all (see `folders`), so a folder with a manifest is complete unless it was damaged
later; sizes are compared when it is opened, hashes when it is verified.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qwenops.atomic import write_text
from qwenops.errors import ModelLoadError
from qwenops.models.checkpoint import file_sha256, read_json
from qwenops.models.compress import Layout, Stored, unpack
from qwenops.models.spec import ModelSpec, Scheme
from qwenops.text import Text, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FORMAT", "Artefact", "Scheme", "dequantised", "open_artefact", "verify_artefact", "write_manifest"]

FORMAT = 1
"""Version of the folder's layout and of the manifest; a folder of another version is converted again."""
MANIFEST = "manifest.json"
MODEL_XML = "openvino_model.xml"
MODEL_BIN = "openvino_model.bin"
OPTIONAL_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
)
"""Copied from the checkpoint where it has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """An opened artefact."""

    folder: Path
    spec: ModelSpec
    scheme: Scheme
    sha256: str
    """Of the checkpoint that it was made from: the weight file's own hash, or one over the hashes of all shards."""
    manifest: Mapping[str, Any]

    @property
    def model_xml(self) -> Path:
        """The model's graph; its weights lie beside it."""
        return self.folder / MODEL_XML

    @property
    def num_bytes(self) -> int:
        """The size of all files together."""
        return sum(each["bytes"] for each in self.manifest["files"].values())

    @property
    def relative_errors(self) -> dict[str, float]:
        """What each tensor differs from its source by: the error's length over the tensor's."""
        return {each["name"]: each["relative_error"] for each in self.manifest["tensors"]}


def open_artefact(folder: Path) -> Artefact:
    """Open a converted model; compares the files' sizes with the manifest.

    Raises:
        ModelLoadError: The folder is no artefact of this version, or a file is missing or truncated.
    """
    if not (folder / MANIFEST).exists():
        raise ModelLoadError(
            say("{folder} is no converted model: it has no {manifest}.", folder=str(folder), manifest=MANIFEST),
            hint=say("Convert it: `qwenops serve {folder}` does so by itself.", folder=str(folder)),
        )
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ModelLoadError(
            say(
                "{folder} has the format {found!r}, and this version reads {known}.",
                folder=str(folder),
                found=manifest.get("format"),
                known=FORMAT,
            ),
            hint=say("Convert the model again."),
        )
    try:
        scheme, sha256 = Scheme(manifest["scheme"]), manifest["source"]["sha256"]
        sizes = {name: int(facts["bytes"]) for name, facts in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, say("its manifest is incomplete ({error})", error=repr(error))) from error
    for name, size in sizes.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise _damaged(folder, say("{name} has {found} of {size} bytes", name=name, found=found or 0, size=size))
    generation = folder / "generation_config.json"
    spec = ModelSpec.from_config(
        read_json(folder / "config.json"), read_json(generation) if generation.exists() else None
    )
    return Artefact(folder=folder, spec=spec, scheme=scheme, sha256=sha256, manifest=manifest)


def verify_artefact(artefact: Artefact) -> None:
    """Compare every file's hash with the manifest; reads all of it.

    Raises:
        ModelLoadError: A file is not what was written.
    """
    for name, facts in artefact.manifest["files"].items():
        if file_sha256(artefact.folder / name) != facts["sha256"]:
            raise _damaged(artefact.folder, say("{name} is not what was written", name=name))


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest durably and in one step, so that a reader sees the old one or the new one."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def dequantised(artefact: Artefact) -> "Iterator[tuple[str, NDArray[np.float32]]]":
    """Yield each tensor by its checkpoint's name, as the float32 numbers that OpenVINO computes with.

    A reference model with these weights differs from the artefact by arithmetic alone. A tied head is not repeated.
    """
    constants = _constants(artefact)
    for facts in artefact.manifest["tensors"]:
        name, shape = facts["name"], tuple(facts["shape"])
        layout = Layout(stored=cast("Stored", facts["stored"]), group=facts["group"])
        data = constants[name]
        scales = None
        if layout.group:
            scales = constants[f"{name}/scale"].reshape(shape[0], shape[1] // layout.group)
            if layout.stored == "i8":
                scales = scales[:, 0]
        packed = (*shape[:-1], shape[-1] // 2) if layout.stored == "i4" else shape
        yield name, unpack(data.reshape(packed), scales, layout, shape)


def _constants(artefact: Artefact) -> "dict[str, NDArray[Any]]":
    """Map the constants that the graph names, without loading OpenVINO."""
    from xml.etree import ElementTree as ET

    import numpy as np

    formats = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "i8": np.int8, "i4": np.uint8}
    found: dict[str, NDArray[Any]] = {}
    weights = np.memmap(artefact.folder / MODEL_BIN, np.uint8, mode="r")
    for layer in ET.parse(artefact.model_xml).iter("layer"):  # noqa: S314 -- a file that we wrote
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None or data.get("element_type") not in formats:
            continue
        begin, size = int(data.get("offset", 0)), int(data.get("size", 0))
        raw = np.array(weights[begin : begin + size]) if begin % 4 else weights[begin : begin + size]
        found[layer.get("name", "")] = raw.view(formats[data.get("element_type", "")])
    return found


def _damaged(folder: Path, what: Text) -> ModelLoadError:
    return ModelLoadError(
        say("The converted model in {folder} is damaged: {what}.", folder=str(folder), what=what),
        hint=say("Remove the folder; it is converted again when it is needed."),
    )
