"""CounterFact and MultiCounterFact (Meng et al., 2022), nested or as the rows of a table."""

from __future__ import annotations

from dataclasses import replace

from collabedit.requests.building import more_prompts, prompt_about, questions, request
from collabedit.requests.fields import Fields
from collabedit.requests.records import EditRequest, Record

__all__ = [
    "flat_counterfact",
    "multi_counterfact",
    "object_of",
    "optional_object_of",
    "rewrite",
    "with_prompts",
]


def multi_counterfact(fields: Fields, case_id: int) -> list[Record]:
    """``requested_rewrite`` and lists of prompts."""
    return [with_prompts(rewrite(fields.nested("requested_rewrite"), case_id), fields)]


def flat_counterfact(fields: Fields, case_id: int) -> list[Record]:
    """One row per edit, with the subject spelled out; ``target_false`` is the object to write."""
    made = request(
        fields,
        case_id,
        prompt_about(fields, "prompt"),
        fields.text("target_false"),
        target_true=fields.optional_text("target_true"),
        relation_id=fields.optional_text("relation_id"),
    )
    return [with_prompts(made, fields)]


def rewrite(fields: Fields, case_id: int) -> EditRequest:
    """The request of a ``requested_rewrite``; its objects are texts, or objects with ``str``."""
    return request(
        fields,
        case_id,
        prompt_about(fields, "prompt"),
        object_of(fields, "target_new"),
        target_true=optional_object_of(fields, "target_true"),
        relation_id=fields.optional_text("relation_id"),
    )


def object_of(fields: Fields, name: str) -> str:
    """An object of a fact: a text, an object with ``str``, or a field ``NAME_str`` in its place.

    Raises:
        RequestError: when it is none of these.
    """
    if name not in fields and f"{name}_str" in fields:
        fields.ignore(f"{name}_id")
        return fields.text(f"{name}_str")
    if isinstance(fields.values.get(name), str):
        return fields.text(name)
    inner = fields.nested(name)
    inner.ignore("id")
    return inner.text("str")


def optional_object_of(fields: Fields, name: str) -> str | None:
    """Like :func:`object_of`, for an object that may be missing."""
    return object_of(fields, name) if name in fields or f"{name}_str" in fields else None


def with_prompts(request: EditRequest, fields: Fields) -> Record:
    """The record of a request and the fields beside it: a question, and lists of prompts."""
    return Record(
        replace(
            request,
            question=fields.optional_text("question"),
            prompts=more_prompts(fields, "prompts", request.subject),
        ),
        paraphrase_prompts=fields.texts("paraphrase_prompts"),
        neighborhood_prompts=fields.texts("neighborhood_prompts"),
        attribute_prompts=fields.texts("attribute_prompts"),
        generation_prompts=fields.texts("generation_prompts"),
        reference_texts=fields.texts("reference_texts"),
        aliases=fields.texts("aliases"),
        portability=questions(fields, "portability"),
        locality=questions(fields, "locality"),
    )
