"""The short form: ``{"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"}``."""

from __future__ import annotations

from collabedit.requests.building import prompt_about, request
from collabedit.requests.fields import Fields
from collabedit.requests.formats.counterfact import with_prompts
from collabedit.requests.records import Record

__all__ = ["short"]


def short(fields: Fields, case_id: int) -> list[Record]:
    """Prompt, subject and target, and whatever else a record may have, under its own name."""
    made = request(
        fields,
        case_id,
        prompt_about(fields, "prompt"),
        fields.text("target", "target_new"),
        target_true=fields.optional_text("target_true"),
        relation_id=fields.optional_text("relation_id"),
    )
    return [with_prompts(made, fields)]
