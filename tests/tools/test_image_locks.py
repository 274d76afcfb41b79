"""A lock has what the requirements need on each architecture, with the hashes of all its wheels."""

from typing import Any

import pytest
from tools.image_locks import Lock, Report, find_needed, write_lock


def _wheel(sha256: str, *needs: str, version: str = "1") -> dict[str, Any]:
    metadata = {"version": version, "requires_dist": list(needs)}
    return {"metadata": metadata, "download_info": {"archive_info": {"hashes": {"sha256": sha256}}}}


def _report(sha256: str = "aa", version: str = "1") -> Report:
    return {
        "top": _wheel(sha256, "Some_Part[fast]>=1", "huggingface-hub", "old; python_version < '3'", version=version),
        "some-part": _wheel("cc", "speed; extra == 'fast'", "slow; extra == 'slow'"),
        "speed": _wheel("dd", "arm; platform_machine == 'aarch64'"),
        "arm": _wheel("ee"),
        "huggingface-hub": _wheel("ff"),
    }


def test_what_is_needed_follows_extras_and_markers() -> None:
    """Extras count where they are asked for, markers for Linux; what is left out brings nothing."""
    assert find_needed(_report(), ["top"], "x86_64") == {"top", "some-part", "speed"}
    assert find_needed(_report(), ["top"], "aarch64") == {"top", "some-part", "speed", "arm"}


def test_what_pip_did_not_report_is_an_error() -> None:
    """A lock is complete or is not written."""
    with pytest.raises(KeyError, match="missing"):
        find_needed(_report(), ["missing"], "x86_64")


def test_a_lock_has_the_hashes_of_both_architectures() -> None:
    """A wheel for all architectures has one hash, others have one each."""
    lock = Lock("test", "For a test", ("top",))
    text = write_lock(lock, {"x86_64": _report("aa"), "aarch64": _report("bb")})
    assert "top==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n" in text
    assert "some-part==1 \\\n    --hash=sha256:cc\nspeed==1" in text


def test_a_lock_has_one_version_of_each() -> None:
    """Architectures with different versions are refused by name."""
    with pytest.raises(ValueError, match="top"):
        write_lock(Lock("test", "For a test", ("top",)), {"x86_64": _report(), "aarch64": _report(version="2")})
