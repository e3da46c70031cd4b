from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data sets, or a skip that says how to name it."""
    named = os.environ.get("KILTER_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / ".." / "shared" / "data"
    if not (folder / "preference").is_dir():
        pytest.skip("set KILTER_DATA to the folder with the real data sets to run this test")
    return folder.resolve()
