"""Where only the server is installed, the commands of the other packages say in a line what is missing."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("package", "extra"), [("carousel_training", "train"), ("carousel_export", "export")])
def test_a_missing_package_is_one_line(package: str, extra: str) -> None:
    """The line has the command that brings it, and there is no traceback."""
    program = f"import sys; sys.modules['torch'] = None; from {package}.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f": torch is not installed; pip install 'carousel-serving[{extra}]' brings it\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("package", ["carousel_training", "carousel_export"])
def test_a_defect_of_ours_is_not_taken_for_a_missing_package(package: str) -> None:
    """A missing module of the project gives a traceback."""
    program = f"import sys; sys.modules['{package}.errors'] = None; from {package}.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "Traceback" in done.stderr
    assert "pip install" not in done.stderr


@pytest.mark.parametrize("package", ["carousel_training", "carousel_export"])
def test_otherwise_it_is_the_command(package: str) -> None:
    """The command has its help and all else."""
    program = f"from {package}.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "Usage" in done.stdout
