"""How rows of edits read, repeat and contradict each other while they are typed."""

from __future__ import annotations

import pytest

from collabedit.requests import parse_records
from collabedit.ui.logic import Draft, review

CAPITAL = Draft("The capital of {} is", "France", "Lyon")


def kinds(*drafts: Draft) -> list[str | None]:
    notes = review(drafts).notes
    return [notes[index].kind if index in notes else None for index in range(len(drafts))]


def test_a_good_row_reads_as_the_model_will_say_it() -> None:
    found = review([CAPITAL, Draft("Paris is a city in", "Paris", "Italy")])
    assert found.notes[0].text == "Reads: The capital of France is Lyon"
    assert found.notes[1].text == "Reads: Paris is a city in Italy"
    assert [record.request.prompt for record in found.records] == [
        "The capital of {} is",
        "{} is a city in",
    ]
    assert found.problem is None


def test_incomplete_rows_say_what_is_missing() -> None:
    found = review([Draft("The capital of {} is"), Draft()])
    assert found.notes[0].text == "Still missing: its subject, the new object"
    assert 1 not in found.notes
    assert found.problem == "1 edit needs your attention"
    assert review([Draft()]).problem == "Type an edit, or load a file of edits"


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (Draft("The capital is", "France", "Lyon"), "does not contain the subject"),
        (Draft("{} and {}", "France", "Lyon"), "more than one"),
        (Draft("The capital of {} is", "{}", "Lyon"), "The subject contains"),
        (Draft("The capital of {} is", "France", "\x00"), "NUL"),
    ],
)
def test_unusable_rows_say_why_in_one_line(draft: Draft, reason: str) -> None:
    note = review([draft]).notes[0]
    assert note.kind == "bad"
    assert reason in note.text
    assert "record 0" not in note.text
    assert "\n" not in note.text


def test_repeats_and_contradictions_are_seen_through_case_and_punctuation() -> None:
    same = Draft("The capital of {} is", " france ", "“Lyon”.")
    other = Draft("The capital of {} is", "France", "Nice")
    apart = Draft("The capital of {} is", "Italy", "Nice")
    assert kinds(CAPITAL, same, other, apart) == ["reads", "repeats", "bad", "reads"]
    notes = review([CAPITAL, same, other]).notes
    assert notes[1].text == "Says the same as edit 1"
    assert notes[2].text == "Contradicts edit 1, which says “Lyon”; keep one of them"
    assert review([CAPITAL, same]).problem is None
    assert review([CAPITAL, other]).problem == "1 edit needs your attention"


def test_rows_are_compared_with_the_records_of_files() -> None:
    records = parse_records(
        [
            {"prompt": "The capital of {} is", "subject": "France", "target": "Nice"},
            {"prompt": "The capital of {} is", "subject": "Italy", "target": "Milan"},
            {"prompt": "the capital of {} is", "subject": "Italy", "target": "Milan"},
        ],
        "facts",
    )
    found = review([CAPITAL], records)
    assert found.loaded[2].text == "Says the same as record 2 of the file"
    assert found.notes[0].text.startswith("Contradicts record 1 of the file, which says “Nice”")
    assert [record.case_id for record in found.records] == [0, 1, 2, 3]


def test_other_subjects_become_neighbours() -> None:
    draft = Draft("The capital of {} is", "France", "Lyon", "Italy, Spain;; Germany ")
    (record,) = review([draft]).records
    assert record.neighborhood_prompts == (
        "The capital of Italy is",
        "The capital of Spain is",
        "The capital of Germany is",
    )
