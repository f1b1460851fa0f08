"""Open the workers that a user asks for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial

from collabedit.errors import InputError, shown
from collabedit.models import LanguageModel
from collabedit.workers.executor import WorkerExecutor
from collabedit.workers.model_workers import ModelSource, ModelWorkers

__all__ = ["check_workers", "open_model_workers", "open_workers", "threads_of_workers"]


@contextmanager
def open_workers(asked: str | None) -> Iterator[Executor | None]:
    """Open workers for the block; meanwhile this process uses as many threads as each of them.

    Args:
        asked: a number of processes; ``ray`` for the Ray cluster running on this machine, or else
            a new one here; ``ray://HOST:PORT`` for another cluster; ``None`` for no workers.

    Raises:
        InputError: when ``asked`` is none of these, or the cluster does not answer.
    """
    if asked is None:
        yield None
        return
    import torch

    check_workers(asked)
    before, threads = torch.get_num_threads(), threads_of_workers()
    executor = _executor(asked.strip(), threads)
    torch.set_num_threads(threads)
    try:
        yield executor
    except BaseException:
        executor.abandon()
        raise
    finally:
        torch.set_num_threads(before)
        executor.shutdown(cancel_futures=True)


@contextmanager
def open_model_workers(
    asked: str | None, source: ModelSource, model: LanguageModel
) -> Iterator[ModelWorkers | None]:
    """Open workers that compute with a model for the block; ``None`` if none are asked for.

    Args:
        asked: see :func:`open_workers`.
        source: what the workers load the model from.
        model: the model, just loaded from the same source.
    """
    with open_workers(asked) as executor:
        yield ModelWorkers.of(executor, source, model) if executor else None


def threads_of_workers() -> int:
    """``OMP_NUM_THREADS``, by default one.

    Not the number of free cores, since the last bits of the results depend on the threads.

    Raises:
        InputError: when the variable is not a positive whole number.
    """
    text = os.environ.get("OMP_NUM_THREADS", "1")
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"OMP_NUM_THREADS is {text!r}; set it to a number of threads, such as 1")
    return int(text)


def check_workers(asked: str | None) -> None:
    """Check what a user asks for before any work is done.

    Raises:
        InputError: when it is neither a positive number nor a Ray cluster.
    """
    if asked is not None and not re.fullmatch(r"0*[1-9]\d{0,4}|ray|ray://.+", asked.strip()):
        raise InputError(
            f"--workers: cannot read {shown(asked)}; give a number, ray, or ray://HOST:PORT"
        )


def _executor(asked: str, threads: int) -> WorkerExecutor:
    if asked.isdecimal():
        from collabedit.workers.processes import ProcessWorker

        return WorkerExecutor(partial(ProcessWorker, threads), int(asked))
    from collabedit.workers.ray_actors import connect

    return WorkerExecutor(*connect(None if asked == "ray" else asked, threads))
