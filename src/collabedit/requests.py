"""Edit requests and evaluation records, read from the formats of the field.

A *request* is one fact to write: a prompt with ``{}`` for the subject, the subject, and the new
object. A *record* is a request with the prompts that measure it. Three JSON forms are read, as a
list in a ``.json`` file or as one record a line in a ``.jsonl`` file:

- CounterFact and MultiCounterFact (Meng et al., 2022): ``requested_rewrite`` and prompt lists;
- zsRE as ROME and MEMIT evaluate it: ``src, subject, answers, rephrase, loc, loc_ans``;
- the short form ``{"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from collabedit.errors import InputError, RequestError
from collabedit.files import read_json

__all__ = ["EditRequest", "Record", "load_records", "parse_record", "parse_records"]

RecordKind = Literal["counterfact", "zsre"]


@dataclass(frozen=True)
class EditRequest:
    """One fact to write into a model.

    Attributes:
        case_id: identifies the request among those of one file.
        prompt: text with exactly one ``{}`` in the subject's place.
        subject: what the fact is about.
        target_new: the object that the edited model shall say, without a leading space.
        target_true: the object that the unedited model says, where known.
        relation_id: the relation's name (a Wikidata property), where known.
    """

    case_id: int
    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    relation_id: str | None = None

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True)
class Record:
    """A request and the prompts that measure its edit.

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
    """

    request: EditRequest
    kind: RecordKind = "counterfact"
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()
    neighborhood_target: str | None = None
    attribute_prompts: tuple[str, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    reference_texts: tuple[str, ...] = ()

    @property
    def case_id(self) -> int:
        """The request's case id."""
        return self.request.case_id


def load_records(path: Path) -> list[Record]:
    """Read all records of a ``.json`` or ``.jsonl`` file.

    Raises:
        InputError: when the file cannot be read or is not JSON.
        RequestError: when a record is malformed; the message names file, record and mend.
    """
    return parse_records(_read_objects(path), source=str(path))


def parse_records(objects: Sequence[Any], source: str) -> list[Record]:
    """Parse records and check that their case ids are unique.

    Raises:
        RequestError: when a record is malformed or a case id repeats.
    """
    if not objects:
        raise RequestError(f"{source}: no records in it; give at least one edit request")
    records = [parse_record(item, index, source) for index, item in enumerate(objects)]
    first_seen: dict[int, int] = {}
    for index, record in enumerate(records):
        earlier = first_seen.setdefault(record.case_id, index)
        if earlier != index:
            raise RequestError(
                f"{source}, record {index}: case_id {record.case_id} is already that of record "
                f"{earlier}; give every record its own"
            )
    return records


def parse_record(item: Any, index: int, source: str) -> Record:
    """Parse one record in any of the three forms.

    Args:
        item: the decoded JSON object.
        index: its place in the file, which is also its case id where it names none.
        source: what to call the file in messages.

    Raises:
        RequestError: when the record is malformed.
    """
    fields = _Fields(item, f"{source}, record {index}")
    case_id = fields.integer("case_id", default=index)
    if "case_id" in fields.values:
        fields.where += f" (case_id {case_id})"
    if "requested_rewrite" in fields.values:
        return _parse_counterfact(fields, case_id)
    if "src" in fields.values:
        return _parse_zsre(fields, case_id)
    if "prompt" in fields.values or "target" in fields.values:
        return _parse_short(fields, case_id)
    raise fields.error(
        "none of the fields 'requested_rewrite', 'src' or 'prompt' is there; "
        "write it as CounterFact, as zsRE, or as prompt, subject and target"
    )


def _read_objects(path: Path) -> list[Any]:
    if path.suffix == ".jsonl":
        return list(_read_lines(path))
    value = read_json(path, "requests file")
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a JSON list of records; wrap a single one in [ ]")
    return value


def _read_lines(path: Path) -> Iterable[Any]:
    try:
        # Not splitlines: JSON texts may hold U+2028 and other separators as they are.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"cannot read the requests file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error.msg})") from None


class _Fields:
    """A record's fields, read with checks that name the record in every complaint."""

    def __init__(self, item: Any, where: str) -> None:
        self.where = where
        if not isinstance(item, Mapping):
            raise self.error(f"expected a JSON object, found {type(item).__name__}")
        self.values = item

    def error(self, problem: str) -> RequestError:
        return RequestError(f"{self.where}: {problem}")

    def nested(self, name: str) -> _Fields:
        return _Fields(self._required(name), f"{self.where}, {name}")

    def _required(self, name: str) -> Any:
        if name not in self.values:
            raise self.error(f"the field {name!r} is missing")
        return self.values[name]

    def integer(self, name: str, default: int) -> int:
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{name!r} must be a whole number, found {value!r}")
        return value

    def text(self, name: str) -> str:
        value = self._required(name)
        if not isinstance(value, str):
            raise self.error(f"{name!r} must be a text, found {type(value).__name__}")
        if not value.strip():
            raise self.error(f"{name!r} is empty; fill it in")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self.values.get(name) is None else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name) or ()
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self.error(f"{name!r} must be a list of texts")
        if any(not isinstance(text, str) or not text.strip() for text in value):
            raise self.error(f"{name!r} has an entry that is not a text, or is empty")
        return tuple(value)


def _request(fields: _Fields, case_id: int, **parts: Any) -> EditRequest:
    prompt, subject = parts["prompt"], parts["subject"]
    if prompt.count("{}") != 1:
        count = "no" if "{}" not in prompt else "more than one"
        raise fields.error(f"the prompt has {count} '{{}}'; write {{}} once, for the subject")
    if "{}" in subject:
        raise fields.error("the subject contains '{}'; write the subject itself")
    for name in ("target_new", "target_true"):
        if parts.get(name) is not None:
            parts[name] = parts[name].strip()
    parts["subject"] = subject.strip()
    return EditRequest(case_id=case_id, **parts)


def _parse_counterfact(fields: _Fields, case_id: int) -> Record:
    rewrite = fields.nested("requested_rewrite")
    has_true = rewrite.values.get("target_true") is not None
    request = _request(
        rewrite,
        case_id,
        prompt=rewrite.text("prompt"),
        subject=rewrite.text("subject"),
        target_new=rewrite.nested("target_new").text("str"),
        target_true=rewrite.nested("target_true").text("str") if has_true else None,
        relation_id=rewrite.optional_text("relation_id"),
    )
    return _with_prompts(request, fields)


def _with_prompts(request: EditRequest, fields: _Fields) -> Record:
    return Record(
        request,
        paraphrase_prompts=fields.texts("paraphrase_prompts"),
        neighborhood_prompts=fields.texts("neighborhood_prompts"),
        attribute_prompts=fields.texts("attribute_prompts"),
        generation_prompts=fields.texts("generation_prompts"),
        reference_texts=fields.texts("reference_texts"),
    )


def _parse_zsre(fields: _Fields, case_id: int) -> Record:
    """As MEMIT reads zsRE: the first answer is written; ``loc`` is a Natural Questions prompt."""
    source, subject = fields.text("src"), fields.text("subject")
    if subject not in source:
        raise fields.error("'src' does not contain the subject; spell the subject as 'src' does")
    answers = fields.texts("answers")
    if not answers:
        raise fields.error("'answers' is missing or empty; give at least one answer")
    request = _request(
        fields,
        case_id,
        prompt=source.replace(subject, "{}", 1),
        subject=subject,
        target_new=answers[0],
    )
    has_neighbour = fields.values.get("loc") is not None
    return Record(
        request,
        kind="zsre",
        paraphrase_prompts=(fields.text("rephrase"),) if fields.values.get("rephrase") else (),
        neighborhood_prompts=(fields.text("loc") + "?",) if has_neighbour else (),
        neighborhood_target=fields.text("loc_ans") if has_neighbour else None,
    )


def _parse_short(fields: _Fields, case_id: int) -> Record:
    request = _request(
        fields,
        case_id,
        prompt=fields.text("prompt"),
        subject=fields.text("subject"),
        target_new=fields.text("target"),
        target_true=fields.optional_text("target_true"),
        relation_id=fields.optional_text("relation_id"),
    )
    return _with_prompts(request, fields)
