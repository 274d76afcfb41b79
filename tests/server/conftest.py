"""The tests of the whole application share a bundle on disk."""

from pathlib import Path

import pytest
from tests import bundles
from tests.certificates import Authority


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    bundles.write_bundle(directory)
    return directory


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Signs the certificates of servers and callers."""
    return Authority()
