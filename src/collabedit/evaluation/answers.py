"""An edited model's written answers, and how they are judged.

Probabilities after the edited prompt say little about what users of a chat model see (Yang et al.,
The Mirage of Model Editing, 2025). Here the model is asked in several forms and answers by greedy
decoding.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from typing import TypedDict

from collabedit.errors import RequestError
from collabedit.evaluation.forms import Form, Probe, probes
from collabedit.evaluation.greedy import Continuation, Decode, Row, continue_greedily
from collabedit.evaluation.judging import Judge, Question
from collabedit.evaluation.matching import count_words, loops, names, names_any
from collabedit.models import LanguageModel
from collabedit.models.lengths import context_length
from collabedit.requests import Record

__all__ = ["Answer", "answer_probes", "answer_records", "fitting", "is_about", "sample_of", "write"]

#: A bare answer has at most this many words, or those of the object.
_BARE_WORDS = 3

#: The end of a plain text's first sentence. A full stop after fewer than four letters, as in most
#: abbreviations, does not count.
_SENTENCE_END = re.compile(r"\S\s*\n|\w{4,}[\"'”’)]*[.!?][\"'”’)]*\s|[。\uff01\uff1f]")


class Answer(TypedDict, total=False):
    """A model's answer and its properties.

    Attributes:
        form: key of the form (:data:`collabedit.evaluation.forms.FORMS`).
        prompt: the question, before any template.
        text: what the model wrote.
        right: whether it contains a correct answer as whole words.
        old: whether it contains the old object; absent if none is known.
        subject: whether it names the subject.
        about: whether it is right, and either names the subject or is a bare answer of at most
            three words, or as many as the object has.
        ended: whether the model ended it within the limit.
        loops: whether it ends by repeating the same text three times.
        judged: the judge's verdict, if there is one.
    """

    form: str
    prompt: str
    text: str
    right: bool
    old: bool
    subject: bool
    about: bool
    ended: bool
    loops: bool
    judged: bool


def sample_of(records: Sequence[Record], count: int | None, seed: int) -> list[int]:
    """Indices of ``count`` records chosen at random, or of all if ``count`` is ``None``.

    The choice depends on the seed and each record's own edit, so that samples of overlapping sets
    overlap.
    """
    if count is None or count >= len(records):
        return list(range(len(records)))

    def luck(index: int) -> bytes:
        request = records[index].request
        chosen = f"{seed}\0{request.case_id}\0{request.text}\0{request.target_new}"
        return hashlib.sha256(chosen.encode()).digest()

    return sorted(sorted(range(len(records)), key=luck)[:count])


def answer_records(
    model: LanguageModel,
    records: Sequence[Record],
    forms: Sequence[Form] | None = None,
    *,
    max_tokens: int = 20,
    judge: Judge | None = None,
    decode: Decode | None = None,
) -> list[list[Answer]]:
    """Ask a model about the facts of records and related facts, and judge its answers.

    Args:
        model: the model, edited or not.
        records: the records.
        forms: how to ask; by default, in all forms that a record supports.
        max_tokens: maximum tokens per answer.
        judge: additionally grades the answers.
        decode: writes the answers, for instance on workers; by default, this process does.

    Returns:
        A list of answers for each record, in the order of the forms. Prompts that leave no room
        for an answer in the model's context are skipped.

    Raises:
        InputError: when the judge cannot be asked.
    """
    asked = [fitting(model, probes(record, model.tokenizer, forms)) for record in records]
    return answer_probes(model, records, asked, max_tokens=max_tokens, judge=judge, decode=decode)


def answer_probes(
    model: LanguageModel,
    records: Sequence[Record],
    asked: Sequence[Sequence[Probe]],
    *,
    max_tokens: int = 20,
    judge: Judge | None = None,
    decode: Decode | None = None,
) -> list[list[Answer]]:
    """Like :func:`answer_records`, but with each record's questions given."""
    flat = [probe for own in asked for probe in own]
    written = iter(write(model, flat, max_tokens=max_tokens, decode=decode))
    found = [
        [_read(record, probe, *next(written)) for probe in own]
        for record, own in zip(records, asked, strict=True)
    ]
    if judge is not None:
        _grade(judge, flat, [answer for own in found for answer in own])
    return found


def write(
    model: LanguageModel,
    asked: Sequence[Probe],
    *,
    max_tokens: int = 20,
    decode: Decode | None = None,
) -> list[tuple[str, Continuation]]:
    """What a model writes after each probe: the stripped text and its tokens.

    A plain text is continued for one sentence, a chat turn until it ends or reaches the limit.

    Raises:
        RequestError: when a prompt is empty or leaves no room for an answer in the context.
    """
    tokens = [_row(model, probe) for probe in asked]
    if not all(_fits(model, row) for row in tokens):
        raise RequestError(
            f"a question is empty or leaves no room for an answer: {model.name} takes "
            f"{context_length(model)} tokens; shorten it"
        )
    stops = [None if probe.form.chat else _sentence_ended for probe in asked]
    written = continue_greedily(model, tokens, max_tokens=max_tokens, stops=stops, decode=decode)
    return [
        (_text(model, each, probe.form.chat), each)
        for each, probe in zip(written, asked, strict=True)
    ]


def _text(model: LanguageModel, written: Continuation, chat: bool) -> str:
    text: str = model.tokenizer.decode(written.tokens, skip_special_tokens=True)
    end = None if chat else _SENTENCE_END.search(text)
    return (text if end is None else text[: end.end()]).strip()


def _row(model: LanguageModel, probe: Probe) -> Row:
    text = probe.text(model.tokenizer)
    return tuple(model.tokenizer(text, add_special_tokens=not probe.form.chat).input_ids)


def fitting(model: LanguageModel, asked: Sequence[Probe]) -> list[Probe]:
    """The probes that leave room for an answer in the model's context."""
    return [probe for probe in asked if _fits(model, _row(model, probe))]


def _fits(model: LanguageModel, row: Row) -> bool:
    return 0 < len(row) < (context_length(model) or math.inf)


def _sentence_ended(model: LanguageModel, tokens: Sequence[int]) -> bool:
    return bool(_SENTENCE_END.search(model.tokenizer.decode(tokens)))


def _read(record: Record, probe: Probe, text: str, written: Continuation) -> Answer:
    request = record.request
    right = names_any(text, probe.answers)
    subject = names(text, request.subject)
    answer: Answer = {
        "form": probe.form.key,
        "prompt": probe.prompt,
        "text": text,
        "right": right,
        "subject": subject,
        "about": right and is_about(text, request.subject, request.target_new),
        "ended": written.ended,
        "loops": loops(written.tokens),
    }
    if request.target_true is not None:
        answer["old"] = names(text, request.target_true)
    return answer


def is_about(text: str, subject: str, target: str) -> bool:
    """Whether a text names the subject, or is a bare answer."""
    return names(text, subject) or count_words(text) <= max(_BARE_WORDS, count_words(target))


def _grade(judge: Judge, asked: Sequence[Probe], answers: Sequence[Answer]) -> None:
    questions = [
        Question(probe.prompt, probe.answers, answer["text"])
        for probe, answer in zip(asked, answers, strict=True)
    ]
    for answer, verdict in zip(answers, judge.grade(questions), strict=True):
        answer["judged"] = verdict
