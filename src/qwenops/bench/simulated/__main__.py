"""`python -m qwenops.bench.simulated [simulated:?...] [PORT]`: serve it, print the address, end with the parent.

`--help` prints the table of everything that the text may say.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import PREFIX, parameters, parse_simulated
from qwenops.bench.simulated.server import serve_simulated
from qwenops.errors import QwenOpsError

_LOOK_S = 0.25


async def serve(text: str, port: int) -> None:
    """Serve what `text` says until the parent is gone, or a signal comes."""
    simulated = parse_simulated(text)
    parent = os.getppid()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with serve_simulated(ServerModel(simulated.server), faults=simulated.faults, port=port) as url:
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        while not ended.is_set() and os.getppid() == parent:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _LOOK_S)


def main(argv: Sequence[str]) -> int:
    """Read the arguments and serve; return the exit status."""
    if {"-h", "--help"} & set(argv):
        for name, default, meaning in parameters():
            sys.stdout.write(f"{name:22} {default or '-':12} {meaning}\n")
        return 0
    text, port, *_ = (*argv, *(PREFIX, "0")[len(argv) :])
    try:
        asyncio.run(serve(text, int(port)))
    except QwenOpsError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
