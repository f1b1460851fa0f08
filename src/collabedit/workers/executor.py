"""An executor whose workers may die: a new worker repeats what a dead one was doing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeVar

from collabedit.errors import CollabEditError

__all__ = ["Outcome", "Worker", "WorkerExecutor", "WorkerLostError", "outcome"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: How often a unit is tried before it is blamed for the deaths of its workers.
_ATTEMPTS = 3

#: What a unit returned, or the error to show the user; other exceptions are raised as usual.
Outcome = tuple[Any, CollabEditError | None]


class WorkerLostError(Exception):
    """A worker died before it answered: it was killed, ran out of memory, or lost its machine."""


class Worker(Protocol):
    """A process that calls one function at a time."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Call a function in the worker.

        Raises:
            WorkerLostError: when the worker died before it answered.
        """

    def close(self) -> None:
        """End the worker, even in the middle of a call; it may be dead already."""


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
    """Call a function; an error for the user is returned rather than raised.

    So it crosses the process border unwrapped.
    """
    try:
        return function(*args, **kwargs), None
    except CollabEditError as error:
        return None, error


class WorkerExecutor(Executor):
    """Calls functions on workers, each started when first needed.

    Functions, arguments and results cross process borders, so functions must be importable, which
    lambdas and those of a script's ``__main__`` are not.

    Args:
        start: starts a worker.
        count: maximum number of workers.
    """

    def __init__(self, start: Callable[[], Worker], count: int) -> None:
        self.count = count
        self._start = start
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._alive: set[Worker] = set()
        self._abandoned = False
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")

    def submit(
        self,
        fn: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Call a function on a worker as soon as one is free."""
        return self._threads.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers once they have finished what they are doing."""
        self._threads.shutdown(wait=True, cancel_futures=cancel_futures or not wait)
        for worker in list(self._alive):
            self._ended(worker)

    def abandon(self) -> None:
        """End the workers at once; unfinished work is lost."""
        self._abandoned = True
        for worker in list(self._alive):
            worker.close()
        self.shutdown(cancel_futures=True)

    def _run(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        worker = self._taken()
        for _ in range(_ATTEMPTS):
            try:
                result, error = worker.call(fn, *args, **kwargs)
            except WorkerLostError:
                self._ended(worker)
                if self._abandoned:
                    raise
                worker = self._started()
                continue
            except BaseException:
                self._idle.put(worker)
                raise
            self._idle.put(worker)
            if error is not None:
                raise error
            return result
        self._idle.put(worker)
        raise CollabEditError(
            f"{_ATTEMPTS} workers died of the same work; they may lack memory: take fewer, or give "
            "--memory-budget"
        )

    def _taken(self) -> Worker:
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._started()

    def _started(self) -> Worker:
        worker = self._start()
        self._alive.add(worker)
        return worker

    def _ended(self, worker: Worker) -> None:
        worker.close()
        self._alive.discard(worker)
