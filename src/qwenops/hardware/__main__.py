"""What runs in child processes: `python -m qwenops.hardware measure` and `... probe`; one line of JSON on stdout."""

import argparse
import sys


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(prog="python -m qwenops.hardware", description=__doc__)
    parser.add_argument("what", choices=("measure", "probe"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--buffer-bytes", type=int, default=256 * 1024**2)
    parser.add_argument("--budget-s", type=float, default=4.0)
    arguments = parser.parse_args()
    if arguments.what == "measure":
        from qwenops.hardware import measure

        line = measure.to_json(measure.measure_here(arguments.threads, arguments.buffer_bytes, arguments.budget_s))
    else:
        from qwenops.hardware import probe

        line = probe.to_json(probe.probe_here(arguments.threads))
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
