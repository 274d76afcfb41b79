"""Every measurement of serving, one after the other: a JSON line each.

    python -m bench [NAME ...] [--quick]

Names are those of the modules in `bench/serving`, which are the first part of their figures' names. Training has
commands of its own (`bench.training.train.recipes` and `.cell`), since it takes an hour, and so have the other servers
(`bench.peers`), which are installed first.
"""

import argparse
import subprocess
import sys

MODULES = {
    "generation": ["generation"],
    "growth": ["growth"],
    "predict": ["predict"],
    "ladder": ["ladder"],
    "crossings": ["crossings"],
    "latency": ["latency"],
    "ingest": ["ingest"],
    "score": ["score"],
    "int8": ["int8"],
    "cells": ["cells"],
    "start": ["start"],
    "durability": ["durability"],
    "tls": ["tls"],
    "auth": ["auth"],
    "http": ["http"],
    "workers": ["workers"],
    "sessions": ["sessions.numbers", "sessions.operations", "sessions.used"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MODULES, []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="less of each; the figures are rough")
    given = parser.parse_args()
    options = ["--quick"] if given.quick else []
    for name in given.names or MODULES:
        for module in MODULES[name]:
            subprocess.run([sys.executable, "-m", f"bench.serving.{module}", *options], check=True)


if __name__ == "__main__":
    main()
