"""Conflicting answers: made of other records' objects, or read from a file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabedit.datasets import check_conflicts, conflicting, load_dataset
from collabedit.errors import DatasetError
from collabedit.requests import EditRequest, Record

OBJECTS = ["Rome", "Paris", "Oslo", "Bern", "Lima"]


def make(*facts: tuple[str, str | None, str | None]) -> list[Record]:
    """Records of new object, true object and relation."""
    return [
        Record(
            EditRequest(i, "The capital of {} is", f"land {i}", new, true, relation),
            paraphrase_prompts=(f"land {i} is governed from",),
        )
        for i, (new, true, relation) in enumerate(facts)
    ]


def objects(record: Record) -> set[str]:
    return {record.request.target_new, record.request.target_true} - {None}


@given(
    facts=st.lists(
        st.tuples(
            st.sampled_from(OBJECTS),
            st.none() | st.sampled_from(OBJECTS),
            st.sampled_from(["P1", "P2", None]),
        ),
        min_size=1,
        max_size=12,
    ),
    seed=st.integers(0, 9),
)
def test_the_other_answer_is_of_the_same_relation_if_possible(facts, seed) -> None:
    records = make(*facts)
    everything = set().union(*map(objects, records))
    if any(everything <= objects(record) for record in records):
        with pytest.raises(DatasetError, match="no conflicting object can be found for case"):
            conflicting(records, seed)
        return
    for record, other in zip(records, conflicting(records, seed), strict=True):
        chosen = other.request.target_new
        assert chosen not in objects(record)
        related = [r for r in records if r.request.relation_id == record.request.relation_id]
        of_relation = set().union(*map(objects, related)) - objects(record)
        assert chosen in (of_relation or everything)
        # Nothing but the object differs: the question, its true answer and its prompts stay.
        restored = replace(other.request, target_new=record.request.target_new)
        assert replace(other, request=restored) == record


def test_a_relation_with_two_objects_borrows_from_others() -> None:
    records = make(("Rome", "Paris", "P1"), ("Paris", "Rome", "P1"), ("Oslo", "Bern", "P2"))
    made = [other.request.target_new for other in conflicting(records)]
    assert set(made[:2]) <= {"Oslo", "Bern"}
    assert made[2] in {"Rome", "Paris"}


def test_objects_come_from_the_whole_data_set() -> None:
    records = make(("Rome", "Paris", "P1"), ("Oslo", "Bern", "P2"))
    further = [
        replace(other, request=replace(other.request, subject=f"other {other.request.subject}"))
        for other in make(("Lima", "Quito", "P1"), ("Cairo", None, "P3"))
    ]
    chosen = {
        tuple(other.request.target_new for other in conflicting(records, seed, further))
        for seed in range(60)
    }
    assert {first for first, _ in chosen} == {"Lima", "Quito"}
    # P2 has no other objects, so that all others can be chosen.
    assert {second for _, second in chosen} == {"Rome", "Paris", "Lima", "Quito", "Cairo"}


def test_another_right_answer_is_not_a_conflict() -> None:
    """For example, a country with several official languages."""
    (record,) = make(("Rome", "Paris", "P1"))
    right = replace(record, request=replace(record.request, target_new="Bern", target_true="Oslo"))
    other = replace(
        record, request=replace(record.request, subject="elsewhere", target_true="Lima")
    )
    for seed in range(20):
        (made,) = conflicting([record], seed, [right, other])
        assert made.request.target_new == "Lima"
    with pytest.raises(DatasetError, match="only those of its own question"):
        conflicting([record], 0, [right])


def test_the_prompt_identifies_an_unnamed_relation() -> None:
    (record,) = make(("Rome", "Paris", None))
    same = replace(record, request=replace(record.request, target_true="Oslo"))
    asked = replace(record.request, prompt="The anthem of {} is", target_true="Lima")
    for seed in range(20):
        (made,) = conflicting([record], seed, [same, replace(record, request=asked)])
        assert made.request.target_new == "Lima"


def test_the_seed_decides() -> None:
    records = make(*[(new, None, "P1") for new in OBJECTS * 4])
    chosen = [[r.request.target_new for r in conflicting(records, seed)] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(set(chosen[0])) > 2
    assert [r.request.target_new for r in records] == OBJECTS * 4  # the input is left alone


def test_every_packaged_fact_can_be_contradicted() -> None:
    records = load_dataset("worldfacts")
    by_relation: dict[str | None, set[str]] = {}
    for record in records:
        by_relation.setdefault(record.request.relation_id, set()).update(objects(record))
    for record, other in zip(records, conflicting(records), strict=True):
        assert other.request.target_new in by_relation[record.request.relation_id]
        assert other.request.target_new not in objects(record)


def test_conflicts_of_a_file_come_in_the_records_order() -> None:
    records = make(("Rome", "Paris", "P1"), ("Paris", "Rome", "P1"), ("Oslo", "Bern", "P2"))
    others = conflicting(records)
    unrelated = make(*[("Lima", None, None)] * 5)[4]
    assert check_conflicts(records, [unrelated, *others[::-1]]) == others
    assert check_conflicts(records[1:2], others) == others[1:2]


def test_the_question_is_the_prompt_with_its_subject() -> None:
    """Two records about one subject, or with one prompt, are not taken for each other."""
    record, namesake = make(("Rome", "Paris", "P1"), ("Rome", "Paris", "P1"))
    same_subject = replace(record.request, prompt="The largest city of {} is")
    others = [
        replace(record, request=replace(same_subject, target_new="Oslo")),
        replace(namesake, request=replace(namesake.request, target_new="Bern")),
    ]
    with pytest.raises(DatasetError, match="case 0 has no conflicting record; give one with"):
        check_conflicts([record], others)


def test_a_conflict_with_the_same_answer_is_refused() -> None:
    records = make(("Rome", "Paris", "P1"), ("Oslo", "Bern", "P2"))
    others = [conflicting(records)[0], records[1]]
    with pytest.raises(DatasetError, match="case 1: its conflicting record has the same"):
        check_conflicts(records, others)
