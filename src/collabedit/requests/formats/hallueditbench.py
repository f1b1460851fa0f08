"""HalluEditBench (Huang et al., 2025): a table of facts that a model gets wrong."""

from __future__ import annotations

from collabedit.requests.building import prompt_about, request
from collabedit.requests.fields import Fields
from collabedit.requests.records import Question, Record

__all__ = ["hallueditbench"]

_HOPS = range(2, 7)


def hallueditbench(fields: Fields, case_id: int) -> list[Record]:
    """``object`` answers ``question``; earlier answers of models, ``output_MODEL``, are ignored."""
    fields.ignore(*(name for name in fields.values if name.startswith(("output_", "eval_"))))
    prompt, target = prompt_about(fields, "question"), fields.text("object")
    asked = [("yes_question", "Yes"), ("no_question", "No")]
    asked += [("reversed_relation_question", prompt.subject)]
    follows: list[Question] = [
        (text, (answer,)) for name, answer in asked if (text := fields.optional_text(name))
    ]
    for hop in _HOPS:
        question = fields.optional_text(f"question_{hop}hop")
        answers = fields.leaves(f"answer_{hop}hop")
        follows += [(question, answers)] if question and answers else []
    return [
        Record(
            request(fields, case_id, prompt, target, relation_id=fields.optional_text("relation")),
            kind="zsre",
            paraphrase_prompts=fields.texts("paraphrased_question"),
            neighborhood_prompts=fields.texts("locality_question"),
            portability=tuple(follows),
        )
    ]
