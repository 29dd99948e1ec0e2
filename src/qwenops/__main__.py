"""`python -m qwenops` is the command line."""

from qwenops.cli import main

if __name__ == "__main__":
    main()
