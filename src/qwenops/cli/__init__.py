"""What the user types: parse, call one function, print."""


def main() -> None:
    """Run the command line."""
