"""Executions in forked processes: their output, their events, their end, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kilter.backends.local.backend import LocalBackend
from kilter.backends.local.workers import Ended, Workers
from kilter.errors import WrongInput
from kilter.store.store import Store


def wait_for_end(workers: Workers, identifier: int) -> Ended:
    for _ in range(200):
        for happened in workers.poll(0.25):
            if isinstance(happened, Ended) and happened.identifier == identifier:
                return happened
    raise AssertionError("the execution did not end")


def test_an_execution_writes_its_log_and_its_exit_code(tmp_path: Path) -> None:
    with Workers([], os.environ, tmp_path / "server.log") as workers:
        good = workers.start(["--version"], tmp_path / "good.log")
        assert wait_for_end(workers, good).status == 0
        bad = workers.start(["stage", "no-such-stage", "--key", "0"], tmp_path / "bad.log")
        assert wait_for_end(workers, bad).status == 2
    assert "kilter" in (tmp_path / "good.log").read_text()
    assert "there is no stage 'no-such-stage'" in (tmp_path / "bad.log").read_text()


def test_a_killed_execution_tells_by_which_signal(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Workers([], os.environ, tmp_path / "server.log") as workers:
        identifier = workers.start(["stage", "ingest", "--store", str(store), "--key", "0" * 32], tmp_path / "log")
        while workers.running[identifier].pid is None:
            list(workers.poll(0.1))
        workers.signal_all(signal.SIGKILL)
        assert wait_for_end(workers, identifier).status in (-signal.SIGKILL, 1)


def test_a_module_that_cannot_be_imported_stops_nothing(tmp_path: Path) -> None:
    with Workers(["no_such_module"], os.environ, tmp_path / "server.log") as workers:
        assert wait_for_end(workers, workers.start(["--version"], tmp_path / "log")).status == 0
    assert "no_such_module" in (tmp_path / "server.log").read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PDEATHSIG is Linux's")
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, time
from pathlib import Path
from kilter.backends.local.workers import Workers
with Workers([], os.environ, Path({str(tmp_path / "server.log")!r})) as workers:
    print(workers.process.pid, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    descriptor = os.pidfd_open(server)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    import select

    assert select.select([descriptor], [], [], 20)[0], "the fork server outlived its parent"
    os.close(descriptor)


def test_the_time_to_save_ones_state_is_the_machines_to_set(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    assert LocalBackend(store, 1, {}).grace_seconds == 30
    assert LocalBackend(store, 1, {"KILTER_GRACE_SECONDS": "120.5"}).grace_seconds == 120.5
    for wrong in ("soon", "-1", "inf", "nan"):
        with pytest.raises(WrongInput, match=f"KILTER_GRACE_SECONDS is '{wrong}'"):
            LocalBackend(store, 1, {"KILTER_GRACE_SECONDS": wrong})
