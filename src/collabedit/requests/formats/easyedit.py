"""EasyEdit's records: also KnowEdit (Zhang et al., 2024) and QAEdit (Yang et al., 2025)."""

from __future__ import annotations

from collabedit.requests.building import neighbour, prompt_about, questions, request
from collabedit.requests.fields import Fields
from collabedit.requests.records import Question, Record

__all__ = ["easyedit", "wikibio"]


def easyedit(fields: Fields, case_id: int) -> list[Record]:
    """Prompt, subject and new object, with rephrased, portability and locality questions.

    The old object is the first of ``ground_truth``. Token accuracy measures the neighbourhood on
    the first locality question that has an answer.
    """
    old = fields.leaves("ground_truth")
    true = fields.optional_text("target_true") or (old[0] if old else None)
    locality = questions(fields, "locality") + _flat(fields, "locality")
    prompts, target = neighbour(locality)
    made = request(
        fields,
        case_id,
        prompt_about(fields, "prompt"),
        fields.text("target_new", "target"),
        target_true=true,
        relation_id=fields.optional_text("relation_id"),
    )
    return [
        Record(
            made,
            kind="zsre",
            paraphrase_prompts=fields.texts("rephrase", "rephrase_prompt", "paraphrase_prompts"),
            neighborhood_prompts=prompts,
            neighborhood_target=target,
            portability=questions(fields, "portability") + _flat(fields, "portability"),
            locality=locality,
        )
    ]


def wikibio(fields: Fields, case_id: int) -> list[Record]:
    """A passage's opening about a concept, and the text that should follow it."""
    locality = questions(fields, "locality")
    prompts, target = neighbour(locality)
    made = request(fields, case_id, prompt_about(fields, "text", "concept"), fields.text("labels"))
    return [
        Record(
            made,
            kind="zsre",
            neighborhood_prompts=prompts,
            neighborhood_target=target,
            locality=locality,
        )
    ]


def _flat(fields: Fields, kind: str) -> tuple[Question, ...]:
    """A single question as two fields of the record: ``KIND_prompt`` and ``KIND_ground_truth``."""
    prompt = fields.optional_text(f"{kind}_prompt")
    answers = fields.leaves(f"{kind}_ground_truth")
    return ((prompt, answers),) if prompt is not None and answers else ()
