"""The entry point of `carousel-export`. It says how to install missing packages."""

import sys

_FAILED = 2


def main() -> None:
    try:
        from carousel_export.cli import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("carousel"):
            raise  # a defect, not a missing package
        print(
            f"carousel-export: {error.name} is not installed; pip install 'carousel-serving[export]' brings it",
            file=sys.stderr,
        )
        sys.exit(_FAILED)
    run()
