"""A tiny study that touches every stage, and the command to run it with."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

STUDY = Path(__file__).with_name("tiny.yaml")
KILTER = (sys.executable, "-m", "kilter.cli.main")


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a user on a small machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KILTER_", "AWS_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changes}


def kilter(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    return subprocess.run(
        [*KILTER, *map(str, arguments)], capture_output=True, text=True, env=environment(**changes), timeout=280
    )


def start(*arguments: str | Path, **changes: str) -> subprocess.Popen[str]:
    """Start a verb."""
    return subprocess.Popen(
        [*KILTER, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**changes),
    )


@dataclass(frozen=True)
class Finished:
    """The tiny study after an undisturbed run."""

    store: Path
    report: Path
    run: subprocess.CompletedProcess[str]


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
