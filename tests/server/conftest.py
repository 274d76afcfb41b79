"""The tests of the whole application share a bundle on disk."""

from pathlib import Path

import pytest
from tests import bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    bundles.write_bundle(directory)
    return directory
