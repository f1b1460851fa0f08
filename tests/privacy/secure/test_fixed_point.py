"""Numbers modulo 2^128, compared with Python's own integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import RoundError
from collabedit.privacy.secure.fixed_point import add, decode, encode, subtract

BITS = 96
LIMIT = 2.0**31 / 8
reals = st.floats(-LIMIT, LIMIT, exclude_min=True, exclude_max=True)
words = st.integers(0, 2**128 - 1)


def whole(limbs: np.ndarray) -> list[int]:
    """The limbs as integers from 0 to 2^128 - 1."""
    return [(int(upper) << 64) + int(lower) for upper, lower in limbs.T]


def limbs_of(numbers: list[int]) -> np.ndarray:
    mask = 2**64 - 1
    return np.array([[n >> 64 for n in numbers], [n & mask for n in numbers]], np.uint64)


@given(st.lists(reals, min_size=1, max_size=20))
@settings(max_examples=200)
def test_numbers_are_rounded_to_the_nearest_step(values: list[float]) -> None:
    for value, number in zip(values, whole(encode(np.array(values), BITS, LIMIT)), strict=True):
        signed = number - 2**128 if number >= 2**127 else number
        assert abs(Fraction(value) * 2**BITS - signed) <= Fraction(1, 2)


@given(st.lists(reals, min_size=1, max_size=8))
def test_a_sum_of_numbers_is_exact(values: list[float]) -> None:
    total = np.zeros((2, 1), np.uint64)
    for value in values:
        add(total, encode(np.array([value]), BITS, LIMIT))
    exact = float(sum(map(Fraction, values)))
    step = len(values) * 2.0**-BITS
    assert abs(decode(total, BITS)[0] - exact) <= step + 4 * np.spacing(abs(exact))


@given(st.lists(st.tuples(words, words), min_size=1, max_size=20))
def test_addition_carries_and_subtraction_undoes_it(pairs: list[tuple[int, int]]) -> None:
    first, second = (limbs_of([pair[i] for pair in pairs]) for i in (0, 1))
    total = first.copy()
    add(total, second)
    assert whole(total) == [(a + b) % 2**128 for a, b in pairs]
    subtract(total, second)
    assert whole(total) == [a for a, _ in pairs]


@pytest.mark.parametrize("value", [LIMIT, -LIMIT, 1e300, np.inf, -np.inf, np.nan])
def test_numbers_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(RoundError, match=r"exceed the announced range of 2\.68e\+08"):
        encode(np.array([0.0, value]), BITS, LIMIT)
