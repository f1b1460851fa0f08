"""Questions with answers: those of unified-model-editing, and WikiBigEdit."""

from __future__ import annotations

from collabedit.requests.building import neighbour, prompt_about, request
from collabedit.requests.fields import Fields
from collabedit.requests.records import Question, Record

__all__ = ["question_answer", "wikibigedit"]


def question_answer(fields: Fields, case_id: int) -> list[Record]:
    """``question``, ``subject`` and ``answer``."""
    made = request(
        fields,
        fields.integer("case_index", default=case_id),
        prompt_about(fields, "question"),
        fields.text("answer"),
        target_true=fields.optional_text("target_true"),
    )
    paraphrases = fields.texts("rephrase", "paraphrase_prompts")
    return [Record(made, kind="zsre", paraphrase_prompts=paraphrases)]


def wikibigedit(fields: Fields, case_id: int) -> list[Record]:
    """``update`` asks, ``ans`` answers (Thede et al., 2025); ``mhop`` follows from it."""
    locality = _pair(fields, "loc", "loc_ans")
    prompts, target = neighbour(locality)
    return [
        Record(
            request(fields, case_id, prompt_about(fields, "update"), fields.text("ans")),
            kind="zsre",
            paraphrase_prompts=fields.texts("rephrase", "personas"),
            neighborhood_prompts=prompts,
            neighborhood_target=target,
            portability=_pair(fields, "mhop", "mhop_ans"),
            locality=locality,
        )
    ]


def _pair(fields: Fields, prompt_name: str, answer_name: str) -> tuple[Question, ...]:
    prompt = fields.take(prompt_name)
    answers = fields.leaves(answer_name)
    return ((fields.text(prompt_name), answers),) if prompt and answers else ()
