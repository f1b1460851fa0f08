"""The machine that benchmarks run on: what it is, and how much memory a piece of work takes."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")

_STATUS = Path("/proc/self/status")
#: Other work on more than this many cores spoils the figures.
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
        print(f"The load average is {load:.1f}: if others are at work, throw these figures away.")
    print(flush=True)


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def with_peak_memory(function: Callable[[], Result]) -> tuple[Result, int]:
    """Run a function; also return by how many bytes the process outgrew its size at the start.

    On Linux the kernel's record of the peak is reset first, so earlier peaks do not matter and
    tensors that already lie in memory do not count. Elsewhere the record cannot be reset: call
    this in a fresh process (:func:`in_child`).
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would hide what is taken anew
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    result = function()
    return result, max(0, _memory("VmHWM") - before)


def resident() -> int:
    """Bytes of this process in memory."""
    return _memory("VmRSS")


def _memory(name: str) -> int:
    """Bytes in a field of Linux's process status; elsewhere the largest size so far."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_child(function: Callable[..., Result], *arguments: object) -> Result:
    """Run an importable function in a process of its own, with as many threads as this one."""
    threads = partial(torch.set_num_threads, torch.get_num_threads())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=threads) as pool:
        return pool.submit(function, *arguments).result()
