"""MQuAKE (Zhong et al., 2023): several edits per record, and questions that need them all."""

from __future__ import annotations

from dataclasses import replace

from collabedit.requests.fields import Fields
from collabedit.requests.formats.counterfact import rewrite
from collabedit.requests.records import Question, Record

__all__ = ["mquake"]


def mquake(fields: Fields, case_id: int) -> list[Record]:
    """A record for each edit; the last one has the multi-hop questions, which depend on all."""
    made = [_edit(edit, case_id) for edit in fields.entries("requested_rewrite")]
    if not made:
        raise fields.error("'requested_rewrite' is an empty list; give at least one edit")
    made[-1] = replace(made[-1], portability=_multi_hop(fields))
    return made


def _edit(fields: Fields, case_id: int) -> Record:
    return Record(replace(rewrite(fields, case_id), question=fields.optional_text("question")))


def _multi_hop(fields: Fields) -> tuple[Question, ...]:
    answers = fields.leaves("new_answer") + fields.leaves("new_answer_alias")
    return tuple((text, answers) for text in fields.texts("questions")) if answers else ()
