"""With which command a run goes on that was cut off, in words. Pure."""

import shlex
from pathlib import Path

from qwenops.text import Text, say

FROM_THE_BEGINNING = frozenset({"startup", "import", "locust"})
"""Commands whose runs cannot be continued: they have no `--resume`."""


def how_to_continue(verb: str, path: Path) -> Text:
    """Say how the run in a folder is continued; some cannot be."""
    if verb in FROM_THE_BEGINNING:
        return say("A run of `bench {verb}` cannot be continued: measure again, into a new folder.", verb=verb)
    command = f"qwenops bench {verb} --resume {shlex.quote(str(path))}"
    return say("`{command}` continues it.", command=command)
