"""zsRE as ROME and MEMIT evaluate it: ``src, subject, answers, rephrase, loc, loc_ans``."""

from __future__ import annotations

from collabedit.requests.building import Prompt, request
from collabedit.requests.fields import Fields
from collabedit.requests.records import Record

__all__ = ["zsre"]


def zsre(fields: Fields, case_id: int) -> list[Record]:
    """The first answer is written, others are aliases; ``loc`` is a Natural Questions prompt."""
    source, subject = fields.text("src"), fields.text("subject")
    if subject not in source:
        raise fields.error("'src' does not contain the subject; spell the subject as 'src' does")
    answers = fields.texts("answers")
    if not answers:
        raise fields.error("'answers' is missing or empty; give at least one answer")
    prompt = Prompt(source.replace(subject, "{}", 1), subject)
    loc = fields.optional_text("loc")
    answer = fields.text("loc_ans") if loc is not None else None
    fields.ignore("loc_ans")
    return [
        Record(
            request(fields, case_id, prompt, answers[0]),
            kind="zsre",
            paraphrase_prompts=(fields.text("rephrase"),) if fields.take("rephrase") else (),
            neighborhood_prompts=() if loc is None else (f"{loc}?",),
            neighborhood_target=answer,
            aliases=tuple(answer.strip() for answer in answers[1:]),
        )
    ]
