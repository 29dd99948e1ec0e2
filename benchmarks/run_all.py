"""Run every benchmark at its full length, one after the other, and fill the READMEs' tables (`make prove`)."""

import runpy
import sys
from collections.abc import Sequence

RUNS: tuple[tuple[str, Sequence[str]], ...] = (
    ("benchmarks.convert", ()),
    ("benchmarks.logits_check", ()),
    ("benchmarks.engine", ()),
    ("benchmarks.engine", ("--model", "random:1.7b", "--schemes", "int8,int4", "--name", "engine-1.7b")),
    ("benchmarks.served", ()),
    ("benchmarks.tables", ()),
)


def main() -> None:
    """Run them as if each had been started by itself."""
    for module, arguments in RUNS:
        print(f"== {module} {' '.join(arguments)}", flush=True)
        sys.argv = [module, *arguments]
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise


if __name__ == "__main__":
    main()
