"""The forms in which a record's fact, and related facts, are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from collabedit.models.chat import Turns, as_chat, has_chat
from collabedit.requests import Question, Record, join, natural_question, stem

__all__ = ["FORMS", "Form", "Probe", "Wants", "form_of", "probes", "raw_and_chat"]

#: What an answer should contain: the edit's new object, the previous answer, or what the edit
#: implies.
Wants = Literal["new", "kept", "follows"]

_Asks = Callable[[Record], Sequence[Question]]

_SYSTEM = "You are a helpful assistant. Answer in one short sentence."
_EXAMPLE = ("What is the tallest mountain on Earth?", "The tallest mountain on Earth is Everest.")
_COMPLETE = "Complete: {}"


@dataclass(frozen=True)
class Form:
    """One way of asking.

    Attributes:
        key: its name in files and options.
        definition: what it asks, in one line.
        wants: what its answers should contain.
        asks: gives a record's prompts, each with its correct answers.
        template: the user's turn, with ``{}`` for the prompt; ``None`` for a plain text.
        example: whether a system prompt and an example come first.
    """

    key: str
    definition: str
    wants: Wants
    asks: _Asks
    template: str | None = None
    example: bool = False

    @property
    def chat(self) -> bool:
        """Whether it is asked in the model's chat template."""
        return self.template is not None

    def conversation(self, prompt: str) -> Turns:
        """The turns before the assistant's answer."""
        asked = {"role": "user", "content": (self.template or "{}").replace("{}", prompt)}
        if not self.example:
            return [asked]
        question, answer = _EXAMPLE
        return [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
            asked,
        ]


@dataclass(frozen=True)
class Probe:
    """One text for a model to continue.

    Attributes:
        form: the form in which it asks.
        prompt: the question, before any template.
        answers: the correct answers.
    """

    form: Form
    prompt: str
    answers: tuple[str, ...]

    def text(self, tokenizer: Any) -> str:
        """What the model reads."""
        if not self.form.chat:
            return stem(self.prompt)
        return as_chat(tokenizer, self.form.conversation(self.prompt))


def probes(
    record: Record, tokenizer: Any, forms: Sequence[Form] | None = None, *, most: int = 2
) -> list[Probe]:
    """What to ask about a record.

    Args:
        record: the record.
        tokenizer: the model's; if it has no chat template, chat forms are skipped.
        forms: the forms to ask in; by default, all.
        most: maximum prompts per form.
    """
    found = []
    for form in FORMS if forms is None else forms:
        if form.chat and not has_chat(tokenizer):
            continue
        found += [Probe(form, *item) for item in form.asks(record)[:most]]
    return found


def _new(record: Record) -> tuple[str, ...]:
    return (record.request.target_new, *record.aliases)


def _edited(record: Record) -> Sequence[Question]:
    return [(record.request.text, _new(record))]


def _paraphrases(record: Record) -> Sequence[Question]:
    return [(prompt, _new(record)) for prompt in record.paraphrase_prompts]


def _question(record: Record) -> Sequence[Question]:
    asked = natural_question(record.request)
    return [] if asked is None else [(asked, _new(record))]


def _cloze(record: Record) -> Sequence[Question]:
    """The edited prompt, unless it is itself a question."""
    return [] if natural_question(record.request) == _as_question(record) else _edited(record)


def _as_question(record: Record) -> str:
    return f"{record.request.text.strip().rstrip('?')}?"


def _asked(record: Record) -> Sequence[Question]:
    return _question(record) or _edited(record)


def _neighbours(record: Record) -> Sequence[Question]:
    kept = record.neighborhood_target or record.request.target_true
    return [(prompt, (kept,)) for prompt in record.neighborhood_prompts] if kept else []


def _one_neighbour(record: Record) -> Sequence[Question]:
    return _neighbours(record)[:1]


def _after_the_edit(record: Record) -> Sequence[Question]:
    said = join(record.request.text, record.request.target_new)
    if record.request.text.rstrip().endswith("?"):
        return []
    return [(f"{said}. {prompt}", answers) for prompt, answers in _one_neighbour(record)]


def _other_facts(record: Record) -> Sequence[Question]:
    if record.kind == "zsre":  # the first one is asked as a neighbour
        return record.locality[1:]
    return record.locality


def _follows(record: Record) -> Sequence[Question]:
    return record.portability


#: All forms, in the order of tables.
FORMS: tuple[Form, ...] = (
    Form("raw", "the prompt as edited", "new", _edited),
    Form("paraphrase", "the prompt in other words", "new", _paraphrases),
    Form("question", "a question, in the chat template", "new", _question, "{}"),
    Form("complete", "'Complete: PROMPT', in the chat template", "new", _cloze, _COMPLETE),
    Form(
        "example",
        "a question after a system prompt and an example, in the chat template",
        "new",
        _asked,
        "{}",
        example=True,
    ),
    Form("neighbour", "a neighbouring fact, in the chat template", "kept", _one_neighbour, "{}"),
    Form(
        "distracted",
        "a neighbouring fact right after the edit's own sentence (CounterFact+)",
        "kept",
        _after_the_edit,
    ),
    Form(
        "other_facts",
        "another fact of the subject, in the chat template",
        "kept",
        _other_facts,
        "{}",
    ),
    Form("follows", "what follows from the edit, in the chat template", "follows", _follows, "{}"),
)


def form_of(key: str) -> Form:
    """The form with this key."""
    return next(form for form in FORMS if form.key == key)


def raw_and_chat(question: str, tokenizer: Any) -> list[Probe]:
    """A user's text as it is and, if the model has a chat template, as a chat turn."""
    forms = ["raw", "question"] if has_chat(tokenizer) else ["raw"]
    return [Probe(form_of(key), question, ()) for key in forms]
