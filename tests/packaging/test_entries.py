"""Where only the server is installed, the commands of the other packages say in a line what is missing."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("package", "extra"), [("carousel_training", "train"), ("carousel_export", "export")])
def test_a_missing_package_is_one_line(package: str, extra: str) -> None:
    """With the command that brings it; no traceback."""
    program = f"import sys; sys.modules['torch'] = None; from {package}.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f": torch is not installed; pip install 'carousel-serving[{extra}]' brings it\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("package", ["carousel_training", "carousel_export"])
def test_a_defect_of_ours_is_not_taken_for_a_missing_package(package: str) -> None:
    """A module of the project that is not there is a traceback."""
    program = f"import sys; sys.modules['{package}.errors'] = None; from {package}.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "Traceback" in done.stderr
    assert "pip install" not in done.stderr


@pytest.mark.parametrize("package", ["carousel_training", "carousel_export"])
def test_otherwise_it_is_the_command(package: str) -> None:
    """Help and all."""
    program = f"from {package}.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "Usage" in done.stdout
