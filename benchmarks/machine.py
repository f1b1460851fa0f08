"""The machine that benchmarks run on: a description, and how much memory some work takes."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from collabedit.planning.machine import resident, with_peak_memory

__all__ = ["in_child", "print_machine", "resident", "with_peak_memory"]

Result = TypeVar("Result")

#: Other work on more cores than this spoils the figures.
_IDLE_LOAD = 1.0


@cache
def print_machine() -> None:
    """Print processor, cores, threads and versions; the second call in a process does nothing."""
    print(
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > _IDLE_LOAD:
        print(f"The load average is {load:.1f}: if other work is running, discard these figures.")
    print(flush=True)


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def in_child(function: Callable[..., Result], *arguments: object) -> Result:
    """Run an importable function in a separate process, with as many threads as this one."""
    threads = partial(torch.set_num_threads, torch.get_num_threads())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=threads) as pool:
        return pool.submit(function, *arguments).result()
