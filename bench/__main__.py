"""Every measurement of serving, one after the other: a JSON line each.

    python -m bench [NAME ...] [--quick]

Names are those of the modules below. Training has a command of its own (`bench.training.train.recipes`), since it takes
an hour, and so have the other servers (`bench.peers`), which are installed first.
"""

import argparse
import subprocess
import sys

MODULES = (
    "generation",
    "predict",
    "ladder",
    "crossings",
    "latency",
    "ingest",
    "int8",
    "sessions.numbers",
    "sessions.used",
    "start",
    "durability",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MODULES, []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="less of each; the figures are rough")
    given = parser.parse_args()
    options = ["--quick"] if given.quick else []
    for name in given.names or MODULES:
        subprocess.run([sys.executable, "-m", f"bench.serving.{name}", *options], check=True)


if __name__ == "__main__":
    main()
