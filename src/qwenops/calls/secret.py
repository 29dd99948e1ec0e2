"""The secret under which ids and numbers of people become hashes: one file, made when it is needed first.

As long as it stays the same, a customer has the same hash in every file and on every server, so that calls can be kept
together in splits and erased together. Whoever has it can find a known number among hashes, so only its owner may read
it, and it does not lie with the calls.
"""

import contextlib
import os
import secrets
import threading
from pathlib import Path

from qwenops.atomic import write_text
from qwenops.errors import ConfigError
from qwenops.text import say

_NUM_BYTES = 32


def read_secret(path: Path) -> bytes:
    """Return the secret of a file; a file that is not there is made.

    Raises:
        ConfigError: It cannot be read or made, or is too short to be one.
    """
    try:
        if not path.exists():
            _make(path)
        found = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            say("The secret {path} cannot be read: {reason}.", path=str(path), reason=error.strerror or str(error)),
            hint=say("Name a file that this user may read with --secret-file."),
        ) from error
    if len(found) < _NUM_BYTES:
        raise ConfigError(
            say("{path} holds no secret: it has {count} characters.", path=str(path), count=len(found)),
            hint=say("Make one with: openssl rand -hex {count}", count=_NUM_BYTES),
        )
    return found


def _make(path: Path) -> None:
    """Make a secret; of several that are made at the same time the first stays."""
    new = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        write_text(new, f"{secrets.token_hex(_NUM_BYTES)}\n", mode=0o600)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(new)
    finally:
        new.unlink(missing_ok=True)
