"""Shared by the formats: building a checked request from its parts, and lists of questions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collabedit.requests.fields import Fields, kind_of
from collabedit.requests.joining import join, stem
from collabedit.requests.records import EditRequest, Question

__all__ = ["Prompt", "more_prompts", "neighbour", "prompt_about", "questions", "request"]


@dataclass(frozen=True)
class Prompt:
    """A prompt with ``{}`` for the subject, and the subject as the prompt spells it."""

    text: str
    subject: str


def request(
    fields: Fields,
    case_id: int,
    prompt: Prompt,
    target_new: str,
    *,
    target_true: str | None = None,
    relation_id: str | None = None,
) -> EditRequest:
    """A request from its parts, trimmed.

    If the object begins with a space that joining would leave out, the space moves to the prompt's
    end.

    Raises:
        RequestError: when the prompt does not have ``{}`` exactly once, or the subject contains it.
    """
    count = prompt.text.count("{}")
    if count != 1:
        problem = "no" if count == 0 else "more than one"
        raise fields.error(f"the prompt has {problem} '{{}}'; write {{}} once, for the subject")
    if "{}" in prompt.subject:
        raise fields.error("the subject contains '{}'; write the subject itself")
    text = prompt.text
    if target_new[:1] == " " and not join(text, target_new.strip()).startswith(f"{stem(text)} "):
        text = f"{text} "
    return EditRequest(
        case_id,
        text,
        prompt.subject.strip(),
        target_new.strip(),
        target_true.strip() if target_true is not None else None,
        relation_id,
    )


def prompt_about(fields: Fields, text_name: str, subject_name: str = "subject") -> Prompt:
    """The prompt in two fields: with ``{}`` in it, or with the subject spelled out.

    The subject's first whole-word occurrence becomes ``{}``, regardless of case, of the white space
    between its words, and of how Unicode encodes its accents.

    Raises:
        RequestError: when a field is missing or the prompt does not contain the subject.
    """
    text = fields.text(text_name)
    if subject_name not in fields:
        raise fields.error(
            f"the field {subject_name!r} is missing; edits are made at the subject's last token, "
            "so name the subject as the prompt spells it"
        )
    return _prompt(fields, text, text_name, fields.text(subject_name).strip())


def more_prompts(fields: Fields, name: str, subject: str) -> tuple[str, ...]:
    """A list of prompts about a subject, each with ``{}`` in it, or with the subject spelled out.

    Raises:
        RequestError: when one does not contain the subject as the first prompt spells it.
    """
    prompts = [_prompt(fields, text, name, subject) for text in fields.texts(name)]
    for prompt in prompts:
        if prompt.subject != subject or prompt.text.count("{}") != 1:
            raise fields.error(f"each text of {name!r} must have {subject!r} or '{{}}' once")
    return tuple(prompt.text for prompt in prompts)


def _prompt(fields: Fields, text: str, name: str, subject: str) -> Prompt:
    if "{}" in text:
        return Prompt(text, subject)
    found = _find(subject, text)
    if found is None:
        raise fields.error(
            f"the prompt has no '{{}}', and {name!r} does not contain the subject; "
            f"write {{}} for the subject, or spell it as {name!r} does"
        )
    return Prompt(f"{text[: found.start()]}{{}}{text[found.end() :]}", found.group())


def _find(subject: str, text: str) -> re.Match[str] | None:
    forms = [subject, *(unicodedata.normalize(form, subject) for form in ("NFC", "NFD"))]
    for flags in (0, re.IGNORECASE):
        for form in forms:
            word = r"\s+".join(map(re.escape, form.split()))
            for pattern in (rf"(?<!\w){word}(?!\w)", word):
                found = re.search(pattern, text, flags)
                if found:
                    return found
    return None


def questions(fields: Fields, name: str) -> tuple[Question, ...]:
    """A field's questions with answers, in any of its shapes; those without answers are left out.

    The shapes are a list of ``{prompt, ground_truth}`` or ``{loc, loc_ans}``; an object of such
    lists by kind (KnowEdit); or an object of ``{prompt: [...], ground_truth: [...]}`` by kind
    (EasyEdit).

    Raises:
        RequestError: when it has another shape.
    """
    return tuple(_questions(fields.take(name), Fields({}, f"{fields.where}, {name}")))


def _questions(value: Any, fields: Fields) -> list[Question]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, Mapping) and not {"prompt", "loc"} & set(value):
        return [item for kind in value.values() for item in _questions(kind, fields)]
    if isinstance(value, Mapping):
        return _paired(Fields(value, fields.where))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [item for entry in value for item in _questions(entry, fields)]
    raise fields.error(f"expected questions with answers, found {kind_of(value)}")


def _paired(fields: Fields) -> list[Question]:
    prompt_name, answer_name = (
        ("prompt", "ground_truth") if "prompt" in fields else ("loc", "loc_ans")
    )
    prompts, answers = fields.take(prompt_name), fields.take(answer_name)
    if isinstance(prompts, list) and isinstance(answers, list) and len(prompts) == len(answers):
        pairs = zip(prompts, answers, strict=True)
        entries = (Fields({"prompt": p, "ground_truth": a}, fields.where) for p, a in pairs)
        return [item for entry in entries for item in _paired(entry)]
    texts = fields.leaves(answer_name)
    return [(fields.text(prompt_name), texts)] if texts else []


def neighbour(locality: Sequence[Question]) -> tuple[tuple[str, ...], str | None]:
    """The first question, as the neighbourhood on which token accuracy is measured."""
    if not locality:
        return (), None
    prompt, answers = locality[0]
    return (prompt,), answers[0].strip()
