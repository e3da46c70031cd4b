"""Starts the processes that train together on this machine, one a device, and speaks for them to the stage.

They are started by the layer of torchrun that starts processes. Its agent above would answer SIGTERM by killing them
after 30 seconds; a training that is told to stop saves first, however long that takes.
"""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

from kilter.errors import Preempted, StageFailed, WrongInput
from kilter.training.jobs import CHECKPOINTS, STORE_ADDRESS, STORE_PORT, Ending, Hearer, Job
from kilter.training.precision import device_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.distributed.elastic.multiprocessing import PContext
    from torch.distributed.elastic.multiprocessing.api import RunProcsResult

    from kilter.plan.configs import TrainConfig
    from kilter.training.jobs import Inputs
    from kilter.training.run import TrainingRun

_ADDRESS = "127.0.0.1"
_POLL_SECONDS = 0.05


def train_in_processes(
    stage: str,
    inputs: "Inputs",
    config: "TrainConfig",
    output: "Path",
    run: "TrainingRun",
    processes: int,
    folder: "Path",
) -> dict[str, Any]:
    """Run a training by several processes on this machine and return the first one's summary.

    Args:
        stage: sft or align.
        inputs: What the training reads, by the names of its arguments.
        config: Everything that the outcome depends on.
        output: Gets what the training writes.
        run: Whom to tell, when to stop, where checkpoints go; and which ZeRO stage was asked for.
        processes: How many.
        folder: An empty folder for what is needed only meanwhile.

    Raises:
        StageFailed: one of them failed; the message is that of the one that failed first, and says which.
        WrongInput: likewise, of a configuration that is wrong.
        Preempted: `run.stop` became true; the state has been handed over.
    """
    job = Job(
        stage=stage,
        inputs={name: tuple(value) if isinstance(value, list) else value for name, value in inputs.items()},
        config=config.model_dump(mode="json"),
        output=output,
        checkpoint=run.resume.latest(),
        checkpoint_seconds=run.checkpoint_seconds,
        zero=run.parallel.zero,
        offload=run.parallel.offload,
        folder=folder,
        parent=os.getpid(),
    )
    path = folder / "job.json"
    path.write_text(job.model_dump_json())
    hearer = Hearer()
    context = _start(str(path), processes, hearer.port, folder)
    try:
        result = _attend(context, hearer, output, run)
    finally:
        context.close(signal.SIGKILL)
    return _ended(result, processes, folder)


def _start(job: str, processes: int, port: int, folder: "Path") -> "PContext":
    ranks = range(processes)
    with _own_signal_handlers():
        return start_processes(
            name="training",
            entrypoint=sys.executable,
            args=dict.fromkeys(ranks, ("-m", "kilter.training.worker", job)),
            envs={rank: environment_of(rank, processes, port, os.environ, device_name()) for rank in ranks},
            logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        )


def environment_of(
    rank: int, processes: int, port: int, environment: "Mapping[str, str]", device: str
) -> dict[str, str]:
    """Return what a process's environment has beyond its parent's: its place, and its share of the cores."""
    cores = int(environment.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    values = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": _ADDRESS,
        "MASTER_PORT": str(port),
        # The store is ours and is there already, so that no port can be taken in between.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        STORE_ADDRESS: _ADDRESS,
        STORE_PORT: str(port),
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        "DS_ACCELERATOR": device,
    }
    if device == "cpu" and sys.platform.startswith("linux"):
        # Without it gloo asks for the address of the machine's name, which containers need not have.
        values.setdefault("GLOO_SOCKET_IFNAME", environment.get("GLOO_SOCKET_IFNAME", "lo"))
    return values


def _attend(context: "PContext", hearer: Hearer, output: "Path", run: "TrainingRun") -> "RunProcsResult":
    """Pass on what the first process says, until all have ended or one has failed."""
    asked = False
    while True:
        result = context.wait(0)
        for number, message in hearer.heard():
            _pass_on(number, message, hearer, output, run)
        if result is not None:
            return result
        if not asked and run.stop():
            asked = True
            hearer.ask_to_stop()
        time.sleep(_POLL_SECONDS)


def _pass_on(number: int, message: dict[str, Any], hearer: Hearer, output: "Path", run: "TrainingRun") -> None:
    kind = message["kind"]
    if kind == "progress":
        run.progress.update(message["done"], message["total"], message["unit"], message["values"])
    elif kind == "log":
        run.log(message["text"])
    elif kind == "publish":
        # Only what lies where checkpoints are made is taken away, whatever is said.
        run.resume.publish(output / CHECKPOINTS / Path(message["name"]).name, int(message["step"]))
        hearer.answer(number, None)
    elif kind == "settle":
        hearer.answer(number, run.resume.settle())


def _ended(result: "RunProcsResult", processes: int, folder: "Path") -> dict[str, Any]:
    endings = {rank: Ending.read(folder, rank) for rank in range(processes)}
    for rank, failure in sorted(result.failures.items()):
        # What the others say then, if anything, is that this one is gone; they get SIGTERM.
        if endings[rank] is None and failure.exitcode != -signal.SIGTERM:
            reason = f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else "ended without saying why"
            memory = " (the machine ran out of memory?)" if failure.exitcode == -signal.SIGKILL else ""
            raise StageFailed(f"process {rank} of {processes} {reason}{memory}; the log says more")
    failed = {rank: ending for rank, ending in endings.items() if ending is not None and ending.kind is not None}
    if failed:
        rank, ending = min(failed.items(), key=lambda item: (item[1].moment, item[0]))
        if ending.kind == Preempted.__name__:
            raise Preempted(str(ending.message), ending.step)
        kind = WrongInput if ending.kind == WrongInput.__name__ else StageFailed
        raise kind(f"process {rank} of {processes}: {ending.message}")
    first = endings[0]
    if first is None or first.summary is None:
        raise StageFailed(f"process 0 of {processes} ended without a result; the log says more")
    return first.summary


@contextmanager
def _own_signal_handlers() -> "Iterator[None]":
    """Keep the handlers of SIGTERM and SIGINT, which torch would replace by ones that raise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
