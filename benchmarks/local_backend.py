"""What the local backend costs beyond the stages' own work: `python benchmarks/local_backend.py [STUDY]`.

Runs a study into a new store and prints its wall time and the overhead per stage: the seconds that executions ran (from
the request to fork to the exit of the process) minus the seconds that stages worked, over the number of stages. Then it
runs the study again, which runs nothing, and prints how long that takes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from kilter.backends.local.backend import LocalBackend, RunOutcome
from kilter.backends.planning import plan_study
from kilter.cli.display import Lines
from kilter.plan.graph import Plan
from kilter.store.store import Store
from kilter.study.load import load_study


def run(study_path: Path, store: Store, jobs: int) -> tuple[Plan, RunOutcome]:
    """Run a study and return its plan and how it ended."""
    study = load_study(study_path, os.environ)
    plan = plan_study(study, study_path.parent, store, online=False)
    outcome = LocalBackend(store, jobs, os.environ).run(plan, Lines())
    if outcome.failures:
        raise SystemExit(f"{len(outcome.failures)} stages failed: {outcome.failures[0].reason}")
    return plan, outcome


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, default=Path("studies/demo.yaml"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kilter-benchmark-") as folder:
        store = Store.open(folder)
        plan, outcome = run(arguments.study, store, arguments.jobs)
        manifests = list(store.manifests())
        worked = sum(manifest.resources.seconds for manifest in manifests)
        seconds = Counter[str]()
        counts = Counter(manifest.stage for manifest in manifests)
        for manifest in manifests:
            seconds[manifest.stage] += manifest.resources.seconds
        print(f"\n{arguments.study}, {arguments.jobs} jobs on {os.cpu_count()} cores\n")
        print("| figure | value |\n|---|---|")
        print(f"| wall time, report included | {outcome.seconds:.0f} s |")
        print(f"| stages | {len(plan.nodes)} |")
        print(f"| stages' own work | {worked:.0f} s |")
        print(f"| overhead per stage | {(outcome.busy_seconds - worked) / len(outcome.ran):.2f} s |")
        command = [sys.executable, "-m", "kilter.cli.main", "run", str(arguments.study), "--store", folder]
        began = time.monotonic()
        subprocess.run([*command, "--out", f"{folder}-report"], check=True, capture_output=True)
        print(f"| running it again | {time.monotonic() - began:.1f} s |")
        print("\n| stage | results | seconds in all | seconds each |\n|---|---|---|---|")
        for stage, count in counts.items():
            print(f"| {stage} | {count} | {seconds[stage]:.1f} | {seconds[stage] / count:.2f} |")


if __name__ == "__main__":
    main()
