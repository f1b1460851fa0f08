"""Shamir's secret sharing over a prime field (Shamir, 1979).

Forty lines, checked against published vectors, rather than another dependency in the most critical
part. Python's integers are not constant-time: do not use this on machines whose timing others can
observe.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

__all__ = ["PRIME", "SHARE_BYTES", "evaluate", "reconstruct", "split"]

#: ``2^521 - 1``, a Mersenne prime well above any secret of 32 bytes.
PRIME = 2**521 - 1

#: Bytes of a share.
SHARE_BYTES = 66


def split(secret: int, threshold: int, points: Sequence[int]) -> dict[int, int]:
    """Shares of a secret: any ``threshold`` of them determine it, and fewer reveal nothing.

    Args:
        secret: from 0 to :data:`PRIME` - 1.
        threshold: ``t``, at least 1 and at most the number of points.
        points: distinct numbers above 0, one for each share.

    Returns:
        The shares by point.

    Raises:
        ValueError: when the secret, the threshold or the points are out of range.
    """
    if not 0 <= secret < PRIME or not 1 <= threshold <= len(points):
        raise ValueError("the secret or the threshold is out of range")
    if len(set(points)) < len(points) or not all(0 < point < PRIME for point in points):
        raise ValueError("shares need distinct points above 0")
    coefficients = [secret, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {point: evaluate(coefficients, point) for point in points}


def evaluate(coefficients: Sequence[int], point: int, prime: int = PRIME) -> int:
    """The polynomial with these coefficients, lowest first, at a point."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % prime
    return value


def reconstruct(shares: Mapping[int, int], prime: int = PRIME) -> int:
    """The polynomial through the shares, at 0 (Lagrange): the secret, if there are enough shares.

    Args:
        shares: by point.
        prime: of the field.
    """
    secret = 0
    for point, share in shares.items():
        numerator = denominator = 1
        for other in shares:
            if other != point:
                numerator = numerator * other % prime
                denominator = denominator * (other - point) % prime
        secret += share * numerator * pow(denominator, -1, prime)
    return secret % prime
