"""Edit requests and evaluation records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["EditRequest", "Question", "Record", "RecordKind"]

#: The forms of records that are evaluated differently.
RecordKind = Literal["counterfact", "zsre"]

#: A prompt and its right answers; the first is the preferred one.
Question = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class EditRequest:
    """One fact to write into a model.

    Attributes:
        case_id: identifies the request within a file.
        prompt: text with exactly one ``{}`` for the subject.
        subject: what the fact is about.
        target_new: the object that the edited model should say, without a leading space.
        target_true: the object that the unedited model says, if known.
        relation_id: the relation's name (a Wikidata property), if known.
        question: the prompt as a natural question that names the subject, if the prompt is a cloze.
        prompts: other wordings of the prompt, each with one ``{}``, for which the edit is made as
            well.
    """

    case_id: int
    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    relation_id: str | None = None
    question: str | None = None
    prompts: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True)
class Record:
    """A request and its evaluation prompts.

    Attributes:
        request: the edit.
        kind: which metrics apply: ``counterfact`` compares probabilities of the new and the true
            object, ``zsre`` counts right tokens.
        paraphrase_prompts: the same question in other words.
        neighborhood_prompts: prompts whose answer must not change.
        neighborhood_target: the right answer to them (``zsre``; elsewhere it is ``target_true``).
        attribute_prompts: prompts whose true answer is ``target_new``.
        generation_prompts: openings for free text about the subject.
        reference_texts: texts about ``target_new`` to compare the generations with.
        aliases: other right spellings of ``target_new`` (zsRE, MQuAKE).
        portability: questions whose answers follow from the edit, with these answers (KnowEdit,
            MQuAKE, RippleEdits, HalluEditBench).
        locality: questions about other facts, with their unchanged answers (KnowEdit, QAEdit,
            RippleEdits).
    """

    request: EditRequest
    kind: RecordKind = "counterfact"
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()
    neighborhood_target: str | None = None
    attribute_prompts: tuple[str, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    reference_texts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    portability: tuple[Question, ...] = ()
    locality: tuple[Question, ...] = ()

    @property
    def case_id(self) -> int:
        """The request's case id."""
        return self.request.case_id
