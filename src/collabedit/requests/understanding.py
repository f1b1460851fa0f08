"""Parsing all records of a source, and collecting their faults."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from collabedit.errors import RequestError, shown
from collabedit.requests.fields import Fields, checked_text
from collabedit.requests.formats import recognise
from collabedit.requests.reading import Located, read_objects, source_name
from collabedit.requests.records import EditRequest, Record

__all__ = [
    "Facts",
    "RequestFile",
    "as_records",
    "load_records",
    "parse_record",
    "parse_records",
    "read_requests",
]

logger = logging.getLogger(__name__)

#: Most faults, and most unknown fields, that one message lists.
_SHOWN = 20

#: What :func:`as_records` takes.
Facts = (
    str
    | os.PathLike[str]
    | Mapping[str, Any]
    | EditRequest
    | Record
    | Iterable[Mapping[str, Any] | EditRequest | Record]
)


@dataclass(frozen=True)
class RequestFile:
    """The parsed content of a source of edit requests.

    Attributes:
        source: its name in error messages.
        records: the good records.
        formats: number of records in each form, by the form's name.
        faults: one line for each bad record, saying where it is.
        warnings: what is accepted but worth knowing: repeated records, unknown fields.
    """

    source: str
    records: tuple[Record, ...]
    formats: Mapping[str, int]
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def usable(self, *, skip_bad: bool = False) -> list[Record]:
        """The good records; the source's warnings are logged.

        Args:
            skip_bad: skip the bad ones, and say how many there are.

        Raises:
            RequestError: when bad records are not to be skipped, or when no record is good.
        """
        problem = self.problem(skip_bad=skip_bad)
        if problem is not None:
            raise RequestError(problem)
        for warning in self.warnings:
            logger.warning("%s: %s", self.source, warning)
        if self.faults:
            logger.warning("%s: skipped %s", self.source, _count(len(self.faults), "bad record"))
        return list(self.records)

    def problem(self, *, skip_bad: bool = False) -> str | None:
        """Why the records are unusable, or ``None``."""
        if self.faults and not skip_bad:
            return self.complaint
        if self.records:
            return None
        nothing = "no good records in it" if self.faults else "no records in it"
        return f"{self.source}: {nothing}; give at least one edit request"

    @property
    def complaint(self) -> str:
        """What is wrong, for people: one line, or a heading and a line for each early fault."""
        if len(self.faults) == 1:
            return f"{self.source}, {self.faults[0]}"
        lines = [f"{self.source}: {len(self.faults)} bad records; correct or skip them"]
        lines += [f"  {fault}" for fault in self.faults[:_SHOWN]]
        if len(self.faults) > _SHOWN:
            lines.append(f"  and {len(self.faults) - _SHOWN} more")
        return "\n".join(lines)


def read_requests(
    path: str | os.PathLike[str], *, allow_contradictions: bool = False
) -> RequestFile:
    """Read a file of edit requests, good and bad ones.

    Args:
        path: a JSON, JSON Lines, CSV or TSV file, or ``-`` for standard input.
        allow_contradictions: keep records that give one prompt and subject several objects, as a
            data set may do, and warn; otherwise the later ones are bad.

    Raises:
        InputError: when the file cannot be read or is none of these.
    """
    return _understand(read_objects(path), source_name(path), allow_contradictions)


def load_records(
    path: str | os.PathLike[str], *, skip_bad: bool = False, allow_contradictions: bool = False
) -> list[Record]:
    """Read all records of a file of edit requests.

    Args:
        path: a JSON, JSON Lines, CSV or TSV file, or ``-`` for standard input.
        skip_bad: skip unusable records, and say how many there are.
        allow_contradictions: see :func:`read_requests`.

    Raises:
        InputError: when the file cannot be read or is none of these.
        RequestError: when records are unusable; the message names the file, each record and the
            remedy.
    """
    parsed = read_requests(path, allow_contradictions=allow_contradictions)
    return parsed.usable(skip_bad=skip_bad)


def parse_records(
    objects: Iterable[Any],
    source: str,
    *,
    skip_bad: bool = False,
    allow_contradictions: bool = False,
) -> list[Record]:
    """Parse decoded records, in any of the forms; requests and records pass through.

    Raises:
        RequestError: when a record is malformed, repeats a case id or contradicts another.
    """
    located = [Located(item, f"record {index}") for index, item in enumerate(objects)]
    return _understand(located, source, allow_contradictions).usable(skip_bad=skip_bad)


def parse_record(item: Any, index: int, source: str) -> Record:
    """Parse one record that holds one edit.

    Args:
        item: the decoded JSON object.
        index: its position in the file, and its case id if it has none.
        source: the file's name in messages.

    Raises:
        RequestError: when the record is malformed, or holds several edits.
    """
    try:
        parsed = _parse(Located(item, f"record {index}"), index)
        if len(parsed.records) > 1:
            raise RequestError(f"record {index}: holds several edits; read it with parse_records")
    except RequestError as error:
        raise RequestError(f"{source}, {error}") from None
    return parsed.records[0]


def as_records(facts: Facts, *, skip_bad: bool = False) -> list[Record]:
    """Records from facts in any form.

    Args:
        facts: a path, one fact, or several: dictionaries in any request form, requests, records.
        skip_bad: skip unusable facts, and say how many there are.

    Raises:
        InputError: when a file cannot be read, or ``facts`` is something else.
        RequestError: when a fact is unusable.
    """
    if isinstance(facts, str | os.PathLike):
        return load_records(facts, skip_bad=skip_bad)
    if isinstance(facts, Mapping | EditRequest | Record):
        facts = [facts]
    if not isinstance(facts, Iterable):
        raise RequestError(
            f"facts: expected a path or a list of facts, found {type(facts).__name__}"
        )
    return parse_records(facts, "facts", skip_bad=skip_bad)


@dataclass(frozen=True)
class _Parsed:
    """The records of one object, where it is, its form, and its unknown fields."""

    index: int
    records: tuple[Record, ...]
    where: str
    form: str
    unknown: tuple[str, ...] = ()


def _parse(located: Located, index: int) -> _Parsed:
    if located.fault is not None:
        raise RequestError(located.fault)
    item = located.value
    if isinstance(item, EditRequest):
        item = Record(item)
    if isinstance(item, Record):
        _check_texts(item.request, Fields({}, located.where))
        return _Parsed(index, (item,), located.where, "record")
    try:
        return _parse_fields(Fields(item, located.where), located.where, index)
    except RecursionError:
        raise RequestError(f"{located.where}: nested too deeply; flatten it") from None


def _parse_fields(fields: Fields, where: str, index: int) -> _Parsed:
    case_id = fields.integer("case_id", default=index)
    if "case_id" in fields:
        fields.where += f" (case_id {case_id})"
    form = recognise(fields.values)
    if form is None:
        raise fields.error(_no_form(fields.values))
    if _holds_columns(fields.values):
        raise fields.error(_COLUMNS)
    fields.ignore(*form.ignored)
    records = tuple(form.parse(fields, case_id))
    return _Parsed(index, records, where, form.name, tuple(fields.unread()))


_COLUMNS = "holds columns, not records; write a record for each edit (pandas: orient='records')"


def _holds_columns(values: Mapping[str, Any]) -> bool:
    """Whether the values are a table stored by columns, as pandas and data sets write it."""
    parts = [values.get("prompt"), values.get("subject")]
    return all(isinstance(part, list) for part in parts) or all(
        isinstance(part, Mapping) for part in parts
    )


def _no_form(values: Mapping[str, Any]) -> str:
    """Why an object has none of the forms."""
    if {"columns", "data"} <= values.keys():
        return _COLUMNS
    for name in values:
        if str(name).strip().lower() in ("prompt", "subject", "target") and name != name.lower():
            return f"the field {shown(name)} must be called {name.strip().lower()!r}"
    lists = [shown(name) for name, value in values.items() if isinstance(value, list) and value]
    if len(lists) > 1 and len(lists) == len(values):
        return f"holds several lists ({', '.join(lists[:5])}); give the records of one of them"
    return (
        "none of the fields 'requested_rewrite', 'src' or 'prompt' is there; "
        "write it as CounterFact, as zsRE, or as prompt, subject and target"
    )


def _check_texts(request: EditRequest, fields: Fields) -> None:
    for name in ("prompt", "subject", "target_new"):
        value = getattr(request, name)
        if not isinstance(value, str) or not value.strip():
            raise fields.error(f"{name!r} must be a text that is not empty")
        checked_text(value, name, fields)
    if request.prompt.count("{}") != 1:
        raise fields.error("the prompt needs '{}' once, for the subject")


def _understand(located: Sequence[Located], source: str, allow_contradictions: bool) -> RequestFile:
    parsed: list[_Parsed] = []
    faults: dict[int, str] = {}
    for index, item in enumerate(located):
        try:
            parsed.append(_parse(item, index))
        except RequestError as error:
            faults[index] = str(error)
    checks = _Checks(allow_contradictions, faults)
    accepted = [
        (record, entry)
        for record, entry in _numbered(parsed)
        if checks.accept(record, entry.where, entry.index)
    ]
    return RequestFile(
        source,
        tuple(record for record, _ in accepted),
        Counter(entry.form for _, entry in accepted),
        tuple(faults[index] for index in sorted(faults)),
        (*checks.warnings(), *_unknown_fields(parsed)),
    )


def _numbered(parsed: Sequence[_Parsed]) -> Iterator[tuple[Record, _Parsed]]:
    """All records and their locations; renumbered if an object contains several edits."""
    several = any(len(entry.records) > 1 for entry in parsed)
    everything = ((record, entry) for entry in parsed for record in entry.records)
    for count, (record, entry) in enumerate(everything):
        if several:
            record = replace(record, request=replace(record.request, case_id=count))
        yield record, entry


class _Checks:
    """Checks between records: case ids must differ, and facts must not contradict each other."""

    def __init__(self, allow_contradictions: bool, faults: dict[int, str]) -> None:
        self._allow, self._faults = allow_contradictions, faults
        self._by_id: dict[int, str] = {}
        self._by_question: dict[tuple[str, str], tuple[str, str]] = {}
        self._repeated: list[str] = []
        self._contradictory: list[str] = []

    def accept(self, record: Record, where: str, index: int) -> bool:
        """Whether a record agrees with those before it; if not, it becomes a fault."""
        fault = self._fault(record, where)
        if fault is not None:
            self._faults.setdefault(index, fault)
            return False
        self._by_id[record.case_id] = where
        return True

    def _fault(self, record: Record, where: str) -> str | None:
        earlier = self._by_id.get(record.case_id)
        if earlier is not None:
            return (
                f"{where}: case_id {record.case_id} is already used by {earlier}; give every "
                "record its own"
            )
        request = record.request
        question = (request.prompt.strip(), request.subject)
        if question not in self._by_question:
            self._by_question[question] = (request.target_new, where)
            return None
        target, earlier = self._by_question[question]
        if target == request.target_new:
            self._repeated.append(f"{where} repeats {earlier}")
            return None
        contradiction = f"{where}: contradicts {earlier}"
        self._contradictory.append(contradiction)
        remedy = "which gives the same prompt and subject another object; keep one"
        return None if self._allow else f"{contradiction}, {remedy}"

    def warnings(self) -> Iterator[str]:
        """What is accepted but worth knowing."""
        if self._repeated:
            count = _count(len(self._repeated), "repeated fact")
            yield f"{count}, kept ({self._repeated[0]})"
        if self._allow and self._contradictory:
            count = _count(len(self._contradictory), "contradiction")
            yield f"{count}, kept ({self._contradictory[0]})"


def _unknown_fields(parsed: Iterable[_Parsed]) -> list[str]:
    counts = Counter(name for entry in parsed for name in entry.unknown)
    if not counts:
        return []
    names = ", ".join(shown(name) for name in list(counts)[:_SHOWN])
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return [f"unknown fields, not used: {names}{more}"]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
