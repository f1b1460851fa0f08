"""Shamir shares, against published vectors."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabedit.privacy.secure.shamir import PRIME, evaluate, reconstruct, split

#: The order of Ed25519's group, over which RFC 9591 shares.
ORDER = 2**252 + 27742317777372353535851937790883648493


def little(digits: str) -> int:
    return int.from_bytes(bytes.fromhex(digits), "little")


def test_the_vectors_of_rfc_9591_are_reproduced() -> None:
    """FROST(Ed25519, SHA-512), appendix E.1: two of three."""
    secret = little("7b1c33d3f5291d85de664833beb1ad469f7fb6025a0ec78b3a790c6e13a98304")
    slope = little("178199860edd8c62f5212ee91eff1295d0d670ab4ed4506866bae57e7030b204")
    shares = {
        1: little("929dcc590407aae7d388761cddb0c0db6f5627aea8e217f4a033f2ec83d93509"),
        2: little("a91e66e012e4364ac9aaa405fcafd370402d9859f7b6685c07eed76bf409e80d"),
        3: little("d3cb090a075eb154e82fdb4b3cb507f110040905468bb9c46da8bdea643a9a02"),
    }
    assert {point: evaluate([secret, slope], point, ORDER) for point in shares} == shares
    for pair in combinations(shares, 2):
        assert reconstruct({point: shares[point] for point in pair}, ORDER) == secret


def test_the_example_of_six_shares_modulo_1613_is_reproduced() -> None:
    """Secret 1234, coefficients 166 and 94: a worked example from the literature, three of six."""
    shares = {1: 1494, 2: 329, 3: 965, 4: 176, 5: 1188, 6: 775}
    assert {x: evaluate([1234, 166, 94], x, 1613) for x in shares} == shares
    for chosen in combinations(shares, 3):
        assert reconstruct({x: shares[x] for x in chosen}, 1613) == 1234


@given(st.integers(0, 2**256 - 1), st.integers(1, 7), st.integers(0, 3))
def test_threshold_many_shares_reveal_the_secret(secret: int, threshold: int, more: int) -> None:
    shares = split(secret, threshold, range(1, threshold + more + 1))
    chosen = dict(list(shares.items())[-threshold:])
    assert reconstruct(chosen) == secret
    assert reconstruct(shares) == secret


def test_one_share_fewer_fits_every_secret() -> None:
    shares = split(1234, 3, [1, 2, 3])
    two = {point: shares[point] for point in (1, 2)}
    for guess in (0, 1, 99, 1234, PRIME - 1):
        # The parabola through both shares and the guess exists, whatever the guess is.
        value = reconstruct({**{p - 3: s for p, s in two.items()}, -3: guess})
        assert reconstruct({**two, 3: value}) == guess
    assert split(1234, 3, [1, 2, 3]) != shares


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [(-1, 1, [1]), (PRIME, 1, [1]), (1, 0, [1]), (1, 2, [1]), (1, 1, [0]), (1, 1, [1, 1])],
)
def test_invalid_parameters_are_refused(secret: int, threshold: int, points: list[int]) -> None:
    with pytest.raises(ValueError, match=r"out of range|distinct"):
        split(secret, threshold, points)
