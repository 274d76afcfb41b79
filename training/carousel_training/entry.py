"""The entry point of `carousel-train`. It says how to install missing packages."""

import sys

_FAILED = 2


def main() -> None:
    try:
        from carousel_training.cli import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("carousel"):
            raise  # a defect, not a missing package
        print(
            f"carousel-train: {error.name} is not installed; pip install 'carousel-serving[train]' brings it",
            file=sys.stderr,
        )
        sys.exit(_FAILED)
    run()
