"""Workers that are processes of this machine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from collabedit.workers.executor import Outcome, WorkerLostError, outcome

__all__ = ["ProcessWorker"]


class ProcessWorker:
    """A process that is spawned, not forked, since neither torch's threads nor CUDA survive that.

    Args:
        threads: that it computes with.
    """

    def __init__(self, threads: int) -> None:
        spawn = get_context("spawn")
        self._pool = ProcessPoolExecutor(1, spawn, initializer=prepare, initargs=(threads,))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Call a function there."""
        try:
            return self._pool.submit(outcome, function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise WorkerLostError from None

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(wait=True)


def prepare(threads: int) -> None:
    """Make a new process ready to compute."""
    import torch

    torch.set_num_threads(threads)
