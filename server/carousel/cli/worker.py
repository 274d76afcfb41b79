"""`python -m carousel.cli.worker FD`: one of several workers. Its supervisor starts it, and talks to it over FD.

What it shall do comes over standard input, once.
"""

import json
import os
import socket
import sys
from pathlib import Path

import uvloop

from carousel.cli.serve import SWITCH_SECONDS, settle
from carousel.errors import CarouselError, ModelFailed
from carousel.logs import configure as configure_logging
from carousel.settings import read_settings
from carousel.workers.crew import FAILED, NOT_STARTED
from carousel.workers.worker import die_with, work


def main() -> None:
    """The supervisor prints why a worker could not start; the exit code is that of `carousel serve`."""
    end = socket.socket(fileno=int(sys.argv[1]))
    orders = json.load(sys.stdin)
    die_with(orders["supervisor"])
    settings = read_settings(os.environ, orders["overrides"])
    configure_logging(settings.log_level)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        uvloop.run(work(Path(orders["bundle"]), settings, end, settle))
    except CarouselError as error:
        sys.exit(FAILED if isinstance(error, ModelFailed) else NOT_STARTED)


if __name__ == "__main__":
    main()
