"""Round-edit records: a fact that is edited away, then reversed against a conflicting answer.

The format is that of "Unveiling the Pitfalls of Knowledge Editing" (Li et al., ICLR 2024) as
published by CollabEdit: ``edit`` with ``relation``, ``subject``, ``object`` (the preferred
answer), ``new_object`` and optionally ``conflict_object``; and ``true_objects``, all right answers.
Any CounterFact records can stand in for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from collabedit.datasets.catalogue import load_dataset
from collabedit.datasets.conflicts import conflicting
from collabedit.errors import DatasetError, RequestError, shown
from collabedit.files import read_json
from collabedit.requests import EditRequest, Record
from collabedit.requests.fields import Fields

__all__ = ["RoundEdit", "load_round_edits", "load_wordings"]


@dataclass(frozen=True)
class RoundEdit:
    """One fact of the augmentation study.

    Attributes:
        case_id: identifies it.
        prompt: with ``{}`` for the subject.
        subject: what it is about.
        relation_id: of the prompt.
        edited: the object that is written first.
        preferred: the object to restore.
        conflict: the object that another party writes at the same time.
        further: other right objects.
        wordings: the prompt in other words, each with ``{}`` for the subject.
    """

    case_id: int
    prompt: str
    subject: str
    relation_id: str | None
    edited: str
    preferred: str
    conflict: str
    further: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()

    def request(self, target: str, prompt: str | None = None) -> EditRequest:
        """The request to write an object, after the prompt or another wording of it."""
        return EditRequest(
            self.case_id, prompt or self.prompt, self.subject, target, relation_id=self.relation_id
        )


def load_round_edits(
    dataset: str | os.PathLike[str],
    wordings: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> list[RoundEdit]:
    """Round-edit records from a file, or made from CounterFact records.

    For CounterFact records the true object is the preferred one, and their paraphrase prompts are
    the other wordings. If a record has no conflicting object, one of the same relation is chosen,
    but never another true object of the record.

    Args:
        dataset: a data set's name or a file.
        wordings: other prompts by relation id.
        seed: for the choice of conflicting objects.

    Raises:
        InputError: when the file cannot be read.
        RequestError: when a record is malformed.
    """
    path, source = Path(dataset), os.fspath(dataset)
    values = read_json(path, "records file") if path.suffix == ".json" and path.is_file() else None
    if isinstance(values, list) and values and _is_round_edit(values[0]):
        made = [_parse(value, index, source) for index, value in enumerate(values)]
        _check_case_ids(made, source)
        made = _with_conflicts(made, seed)
    else:
        made = _from_records(load_dataset(dataset), seed)
    known = wordings or {}
    return [
        replace(item, wordings=(*item.wordings, *known.get(item.relation_id or "", ())))
        for item in made
    ]


def load_wordings(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Other prompts by relation id, from a JSON object of lists.

    Raises:
        InputError: when the file cannot be read.
        RequestError: when it is something else, or a prompt has no ``{}``.
    """
    values = read_json(path, "wordings file")
    if not isinstance(values, dict):
        raise RequestError(f"{path}: expected a JSON object of lists of prompts by relation id")
    for relation, prompts in values.items():
        fields = Fields({"prompts": prompts}, f"{path}, {shown(relation)}")
        texts = prompts if isinstance(prompts, list) else [None]
        if not all(isinstance(text, str) and text.count("{}") == 1 for text in texts):
            raise fields.error("expected a list of prompts, each with {} once")
        fields.texts("prompts")
    return values


def _is_round_edit(value: Any) -> bool:
    """Whether an object has this form; RippleEdits also have ``edit``, but no relation in it."""
    edit = value.get("edit") if isinstance(value, Mapping) else None
    return isinstance(edit, Mapping) and isinstance(edit.get("relation"), Mapping)


def _parse(value: Any, index: int, source: str) -> RoundEdit:
    try:
        return _round_edit(Fields(value, f"record {index}"), index)
    except RequestError as error:
        raise RequestError(
            f"{source}, {error}; a round-edit record needs edit with relation, subject, object and "
            "new_object, and true_objects"
        ) from None


def _round_edit(record: Fields, index: int) -> RoundEdit:
    edit = record.nested("edit")
    relation = edit.nested("relation")
    preferred = _label(edit, "object")
    prompt = relation.text("prompt")
    if prompt.count("{}") != 1:
        raise relation.error("the prompt needs {} once")
    others = record.take("true_objects")
    if not isinstance(others, list):
        raise record.error("'true_objects' must be a list")
    true = (
        _label(Fields({"object": o}, f"{record.where}, true_objects"), "object") for o in others
    )
    return RoundEdit(
        case_id=record.integer("case_id", default=index),
        prompt=prompt,
        subject=_label(edit, "subject"),
        relation_id=relation.text("id"),
        edited=_label(edit, "new_object"),
        preferred=preferred,
        conflict=_label(edit, "conflict_object") if "conflict_object" in edit else "",
        further=tuple(label for label in true if label != preferred),
    )


def _label(fields: Fields, name: str) -> str:
    """A subject or an object, given as a text or as an object with ``label``."""
    if isinstance(fields.values.get(name), Mapping):
        return fields.nested(name).text("label").strip()
    return fields.text(name).strip()


def _check_case_ids(items: Sequence[RoundEdit], source: str) -> None:
    indices: dict[int, int] = {}
    for index, item in enumerate(items):
        earlier = indices.setdefault(item.case_id, index)
        if earlier != index:
            raise RequestError(
                f"{source}, record {index}: case_id {item.case_id} is already used by record "
                f"{earlier}; give every record its own"
            )


def _with_conflicts(made: Sequence[RoundEdit], seed: int) -> list[RoundEdit]:
    """The records, each with a conflicting object; one is chosen where it is missing."""
    if all(item.conflict for item in made):
        return list(made)
    as_records = [
        Record(replace(item.request(item.edited), target_true=item.preferred)) for item in made
    ]
    further = [
        Record(replace(item.request(item.edited), target_true=other))
        for item in made
        for other in item.further
    ]
    others = conflicting(as_records, seed, further)
    return [
        item if item.conflict else replace(item, conflict=other.request.target_new)
        for item, other in zip(made, others, strict=True)
    ]


def _from_records(records: Sequence[Record], seed: int) -> list[RoundEdit]:
    others = conflicting(records, seed)
    made = []
    for record, other in zip(records, others, strict=True):
        request = record.request
        if request.target_true is None:
            raise DatasetError(
                f"case {record.case_id} names no true object, which the study restores; "
                "give records with target_true"
            )
        made.append(
            RoundEdit(
                case_id=record.case_id,
                prompt=request.prompt,
                subject=request.subject,
                relation_id=request.relation_id,
                edited=request.target_new,
                preferred=request.target_true,
                conflict=other.request.target_new,
                wordings=tuple(
                    text.replace(request.subject, "{}")
                    for text in record.paraphrase_prompts
                    if text.count(request.subject) == 1
                ),
            )
        )
    return made
