"""RippleEdits (Cohen et al., 2024): an edit as a sentence, and tests of its consequences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from collabedit.requests.building import Prompt, neighbour, request
from collabedit.requests.fields import Fields
from collabedit.requests.records import Question, Record

__all__ = ["ripple_edits"]

_FOLLOWS = (
    "Logical_Generalization",
    "Compositionality_I",
    "Compositionality_II",
    "Subject_Aliasing",
)
_UNTOUCHED = ("Relation_Specificity", "Relation_Specifity", "Forgetfulness")

#: Where a sentence moves from the subject to the object.
_VERB = re.compile(r" (?:is followed by|is|are|follows) ")

#: Heads in which the subject does not follow an "of".
_CLAUSE = re.compile(
    r"^(?:which|position held by|number of children|award|currency in|anthem .*performed in) "
    r"(?P<subject>.+?)(?: (?:is associated with|is a member of|is part of|is the capital of|"
    r"plays in|has|won))?$"
)
_WHICH = re.compile(r"^[a-z ]+?(?= which )")


def ripple_edits(fields: Fields, case_id: int) -> list[Record]:
    """The edit's sentence holds subject and object, and its relation helps to separate them."""
    edit = fields.nested("edit")
    edit.ignore("subject_id", "target_id")
    relation = edit.optional_text("relation")
    head, target, old = _split(edit)
    prompt = _about(edit, head, relation or "")
    locality = _tests(fields, _UNTOUCHED)
    prompts, answer = neighbour(locality)
    return [
        Record(
            request(edit, case_id, prompt, target, target_true=old, relation_id=relation),
            kind="zsre",
            neighborhood_prompts=prompts,
            neighborhood_target=answer,
            portability=_tests(fields, _FOLLOWS),
            locality=locality,
        )
    ]


def _split(edit: Fields) -> tuple[str, str, str | None]:
    """The sentence's head, its new object and, if the replaced fact is given, the old object."""
    text, original = edit.text("prompt").strip().rstrip("."), ""
    if "original_fact" in edit:
        fact = edit.nested("original_fact")
        fact.ignore("subject_id", "relation", "target_id")
        original = fact.text("prompt").strip().rstrip(".")
    ends = [match.end() for match in _VERB.finditer(text)]
    shared = [end for end in ends if original[:end] == text[:end]]
    if not ends:
        raise edit.error("the prompt is not a sentence of the form 'SUBJECT ... is OBJECT.'")
    end = (shared or ends)[-1]
    return text[:end].strip(), text[end:], original[end:].strip() or None if shared else None


def _about(edit: Fields, head: str, relation: str) -> Prompt:
    subject = _subject(head, relation.lower().replace("_", " "))
    if not subject:
        raise edit.error(
            "the prompt does not show its subject, and the form names it only by an id; "
            "write the edit as prompt, subject and target"
        )
    start = head.rindex(subject)
    return Prompt(f"{head[:start]}{{}}{head[start + len(subject) :]}", subject)


def _subject(head: str, relation: str) -> str:
    """The subject of a head such as ``The name of the mother of SUBJECT is``."""
    verb = re.search(r" (?:is followed by|follows)$", head)
    if verb:
        return head[: verb.start()]
    body = re.sub(r"^The (?:names? of the )?| (?:is|are)$", "", head)
    before, of, after = body.partition(f"{relation} of ")
    if relation and of and not before:
        return after
    clause = _CLAUSE.match(_WHICH.sub("", body).strip())
    return clause["subject"] if clause else body.partition(" of ")[2]


def _tests(fields: Fields, kinds: Sequence[str]) -> tuple[Question, ...]:
    """The questions of some kinds of tests, with the answers and their aliases."""
    pairs = []
    for kind in kinds:
        for test in fields.entries(kind):
            test.ignore("test_type", "test_condition", "condition_queries")
            pairs += [_question(query) for query in test.entries("test_queries")]
    return tuple(item for item in pairs if item[1])


def _question(query: Fields) -> Question:
    query.ignore("query_type", "subject_id", "relation", "target_ids", "phrase")
    query.ignore("second_relation", "second_hop_target_ids", "second_hop_phrase")
    answers = query.entries("answers")
    texts = [
        text for answer in answers for text in answer.leaves("value") + answer.leaves("aliases")
    ]
    return query.text("prompt"), tuple(texts)
