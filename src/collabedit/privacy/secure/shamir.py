"""Shamir's secret sharing over a prime field (Shamir, 1979).

Forty lines, checked against published vectors, rather than another dependency of the most critical
part. Python's integers are not constant-time: do not use this on machines that others can
time.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

__all__ = ["PRIME", "SHARE_BYTES", "evaluate", "reconstruct", "split"]

#: ``2^521 - 1``, a Mersenne prime well above any secret of 32 bytes.
PRIME = 2**521 - 1

#: Bytes of a share.
SHARE_BYTES = 66


def split(secret: int, threshold: int, places: Sequence[int]) -> dict[int, int]:
    """Shares of a secret: any ``threshold`` of them determine it, and fewer reveal nothing.

    Args:
        secret: from 0 to :data:`PRIME` - 1.
        threshold: ``t``, at least 1 and at most the number of places.
        places: distinct numbers above 0, one for each share.

    Returns:
        The shares by place.

    Raises:
        ValueError: when the secret, the threshold or the places are out of range.
    """
    if not 0 <= secret < PRIME or not 1 <= threshold <= len(places):
        raise ValueError("the secret or the threshold is out of range")
    if len(set(places)) < len(places) or not all(0 < place < PRIME for place in places):
        raise ValueError("shares need distinct places above 0")
    coefficients = [secret, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {place: evaluate(coefficients, place) for place in places}


def evaluate(coefficients: Sequence[int], place: int, prime: int = PRIME) -> int:
    """The polynomial with these coefficients, lowest first, at a place."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % prime
    return value


def reconstruct(shares: Mapping[int, int], prime: int = PRIME) -> int:
    """The polynomial through the shares at 0 (Lagrange): the secret, if they are enough.

    Args:
        shares: by place.
        prime: of the field.
    """
    secret = 0
    for place, share in shares.items():
        above = below = 1
        for other in shares:
            if other != place:
                above = above * other % prime
                below = below * (other - place) % prime
        secret += share * above * pow(below, -1, prime)
    return secret % prime
