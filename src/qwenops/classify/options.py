"""What classifying can be told."""

from dataclasses import dataclass
from pathlib import Path

from qwenops.options import option


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions:
    """Which classifier, and how files are classified."""

    model: str = option(
        "", help="Classifier: NAME (its champion), NAME@ALIAS or NAME@VERSION of the registry.", flag="--classifier"
    )
    registry: Path | None = option(
        None, help="Folder of the registry; the user's own where it is not given.", flag="--registry"
    )
    shard_calls: int = option(
        256,
        help="Calls that are classified and written together; a file that was broken off goes on after the last.",
        minimum=1,
        maximum=65_536,
        flag=False,
    )
