"""The real TensorRT on a machine without a GPU: BERTOPS_TENSORRT names the folder that `make tensorrt-api` fills."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def libraries() -> Path:
    """Folder with one sub-folder for each TensorRT: its Python module `tensorrt_bindings` and its libraries."""
    folder = os.environ.get("BERTOPS_TENSORRT")
    if not folder:
        pytest.skip("BERTOPS_TENSORRT isn't set: `make tensorrt-api` gets the libraries (1.1 GB) and runs these tests")
    return Path(folder)
