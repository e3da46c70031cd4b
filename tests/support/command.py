"""The kilter command as a user runs it, and the tiny study that tests run with it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

STUDY = Path(__file__).parents[1] / "e2e" / "tiny.yaml"
KILTER = (sys.executable, "-m", "kilter.cli.main")


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a user on a small machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KILTER_", "AWS_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changes}


def kilter(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    return subprocess.run(
        [*KILTER, *map(str, arguments)], capture_output=True, text=True, env=environment(**changes), timeout=600
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
