"""What workers are given to do in the tests; they import it by name."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from collabedit.errors import InputError

__all__ = ["KillsOne", "die_once", "double", "fail", "process_id", "refuse"]


def double(number: int) -> int:
    return 2 * number


def process_id() -> int:
    return os.getpid()


def refuse() -> None:
    raise InputError("this cannot be")


def fail() -> None:
    raise ZeroDivisionError("not for users")


def die(*_arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: Path, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The first time, as if the machine had taken the worker's memory."""
    if not marker.exists():
        marker.touch()
        die()
    return function(*args, **kwargs)


class KillsOne(Executor):
    """Passes work on, and has a worker killed by the first unit."""

    def __init__(self, executor: Executor, marker: Path) -> None:
        self.executor = executor
        self.marker = marker

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self.executor.submit(die_once, self.marker, fn, *args, **kwargs)
