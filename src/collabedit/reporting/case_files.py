"""Reading result files, one per record, of this package and of the papers' code."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from collabedit.errors import InputError
from collabedit.evaluation import CaseResult
from collabedit.files import read_json

__all__ = ["UNEDITED", "case_paths", "measured_case", "measured_cases"]

logger = logging.getLogger(__name__)

#: ``case_7.json`` of ROME and of this package, ``100_edits-case_7.json`` of MEMIT and CollabEdit.
_CASE_FILE = re.compile(r"(?:\d+_edits-)?case_(\d+)\.json")

#: The parts of CollabEdit's result files; a run fills one of them.
_CATEGORIES = ("global_edit", "collaborative_edit")

#: The name of the model before the edits.
UNEDITED = "unedited"
_NAMED_FILES = 5


def measured_cases(
    folder: Path, category: str | None = None, first: int | None = None
) -> dict[str, list[CaseResult]]:
    """Results of each method, and of :data:`UNEDITED`, from a folder with one file per record.

    CollabEdit's files have the parts ``global_edit`` and ``collaborative_edit``, of which a run
    fills one; ROME's and MEMIT's have ``post``, and optionally ``pre``, at the top level. This
    package's own files are read too. Damaged files are skipped, with a warning that counts and
    names them.

    Args:
        folder: such as ``results/MEMIT/run_000``.
        category: the part of CollabEdit's files to read; by default, each that is filled.
        first: take only records whose case id is below this number.

    Returns:
        The records' results by method; a method has the name of its part, or is ``edited`` in
        ROME's and MEMIT's.

    Raises:
        InputError: when the category is unknown, the folder is not a finished run, or nothing in it
            can be summarised.
    """
    if category not in (None, *_CATEGORIES):
        raise InputError(
            f"unknown edit category {category!r}; choose one of: {', '.join(_CATEGORIES)}"
        )
    cases = _read_cases(folder, first)
    left_out = set(_CATEGORIES) - {category} if category else set()
    chosen = {name: results for name, results in cases.items() if name not in left_out}
    if not chosen.keys() - {UNEDITED}:
        present = ", ".join(name for name in cases if name != UNEDITED)
        raise InputError(f"{folder}: no results of {category} in its files, which hold {present}")
    return chosen


def _read_cases(folder: Path, first: int | None) -> dict[str, list[CaseResult]]:
    """The results of all records by method, the unedited model among them."""
    _refuse_unfinished(folder)
    files = case_paths(folder)
    if not files:
        raise InputError(f"{folder}: not a run; give a folder such as results/MEMIT/run_000")
    cases: dict[str, list[CaseResult]] = defaultdict(list)
    damaged: list[str] = []
    for number, path in files:
        if first is not None and number >= first:
            break
        try:
            by_method = _read_case(number, path)
        except InputError as error:
            damaged.append(str(error))
            continue
        for name, case in by_method.items():
            cases[name].append(case)
    if damaged:
        more = len(damaged) - _NAMED_FILES
        ending = f"; and {more} more" if more > 0 else ""
        logger.warning(
            "left out %d damaged result file%s: %s",
            len(damaged),
            "s" if len(damaged) > 1 else "",
            "; ".join(damaged[:_NAMED_FILES]) + ending,
        )
    if not cases.keys() - {UNEDITED}:
        chosen = "" if first is None else f" below case {first}"
        raise InputError(f"{folder}: none of its {len(files)} result files{chosen} can be read")
    return cases


def case_paths(folder: Path) -> list[tuple[int, Path]]:
    """The result files in a folder with their case ids, in the order of the ids."""
    named = [(match, path) for path in folder.glob("*case_*.json") if (match := _name(path))]
    return sorted((int(match.group(1)), path) for match, path in named)


def _name(path: Path) -> re.Match[str] | None:
    return _CASE_FILE.fullmatch(path.name)


def _refuse_unfinished(folder: Path) -> None:
    """Refuse a run of this package, whose params.json holds versions, without a summary."""
    path = folder / "params.json"
    if (folder / "summary.json").is_file() or not path.is_file():
        return
    params = read_json(path)
    if isinstance(params, dict) and "versions" in params:
        raise InputError(f"{folder}: the run is not finished; run its command again to continue it")


def _read_case(case_id: int, path: Path) -> dict[str, CaseResult]:
    """A file's results for one record, by method."""
    return measured_case(case_id, read_json(path, "result file"), str(path))


def measured_case(case_id: int, value: Mapping[str, Any], source: str) -> dict[str, CaseResult]:
    """A decoded file's results for one record, by method, :data:`UNEDITED` last.

    Args:
        case_id: the record's id.
        value: the file's content.
        source: the file's name in the error.

    Raises:
        InputError: when it is not in the layout of ROME and MEMIT.
    """
    try:
        parts = _parts(value)
        before = [part["pre"] for part in parts.values() if part.get("pre")]
        blocks = {name: part["post"] for name, part in parts.items()}
        if before:
            blocks[UNEDITED] = before[0]
        return {name: _case(case_id, block) for name, block in blocks.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        raise InputError(f"{source}: not a result in the layout of ROME and MEMIT") from None


def _parts(value: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The parts of a file that have ``post`` and perhaps ``pre``, by method."""
    if "methods" in value:
        before = value.get("pre")
        return {name: {"pre": before, "post": post} for name, post in value["methods"].items()}
    if any(name in value for name in _CATEGORIES):
        return {name: value[name] for name in _CATEGORIES if value.get(name)}
    return {"edited": value}


def _case(case_id: int, block: Mapping[str, Any]) -> CaseResult:
    """A block, checked, with the kind of its record, which the papers' files do not state."""
    case: dict[str, Any] = {"case_id": case_id, "kind": "zsre"}
    for prompts in ("rewrite_prompts", "paraphrase_prompts", "neighborhood_prompts"):
        if f"{prompts}_probs" in block:
            case["kind"] = "counterfact"
            case[f"{prompts}_probs"] = [_losses(item) for item in block[f"{prompts}_probs"]]
        if f"{prompts}_correct" in block:
            case[f"{prompts}_correct"] = _flags(block[f"{prompts}_correct"])
    if len(case) == 2:
        raise ValueError("nothing is measured in it")
    for key in ("ngram_entropy", "reference_score"):
        if key in block:
            case[key] = float(block[key])
    if "answers" in block:
        case["answers"] = [_answer(item) for item in block["answers"]]
    return cast(CaseResult, case)


def _answer(item: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(item["form"], str):
        raise ValueError("an answer has no form")
    return dict(item)


def _losses(item: Mapping[str, Any]) -> dict[str, float]:
    losses = {"target_new": float(item["target_new"])}
    if "target_true" in item:
        losses["target_true"] = float(item["target_true"])
    return losses


def _flags(values: Sequence[Any]) -> list[bool]:
    if not all(isinstance(value, int | float) for value in values):
        raise ValueError("expected true and false")
    return [bool(value) for value in values]
