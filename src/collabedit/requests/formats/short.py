"""The short form: ``{"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"}``."""

from __future__ import annotations

from collections.abc import Mapping

from collabedit.requests.building import prompt_about, request
from collabedit.requests.fields import Fields
from collabedit.requests.formats.counterfact import object_of, with_prompts
from collabedit.requests.records import Record

__all__ = ["short"]


def short(fields: Fields, case_id: int) -> list[Record]:
    """Prompt, subject and target, and whatever else a record may have, under its own name."""
    made = request(
        fields,
        case_id,
        prompt_about(fields, "prompt"),
        _target(fields),
        target_true=_old(fields),
        relation_id=fields.optional_text("relation_id"),
    )
    return [with_prompts(made, fields)]


def _target(fields: Fields) -> str:
    """The new object, which may be written as in the ``requested_rewrite`` of CounterFact."""
    if "target" not in fields and isinstance(fields.values.get("target_new"), Mapping):
        return object_of(fields, "target_new")
    return fields.text("target", "target_new")


def _old(fields: Fields) -> str | None:
    return object_of(fields, "target_true") if "target_true" in fields else None
