"""What every command about calls can be told."""

from dataclasses import dataclass
from pathlib import Path

from qwenops.options import option


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What every command about calls can be told."""

    secret_file: Path | None = option(
        None,
        help="File with the secret under which numbers and ids of people become hashes; the user's own where it is "
        "not given.",
    )
