"""A second, conflicting answer to each question of a data set."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from collabedit.errors import DatasetError
from collabedit.requests import Record

__all__ = ["check_conflicts", "conflicting"]


def conflicting(
    records: Sequence[Record], seed: int = 0, dataset: Sequence[Record] = ()
) -> list[Record]:
    """The same records with another object: set B of the paper's conflict experiments.

    Each gets a random object from other records of its relation, or from any record if its relation
    has no other object; never the new or true object of a record with the same subject and
    relation, since a fact can have several right answers.

    Args:
        records: set A.
        seed: for the choice.
        dataset: further records to choose objects from, such as the data set that A is part of.

    Raises:
        DatasetError: when there is no third object for a record.
    """
    by_relation: dict[str | None, set[str]] = defaultdict(set)
    by_question: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in (*records, *dataset):
        by_relation[record.request.relation_id] |= _objects(record)
        by_question[_question(record)] |= _objects(record)
    anything = set().union(*by_relation.values())
    chooser = random.Random(seed)
    made = []
    for record in records:
        answers = by_question[_question(record)]
        others = by_relation[record.request.relation_id] - answers or anything - answers
        if not others:
            raise DatasetError(
                f"no conflicting object can be found for case {record.case_id}: the data set has "
                "only those of its own question; give a file of conflicting records instead"
            )
        request = replace(record.request, target_new=chooser.choice(sorted(others)))
        made.append(replace(record, request=request))
    return made


def check_conflicts(records: Sequence[Record], conflicts: Sequence[Record]) -> list[Record]:
    """The conflicting record of each record, in their order.

    Raises:
        DatasetError: when one is missing, or has the same object.
    """
    by_question = {(r.request.prompt, r.request.subject): r for r in conflicts}
    matched = []
    for record in records:
        request = record.request
        other = by_question.get((request.prompt, request.subject))
        if other is None:
            raise DatasetError(
                f"case {record.case_id} has no conflicting record; give one with the same prompt "
                "and subject and another target_new"
            )
        if other.request.target_new == request.target_new:
            raise DatasetError(
                f"case {record.case_id}: its conflicting record has the same target_new; "
                "give it another one"
            )
        matched.append(other)
    return matched


def _question(record: Record) -> tuple[str, str]:
    """Subject and relation; an unnamed relation is identified by its prompt."""
    request = record.request
    return request.subject, request.relation_id or request.prompt


def _objects(record: Record) -> set[str]:
    request = record.request
    return {request.target_new} | ({request.target_true} if request.target_true else set())
