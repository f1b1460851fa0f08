"""The memory of a process and of its machine."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

__all__ = ["free_memory", "resident", "with_peak_memory"]

Result = TypeVar("Result")

_STATUS = Path("/proc/self/status")


def with_peak_memory(function: Callable[[], Result]) -> tuple[Result, int]:
    """Run a function; also return how many bytes the process grew beyond its size at the start.

    On Linux the kernel's record of the peak is reset first, so earlier peaks do not matter and
    tensors already in memory do not count. Elsewhere it can't be reset: anything below an earlier
    peak counts as zero.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # memory freed but kept would hide new allocations
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    result = function()
    return result, max(0, _memory("VmHWM") - before)


def resident() -> int:
    """Bytes of this process in memory."""
    return _memory("VmRSS")


def free_memory(device: str) -> int:
    """Free bytes of a GPU, of main memory, or of all GPUs and main memory together (``auto``)."""
    from accelerate.utils import get_max_memory

    room: dict[int | str, int] = get_max_memory()
    if device == "auto":
        return sum(room.values())
    kind, _, number = device.partition(":")
    return room["cpu"] if kind == "cpu" else room.get(int(number or 0), room["cpu"])


def _memory(name: str) -> int:
    """Bytes in a field of Linux's process status; elsewhere the largest size so far."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
