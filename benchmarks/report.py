"""How benchmarks measure time, print ratios, and refuse results that differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """Call a function; returns its result and the seconds it took."""
    _finish_pending()
    start = time.perf_counter()
    result = function()
    _finish_pending()
    return result, time.perf_counter() - start


def _finish_pending() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def print_rate(name: str, count: float, seconds: float, unit: str) -> float:
    """Print and return units per second."""
    rate = count / seconds
    print(f"{name:<34} {rate:10.3f} {unit}/s   ({count:g} {unit} in {seconds:.2f} s)", flush=True)
    return rate


def print_ratio(name: str, ratio: float, wanted: float) -> None:
    """Print a ratio beside the one that is wanted, which is not enforced."""
    print(f"{name:<34} {ratio:10.2f}   (wanted: {wanted:g})", flush=True)


def require_agreement(name: str, difference: float, tolerance: float) -> None:
    """Print how far apart two results are.

    Raises:
        SystemExit: when the difference exceeds the tolerance, or is NaN.
    """
    print(f"{name:<34} {difference:10.1e}   (at most: {tolerance:.0e})", flush=True)
    if not difference <= tolerance:
        raise SystemExit(f"{name}: {difference:.1e} is more than {tolerance:.0e}")
