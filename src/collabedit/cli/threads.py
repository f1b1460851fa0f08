"""Set torch's number of threads, and how they wait, before torch is imported."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["limit_threads", "usable_cores"]

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def limit_threads() -> None:
    """Use no more threads than this process has cores, and let idle ones sleep.

    Variables set by the user are left alone.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and its control group's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def _quota() -> float:
    """CPU quota of the control group, in cores; infinite if there is none."""
    try:
        most, period = _QUOTA.read_text(encoding="ascii").split()
        return math.inf if most == "max" else int(most) / int(period)
    except (OSError, ValueError):
        return math.inf
