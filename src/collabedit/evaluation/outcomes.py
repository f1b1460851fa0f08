"""Which edits took: each one asked raw and in chat, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from collabedit.evaluation.answers import Answer, answer_probes, fitting
from collabedit.evaluation.forms import form_of, probes
from collabedit.models import LanguageModel
from collabedit.requests import EditRequest, Record

__all__ = ["Outcome", "Outcomes", "Took", "ask_edits", "outcomes"]

_RAW = form_of("raw")
#: A record is asked in chat in the first of these forms that it supports.
_CHAT = [form_of("question"), form_of("complete"), form_of("example")]


class Took(str, Enum):
    """The outcome of an edit."""

    TOOK = "took"
    LOST = "lost the subject"
    NOT = "did not take"


@dataclass(frozen=True)
class Outcome:
    """One edit, asked before and after.

    Attributes:
        request: the edit.
        raw: the answers after the prompt as edited, before and after the edit.
        chat: the same in the model's chat template; ``None`` for a model without one.
    """

    request: EditRequest
    raw: tuple[Answer, Answer]
    chat: tuple[Answer, Answer] | None

    @property
    def took(self) -> Took:
        """Whether the model says the new object, about the subject, in both forms."""
        asked = [self.raw[1]] if self.chat is None else [self.raw[1], self.chat[1]]
        if not all(answer["right"] for answer in asked):
            return Took.NOT
        return Took.TOOK if self.chat is None or self.chat[1]["about"] else Took.LOST


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of all edits.

    Attributes:
        each: one outcome per edit.
        retried: how many edits had a second pass.
    """

    each: tuple[Outcome, ...]
    retried: int = 0

    @property
    def failed(self) -> list[int]:
        """Indices of the edits that did not take, or lost the subject."""
        return [index for index, outcome in enumerate(self.each) if outcome.took is not Took.TOOK]

    def __str__(self) -> str:
        counts = Counter(outcome.took for outcome in self.each)
        total = len(self.each)
        parts = [f"{counts[Took.TOOK]} of {total} edit{'s' if total != 1 else ''} took"]
        parts += [f"{counts[kind]} {kind.value}" for kind in (Took.LOST, Took.NOT) if counts[kind]]
        if self.retried:
            parts.append(f"{self.retried} had a second pass")
        return "; ".join(parts)


#: A record's answers, raw and in chat.
Asked = tuple[Answer, Answer | None]


def ask_edits(model: LanguageModel, records: Sequence[Record]) -> list[Asked]:
    """Ask about each edit once raw and once in chat: by a question, or else to complete the prompt.

    Raises:
        RequestError: when a prompt fills the model's context.
    """
    asked = [
        probes(record, model.tokenizer, [_RAW])
        + fitting(model, probes(record, model.tokenizer, _CHAT)[:1])
        for record in records
    ]
    return [
        (answers[0], answers[1] if len(answers) > 1 else None)
        for answers in answer_probes(model, records, asked)
    ]


def outcomes(
    records: Sequence[Record], before: Sequence[Asked], after: Sequence[Asked]
) -> Outcomes:
    """Outcomes of edits, from the answers of :func:`ask_edits` before and after."""
    results = []
    for record, (raw, chat), (raw_after, chat_after) in zip(records, before, after, strict=True):
        pair = (chat, chat_after) if chat is not None and chat_after is not None else None
        results.append(Outcome(record.request, (raw, raw_after), pair))
    return Outcomes(tuple(results))
