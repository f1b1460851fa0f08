"""Workers that are processes on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from threading import Lock
from typing import Any

from collabedit.workers.executor import Outcome, WorkerLostError, outcome

__all__ = ["ProcessWorker"]


class ProcessWorker:
    """A spawned process; torch's threads and CUDA do not survive a fork.

    Args:
        threads: how many it computes with.
    """

    def __init__(self, threads: int) -> None:
        spawn = get_context("spawn")
        self._pool = ProcessPoolExecutor(1, spawn, initializer=prepare, initargs=(threads,))
        self._id: int | None = self._pool.submit(os.getpid).result()
        self._closing = Lock()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Call a function in the process."""
        try:
            return self._pool.submit(outcome, function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise WorkerLostError from None

    def close(self) -> None:
        """End the process; who comes second waits until it has ended."""
        with self._closing:  # two threads in a pool's shutdown close its files twice
            number, self._id = self._id, None
            if number is None:  # by now, another process may have the id
                return
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
            self._pool.shutdown(wait=True)


def prepare(threads: int) -> None:
    """Set up a new process for computing."""
    import torch

    torch.set_num_threads(threads)
