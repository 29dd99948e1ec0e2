"""What the user types: parse, call one function, print."""

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from qwenops.cli.door import run

    sys.exit(run(sys.argv[1:], argv0=sys.argv[0]))
