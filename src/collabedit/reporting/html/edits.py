"""The model's answers to each edit before and after, from a run's result files."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from collabedit.evaluation import ANSWER_METRICS, CaseResult, metric, metrics
from collabedit.reporting.case_files import UNEDITED, measured_case
from collabedit.reporting.results import Case
from collabedit.reporting.table import Column, Row, Table, section

__all__ = ["Edit", "Generated", "edits_of", "shared_questions"]

#: Generated texts are cut to this length; otherwise a page would be huge.
_MOST_CHARACTERS = 400
_MOST_TEXTS = 12


@dataclass(frozen=True)
class Generated:
    """A text written by a model.

    Attributes:
        model: its name.
        form: how it was asked, such as ``chat``.
        prompt: the prompt; empty if the text starts with it.
        text: what it wrote.
        verdict: how it was judged, in words.
    """

    model: str
    form: str
    prompt: str
    text: str
    verdict: str


@dataclass(frozen=True)
class Edit:
    """One edited fact and its measurements.

    Attributes:
        case_id: the record's id.
        prompt: the edited prompt, with the subject filled in.
        template: the same with ``{}`` for the subject.
        relation: the relation's id, empty if unknown.
        new: the new object.
        old: the true object, empty if unknown.
        models: by model, the unedited one first, what was measured.
        generated: what the models wrote.
    """

    case_id: int
    prompt: str
    template: str
    relation: str
    new: str
    old: str
    models: Mapping[str, CaseResult]
    generated: Sequence[Generated]

    @property
    def identity(self) -> tuple[int, str, str]:
        """Equal for the same edit in another run."""
        return self.case_id, self.prompt, self.new

    def holds(self, model: str) -> bool | None:
        """Whether the model prefers the new object after the edited prompt."""
        case = self.models[model]
        for key in ("ES", "rewrite_accuracy", "rewrite_token_accuracy"):
            values = metric(key).values
            if values is not None and (own := values(case)):
                return all(own)
        return None

    def asked(self) -> dict[tuple[str, str], list[Generated]]:
        """Written texts by form and prompt, so that the models are listed together."""
        groups: dict[tuple[str, str], list[Generated]] = defaultdict(list)
        for text in self.generated:
            groups[text.form, text.prompt].append(text)
        return dict(groups)

    def table(self) -> Table:
        """One row per model."""
        rows = [{"method": name, **_measures(case)} for name, case in self.models.items()]
        columns = [each for each in _COLUMNS if any(each.key in row for row in rows)]
        title = f"Record {self.case_id}: what was measured"
        return Table(title, columns, [section(columns, rows)])


_NEW = Column("new", "P(new)", "%", 1, definition="probability per token of the new object")
_OLD = Column("old", "P(old)", "%", 1, definition="probability per token of the true object")
#: The answers themselves are shown, so their metrics are not.
_SHOWN = [each for each in metrics() if each.values and each not in ANSWER_METRICS]
_COLUMNS = [
    Column.name("method"),
    _NEW,
    _OLD,
    *(Column(m.key, m.heading, m.unit, 0, definition=m.definition) for m in _SHOWN),
]


def _measures(case: CaseResult) -> Row:
    """A record's own metrics, with the probabilities after the edited prompt."""
    row: dict[str, float] = {}
    if losses := case.get("rewrite_prompts_probs"):
        row["new"] = 100 * math.exp(-losses[0]["target_new"])
        if "target_true" in losses[0]:
            row["old"] = 100 * math.exp(-losses[0]["target_true"])
    for each in metrics():
        if each.values is not None and (own := each.values(case)):
            row[each.key] = 100 * fmean(own)
    return row


def edits_of(cases: Sequence[Case], source: str) -> list[Edit]:
    """The edits in a run's result files; none for studies that measure other things.

    Args:
        cases: one per record.
        source: their path, for errors.

    Raises:
        InputError: when one is damaged.
    """
    return [edit for case in cases for edit in _edits(case, source)]


def _edits(case: Case, source: str) -> Iterator[Edit]:
    """An edit, and the one that conflicts with it."""
    value = case.model_dump(mode="json", exclude_unset=True)
    if "record" in value:  # an augmentation's
        return
    measured = measured_case(case.case_id, value, f"{source}: case {case.case_id}")
    models = {name: measured[name] for name in sorted(measured, key=_is_unedited, reverse=True)}
    rewrite = case.requested_rewrite
    template, subject = _text(rewrite.get("prompt")), _text(rewrite.get("subject"))
    yield Edit(
        case_id=case.case_id,
        prompt=template.replace("{}", subject),
        template=template,
        relation=_text(rewrite.get("relation_id")),
        new=_object(rewrite.get("target_new")),
        old=_object(rewrite.get("target_true")),
        models=models,
        generated=list(_generated(value)),
    )
    if case.conflicting is not None:
        yield from _edits(case.conflicting, source)


def _is_unedited(name: str) -> bool:
    return name == UNEDITED


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(value: Any) -> str:
    return _text(value.get("str")) if isinstance(value, dict) else _text(value)


def _generated(value: Mapping[str, Any]) -> Iterator[Generated]:
    """What the models wrote, from the blocks that hold it."""
    blocks = {UNEDITED: value.get("pre"), **value.get("methods", {})}
    if "methods" not in value:
        blocks["edited"] = value.get("post")
    for model, block in blocks.items():
        if isinstance(block, dict):
            for text in _items(block.get("text"))[:1]:  # the others continue other prompts
                yield Generated(model, "text", "", _cut(_text(text)), "")
            for answer in _items(block.get("answers"))[:_MOST_TEXTS]:
                if isinstance(answer, dict):
                    yield _answer(model, answer)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _answer(model: str, answer: Mapping[str, Any]) -> Generated:
    prompt, text = _cut(_text(answer.get("prompt"))), _cut(_text(answer.get("text")))
    return Generated(model, _text(answer.get("form")), prompt, text, _verdict(answer))


def _verdict(answer: Mapping[str, Any]) -> str:
    words = []
    if isinstance(answer.get("right"), bool):
        words.append("right" if answer["right"] else "not right")
    if answer.get("old") is True:
        words.append("names the old object")
    if answer.get("about") is False and answer.get("right") is True:
        words.append("not about the subject")
    if answer.get("loops") is True:
        words.append("repeats itself")
    return ", ".join(words)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS].rstrip() + " …"


def shared_questions(edits: Sequence[Edit]) -> dict[str, list[Edit]]:
    """Questions that several edits answer, by their prompts."""
    by_prompt: dict[str, list[Edit]] = defaultdict(list)
    for edit in edits:
        if edit.prompt:
            by_prompt[" ".join(edit.prompt.split())].append(edit)
    return {prompt: own for prompt, own in by_prompt.items() if len(own) > 1}
