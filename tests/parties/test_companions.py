"""Whom a party's edits were summed with: what must be refused, and what its notes contain."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from collabedit.errors import InputError, RoundError
from collabedit.parties import Companions
from tests.editing.facts import REQUESTS

EVERYONE = ("bank", "clinic", "hospital")


@pytest.fixture
def notes(tmp_path: Path) -> Companions:
    made = Companions("bank", tmp_path / "notes.json")
    made.join("first", REQUESTS[:2], EVERYONE)
    return made


def test_summing_the_same_edits_with_other_parties_is_refused(notes: Companions) -> None:
    for parties, named in (
        (EVERYONE[:2], "hospital is in only one"),
        ((*EVERYONE, "school"), "school is in only one"),
        (("bank", "school"), "clinic, hospital, school are in only one"),
    ):
        with pytest.raises(RoundError, match=named):
            notes.join("second", REQUESTS[1:3], parties)


def test_sums_that_expose_nobody_are_allowed(notes: Companions) -> None:
    notes.join("first", REQUESTS[:2], EVERYONE)  # another layer of the same round
    notes.join("second", REQUESTS[:2], EVERYONE[::-1])
    notes.join("third", REQUESTS[2:4], EVERYONE[:2])


def test_a_party_may_accept_the_exposure_which_is_noted(notes: Companions) -> None:
    notes.join("second", REQUESTS[:2], EVERYONE[:2], again=True)
    with pytest.raises(RoundError, match="hospital is in only one"):
        notes.join("third", REQUESTS[:2], EVERYONE)


def test_the_refusal_and_the_notes_reveal_nothing_about_the_edits(
    notes: Companions, tmp_path: Path
) -> None:
    """Not even how many there are, since the coordinator reads the refusal."""
    lines = set()
    for edits in (REQUESTS[:1], REQUESTS[:2]):
        with pytest.raises(RoundError) as caught:
            notes.join("second", edits, EVERYONE[:2])
        lines.add(str(caught.value))
    assert len(lines) == 1
    path = tmp_path / "notes.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for request in REQUESTS:
        assert request.subject not in path.read_text()
    assert len(json.loads(path.read_text())["first"]["edits"]) == 2


def test_damaged_notes_are_reported(notes: Companions, tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"first": 3}')
    with pytest.raises(InputError, match="damaged"):
        notes.join("second", REQUESTS[:1], EVERYONE)
