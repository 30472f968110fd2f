"""Several processes that train together, for tests."""

import os
import socket
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_workers(function, *arguments, num_workers=2):
    """What `function(rank, *arguments)` returns in each of so many processes with one gloo group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work, args=(num_workers, port, folder, function, arguments), nprocs=num_workers)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(num_workers)]


def _work(rank, num_workers, port, folder, function, arguments):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=num_workers)
    torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
