"""Real numbers as integers modulo ``2^128``, in two 64-bit limbs, which add up exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from collabedit.errors import RoundError

__all__ = ["Limbs", "Reals", "add", "decode", "encode", "subtract"]

#: ``[2, n]``: upper and lower halves in two's complement.
Limbs = npt.NDArray[np.uint64]
Reals = npt.NDArray[np.float64]

_LIMB = 64
#: Numbers that are converted together, few enough for the processor's cache.
_CHUNK = 2**16


def encode(values: Reals, fraction_bits: int, limit: float) -> Limbs:
    """Numbers to the nearest multiple of ``2^-fraction_bits``.

    Args:
        values: ``[n]``.
        fraction_bits: bits after the binary point, above 64.
        limit: the announced range: every number must be smaller in magnitude.

    Returns:
        ``[2, n]``.

    Raises:
        RoundError: when a number is not finite or out of range.
    """
    limbs = np.empty((2, len(values)), np.uint64)
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        limbs[:, start : start + _CHUNK] = _encode(chunk, fraction_bits, limit)
    return limbs


def _encode(values: Reals, fraction_bits: int, limit: float) -> Limbs:
    sizes = np.abs(values)
    if not np.all(sizes < limit):  # false for NaN too
        raise RoundError(
            f"its statistics exceed the announced range of {limit:.3g}; lower fraction_bits in the "
            "round file's secure_aggregation to widen it"
        )
    scaled = np.ldexp(sizes, fraction_bits - _LIMB)
    upper = np.floor(scaled)
    limbs = np.empty((2, len(values)), np.uint64)
    limbs[0] = upper
    # Multiplying by a power of two and subtracting the integer part are exact, so this is the only
    # rounding, and its result is below 2^64 since the difference is at most 1 - 2^-53.
    limbs[1] = np.rint(np.ldexp(scaled - upper, _LIMB))
    _negate(limbs, values < 0)
    return limbs


def decode(limbs: Limbs, fraction_bits: int) -> Reals:
    """The numbers that limbs stand for, ``[n]``, within a few units in the last place."""
    values = np.empty(limbs.shape[1])
    for start in range(0, len(values), _CHUNK):
        chunk = limbs[:, start : start + _CHUNK]
        values[start : start + _CHUNK] = _decode(chunk, fraction_bits)
    return values


def _decode(limbs: Limbs, fraction_bits: int) -> Reals:
    positive = limbs.copy()
    negative = (limbs[0] >> np.uint64(_LIMB - 1)).astype(bool)
    _negate(positive, negative)
    upper, lower = positive.astype(np.float64)
    values: Reals = np.ldexp(upper, _LIMB - fraction_bits) + np.ldexp(lower, -fraction_bits)
    values[negative] *= -1
    return values


def add(total: Limbs, other: Limbs) -> None:
    """Add ``other [2, n]`` to ``total [2, n]`` in place, modulo ``2^128``."""
    total[1] += other[1]
    total[0] += other[0]
    total[0] += total[1] < other[1]


def subtract(total: Limbs, other: Limbs) -> None:
    """Subtract ``other [2, n]`` from ``total [2, n]`` in place, modulo ``2^128``."""
    total[0] -= other[0]
    total[0] -= total[1] < other[1]
    total[1] -= other[1]


def _negate(limbs: Limbs, where: npt.NDArray[Any]) -> None:
    flipped = ~limbs[:, where]
    flipped[1] += np.uint64(1)
    flipped[0] += flipped[1] == 0
    limbs[:, where] = flipped
