"""The tiny study, run once for all tests."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from command import STUDY, Finished, kilter


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Run the tiny study once for all tests."""
    folder = tmp_path_factory.mktemp("finished")
    run = kilter("run", STUDY, "--store", folder / "store", "--out", folder / "report", "--jobs", "2")
    assert run.returncode == 0, run.stderr
    return Finished(folder / "store", folder / "report", run)


@pytest.fixture
def finished_copy(finished: Finished, tmp_path: Path) -> Path:
    """Return a copy of the finished store that a test may spoil."""
    return Path(shutil.copytree(finished.store, tmp_path / "store"))


@pytest.fixture
def scores_of() -> Callable[[Path], Mapping[str, Any]]:
    """Return a function that reads all scores of a store by result."""
    from kilter.store.store import Store

    def read(folder: Path) -> Mapping[str, Any]:
        store = Store.open(str(folder))
        return {str(item.reference): item.summary.get("scores") for item in store.manifests("evaluate")}

    return read
