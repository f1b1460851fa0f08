"""An executor over workers that may die: what a dead one was doing is done again by a new one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeVar

from collabedit.errors import CollabEditError

__all__ = ["Outcome", "Worker", "WorkerExecutor", "WorkerLostError", "outcome"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: How often a unit is tried before it is taken for what kills the workers.
_ATTEMPTS = 3

#: What a unit returned, or the error that its user is told; other errors go their own way.
Outcome = tuple[Any, CollabEditError | None]


class WorkerLostError(Exception):
    """A worker is gone before it answered: killed, out of memory, or its machine is."""


class Worker(Protocol):
    """A process that calls one function at a time."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Call a function there.

        Raises:
            WorkerLostError: when the worker did not live to answer.
        """

    def close(self) -> None:
        """End the worker, whatever it is doing; it may be dead already."""


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
    """Call a function; what a user is to be told comes back as a value, unwrapped."""
    try:
        return function(*args, **kwargs), None
    except CollabEditError as error:
        return None, error


class WorkerExecutor(Executor):
    """Calls functions on workers, each of which is started when it is first needed.

    Functions, arguments and results cross process borders, so functions must be importable: those
    of a script's ``__main__``, and lambdas, are not.

    Args:
        start: starts a worker.
        count: the most workers.
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
        """Call a function on a worker that is free, or once one is."""
        return self._threads.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; those that are busy finish what they do."""
        self._threads.shutdown(wait=True, cancel_futures=cancel_futures or not wait)
        for worker in list(self._alive):
            self._ended(worker)

    def abandon(self) -> None:
        """End the workers in the middle of what they do; all that was not finished is lost."""
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
