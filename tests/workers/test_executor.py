"""Workers that are told what to do, and what becomes of those that die."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from collabedit.errors import CollabEditError, InputError
from collabedit.workers import WorkerExecutor, WorkerLostError, open_workers, threads_of_workers
from collabedit.workers.executor import Outcome, outcome
from collabedit.workers.processes import ProcessWorker
from tests.workers.units import KillsOne, die, double, fail, process_id, refuse


class Mortal:
    """A worker in this process, which dies of some of its work."""

    started = 0
    closed = 0

    def __init__(self, deaths: list[int]) -> None:
        Mortal.started += 1
        self.deaths = deaths

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        if self.deaths:
            self.deaths.pop()
            raise WorkerLostError
        return outcome(function, *args, **kwargs)

    def close(self) -> None:
        Mortal.closed += 1


@pytest.fixture(autouse=True)
def _counted() -> Iterator[None]:
    Mortal.started = Mortal.closed = 0
    yield
    assert Mortal.started == Mortal.closed


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_what_a_dead_worker_was_doing_is_done_again(deaths: int) -> None:
    with WorkerExecutor(partial(Mortal, [0] * deaths), 1) as workers:
        assert list(workers.map(double, range(5))) == [0, 2, 4, 6, 8]
    assert Mortal.started == 1 + deaths


def test_work_that_kills_every_worker_is_given_up() -> None:
    with WorkerExecutor(partial(Mortal, [0] * 3), 1) as workers:
        with pytest.raises(CollabEditError, match="3 workers died of the same work"):
            workers.submit(double, 1).result()
        assert workers.submit(double, 1).result() == 2


def test_no_more_workers_are_started_than_there_is_work() -> None:
    with WorkerExecutor(partial(Mortal, []), 8) as workers:
        for number in range(4):
            assert workers.submit(double, number).result() == 2 * number
    assert Mortal.started == 1


def test_errors_reach_who_asked() -> None:
    with WorkerExecutor(partial(Mortal, []), 1) as workers:
        with pytest.raises(InputError, match="this cannot be"):
            workers.submit(refuse).result()
        with pytest.raises(ZeroDivisionError):
            workers.submit(fail).result()
        assert workers.submit(double, 1).result() == 2


@pytest.mark.slow
def test_processes_are_others_and_end(tmp_path: Path) -> None:
    with WorkerExecutor(partial(ProcessWorker, 1), 1) as workers:
        first = workers.submit(process_id).result()
        assert first != os.getpid()
        assert workers.submit(process_id).result() == first
        with pytest.raises(InputError, match="this cannot be"):
            workers.submit(refuse).result()
        killing = KillsOne(workers, tmp_path / "killed")
        second = killing.submit(process_id).result()
        assert second != first
        with pytest.raises(CollabEditError, match="workers died of the same work"):
            workers.submit(die).result()
        third = workers.submit(process_id).result()
    for number in (first, second, third):
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


@pytest.mark.slow
def test_a_process_is_ended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shutdowns = ProcessWorker(1), []
    shutdown = ProcessPoolExecutor.shutdown

    def counted(pool: ProcessPoolExecutor, **options: bool) -> None:
        shutdowns.append(pool)
        time.sleep(0.5)  # so that the second thread comes meanwhile
        shutdown(pool, **options)

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", counted)
    threads = [Thread(target=worker.close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(shutdowns) == 1


@pytest.mark.slow
def test_an_interrupted_user_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_workers("1") as executor:  # noqa: PT012
        assert executor is not None
        assert executor.submit(double, 1).result() == 2
        working = [executor.submit(time.sleep, 600) for _ in range(3)]
        raise KeyboardInterrupt
    assert time.monotonic() - start < 300
    assert all(future.done() for future in working)


@pytest.mark.parametrize("asked", ["0", "-1", "2.5", "many", "ray:2", "http://head:10001"])
def test_what_is_asked_must_be_workers(asked: str) -> None:
    with pytest.raises(InputError, match="give a number, ray, or ray://HOST:PORT"):  # noqa: SIM117
        with open_workers(asked):
            pass


def test_without_workers_all_is_done_here() -> None:
    with open_workers(None) as executor:
        assert executor is None


@pytest.mark.parametrize(("text", "threads"), [(None, 1), ("1", 1), ("3", 3)])
def test_threads_are_those_asked_for(
    text: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if text is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads_of_workers() == threads


@pytest.mark.parametrize("text", ["0", "two", "-1", ""])
def test_threads_must_be_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(InputError, match="set it to a number of threads"):
        threads_of_workers()
