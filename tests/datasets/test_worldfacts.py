"""The packaged data set: its invariants, and that its builder reproduces it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from collabedit.datasets import load_dataset
from collabedit.evaluation.matching import names
from collabedit.requests import Record
from tools.build_worldfacts import DEFAULT_PATH, build, problems


def records() -> Sequence[Record]:
    return load_dataset("worldfacts")


@pytest.mark.slow
def test_the_builder_reproduces_the_file() -> None:
    built = build(0, 240)
    assert json.loads(DEFAULT_PATH.read_text(encoding="utf-8")) == built
    assert problems(built) == []


def test_no_neighbour_is_edited_by_any_record() -> None:
    subjects = {record.request.subject for record in records()}
    for record in records():
        prompt, true = record.request.prompt, record.request.target_true
        assert true is not None
        for neighbour in record.neighborhood_prompts:
            same = {prompt.replace("{}", subject) for subject in subjects}
            assert neighbour not in same
            assert not names(neighbour, true)


def test_every_record_has_a_question_about_its_subject() -> None:
    for record in records():
        asked = record.request.question
        assert asked is not None
        assert asked.endswith("?")
        assert names(asked, record.request.subject)
        for question, answers in (*record.locality, *record.portability):
            assert names(question, record.request.subject)
            assert answers


def test_many_records_have_other_facts_and_what_follows() -> None:
    found = records()
    assert sum(bool(record.locality) for record in found) > 100
    assert sum(bool(record.portability) for record in found) > 80
