"""Looking things up by the names that users type."""

from enum import Enum

import pytest

from collabedit.errors import UnknownNameError
from collabedit.names import Registry, enum_member


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def test_rows_are_found_in_any_case_and_keep_their_order() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("Two", 2)
    registry.add("one", 1)
    assert list(registry) == [2, 1]
    assert registry.find(" tWO ") == 2


def test_an_unknown_name_lists_the_known_ones_as_they_were_added() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("Two", 2)
    with pytest.raises(UnknownNameError, match="unknown number 'three'; choose one of: Two"):
        registry.find("three")


def test_a_row_is_replaced_in_its_position() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("a", 1)
    registry.add("b", 2)
    registry.add("A", 3)
    assert list(registry) == [3, 2]


def test_a_copy_is_independent() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("a", 1)
    other = registry.copy()
    other.add("b", 2)
    assert list(registry) == [1]
    assert list(other) == [1, 2]


def test_members_are_found_by_value() -> None:
    assert enum_member(Colour, " Red", "colour") is Colour.RED
    with pytest.raises(UnknownNameError, match="unknown colour 'green'; choose one of: red, blue"):
        enum_member(Colour, "green", "colour")
