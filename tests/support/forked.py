"""Processes that begin with the package imported: forked from one that has done nothing else.

An import takes seconds, a fork none. A test that is about the start itself starts Python. Where the system does not
fork (Windows) each one imports it.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

if "forkserver" in multiprocessing.get_all_start_methods():
    _CONTEXT = multiprocessing.get_context("forkserver")
    _CONTEXT.set_forkserver_preload(
        ["pytest", "ddetr.batch", "deformable_detr_refine.training.train", "deformable_detr_refine.serving.batch.run"]
    )
else:
    _CONTEXT = multiprocessing.get_context("spawn")


def start(function: Callable, *arguments: object, log: Path, **environment: str) -> BaseProcess:
    """Calls a function that can be imported, in a process with one thread; what it prints goes to the log."""
    process = _CONTEXT.Process(target=_work, args=(function, arguments, log, environment))
    process.start()
    return process


def _work(function: Callable, arguments: Sequence, log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    torch.set_num_threads(1)
    sys.exit(function(*arguments))


def start_ranks(processes: int, function: Callable, *arguments: object, log: Path) -> list[BaseProcess]:
    """As torchrun starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    return [
        start(function, *arguments, log=log, **group, **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)))
        for rank in range(processes)
    ]


def finish(processes: Sequence[BaseProcess], log: Path, timeout: float = 600) -> str:
    """Waits for the good end of all and gives what they printed."""
    running = list(processes)
    try:
        while running:
            assert wait([process.sentinel for process in running], timeout), log.read_text()[-4000:]
            for process in running:
                assert process.exitcode in (None, 0), log.read_text()[-4000:]
            running = [process for process in running if process.exitcode is None]
    finally:
        for process in processes:
            process.kill()
    return log.read_text()
