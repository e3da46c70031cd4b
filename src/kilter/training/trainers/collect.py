"""A checkpoint that several machines, or several folders of one, hold parts of is brought together."""

import secrets
from typing import TYPE_CHECKING

import torch
from torch import distributed

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK_BYTES = 64 << 20


def collect(folder: "Path", device: torch.device) -> None:
    """Bring what every process wrote into its own `folder` to that of the first; all processes must ask for it.

    Processes that see the first one's folder have nothing to send; the others send their files one after another.

    Args:
        folder: Of this process's checkpoint.
        device: Where tensors must lie that processes exchange.
    """
    rank = distributed.get_rank()
    token = [f"{secrets.token_hex(8)}.token"]
    distributed.broadcast_object_list(token, 0, device=device)
    mark = folder / token[0]
    if rank == 0:
        mark.touch()
    distributed.barrier()
    mine = [] if mark.exists() else sorted(path for path in folder.rglob("*") if path.is_file())
    parts: list[list[tuple[str, int]]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in mine])
    for sender, files in enumerate(parts):
        for name, size in files:
            if rank == sender:
                _send(folder / name, size, device)
            elif rank == 0:
                _receive(folder / name, size, sender, device)
    distributed.barrier()
    if rank == 0:
        mark.unlink()


def _send(path: "Path", size: int, device: torch.device) -> None:
    with path.open("rb") as stream:
        for start in range(0, size, _CHUNK_BYTES):
            block = bytearray(stream.read(min(_CHUNK_BYTES, size - start)))
            distributed.send(torch.frombuffer(block, dtype=torch.uint8).to(device), 0)


def _receive(path: "Path", size: int, sender: int, device: torch.device) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        for start in range(0, size, _CHUNK_BYTES):
            block = torch.empty(min(_CHUNK_BYTES, size - start), dtype=torch.uint8, device=device)
            distributed.recv(block, sender)
            stream.write(block.cpu().numpy().tobytes())
