"""A second, conflicting answer to each question of a data set."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from collabedit.errors import DatasetError
from collabedit.requests import Record

__all__ = ["check_conflicts", "conflicting"]


def conflicting(records: Sequence[Record], seed: int = 0) -> list[Record]:
    """The same records with another object: set B of the paper's conflict experiments.

    Each takes a random object that other records of its relation have, or any record where its
    relation has no other object; never its own new or true one.

    Args:
        records: set A.
        seed: of the choice.

    Raises:
        DatasetError: when the records know no third object for one of them.
    """
    by_relation: dict[str | None, set[str]] = defaultdict(set)
    for record in records:
        by_relation[record.request.relation_id] |= _objects(record)
    anything = set().union(*by_relation.values())
    chooser = random.Random(seed)
    made = []
    for record in records:
        own = _objects(record)
        known = by_relation[record.request.relation_id] - own or anything - own
        if not known:
            raise DatasetError(
                f"no conflicting object can be found for case {record.case_id}: all records have "
                "the same two objects; give a file of conflicting records instead"
            )
        request = replace(record.request, target_new=chooser.choice(sorted(known)))
        made.append(replace(record, request=request))
    return made


def check_conflicts(records: Sequence[Record], conflicts: Sequence[Record]) -> list[Record]:
    """The conflicting record of each record, in their order.

    Raises:
        DatasetError: when one is missing, or says the same.
    """
    by_question = {(r.request.prompt, r.request.subject): r for r in conflicts}
    found = []
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
        found.append(other)
    return found


def _objects(record: Record) -> set[str]:
    request = record.request
    return {request.target_new} | ({request.target_true} if request.target_true else set())
