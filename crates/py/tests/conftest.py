import os
from pathlib import Path

import hecate
import pytest


@pytest.fixture(scope="session")
def model_folder():
    """A trained model, which only the `hecate` command can make; `cargo xtask python` makes a small one."""
    folder = os.environ.get("HECATE_TEST_MODEL")
    if not folder:
        pytest.skip("HECATE_TEST_MODEL names no trained model: run `cargo xtask python`")
    return Path(folder)


@pytest.fixture(scope="session")
def model(model_folder):
    return hecate.load(model_folder)
