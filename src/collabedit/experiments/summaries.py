"""Reading finished runs: those of this package, and the result files of the papers' code."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from collabedit.errors import InputError
from collabedit.evaluation import CaseResult, summarise
from collabedit.files import read_json

__all__ = ["load_paper_summary", "load_summary"]

logger = logging.getLogger(__name__)

#: ``case_7.json`` of ROME and of this package, ``100_edits-case_7.json`` of MEMIT and CollabEdit.
_CASE_FILE = re.compile(r"(?:\d+_edits-)?case_(\d+)\.json")

#: The parts of CollabEdit's result files; a run fills one of them.
_CATEGORIES = ("global_edit", "collaborative_edit")

_UNEDITED = "unedited"
_NAMED_FILES = 5


def load_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run.

    A folder that holds result files of ROME, MEMIT or CollabEdit instead is summarised as
    :func:`load_paper_summary` does.

    Raises:
        InputError: when the folder is not a run, or the run is not finished.
    """
    path = folder / "summary.json"
    if path.is_file():
        summary: dict[str, Any] = read_json(path, "summary")
        return summary
    return load_paper_summary(folder)


def load_paper_summary(
    folder: Path, category: str | None = None, first: int | None = None
) -> dict[str, Any]:
    """Summarise a folder of result files, one a record, as the papers' code writes them.

    CollabEdit's files have the parts ``global_edit`` and ``collaborative_edit``, of which a run
    fills one; ROME's and MEMIT's have ``post``, and perhaps ``pre``, at the top. This package's own
    are read too. Damaged files are left out, with a warning that counts and names them.

    Args:
        folder: such as ``results/MEMIT/run_000``.
        category: the part of CollabEdit's files to summarise; by default, each that is filled.
        first: take only records whose case id is below this number.

    Returns:
        ``{"unedited": metrics, "methods": {name: metrics}}``, without ``unedited`` where no file
        has ``pre``. A method has the name of its part, or is ``edited`` in ROME's and MEMIT's.

    Raises:
        InputError: when the category is unknown, the folder is no run or an unfinished one, or
            nothing in it can be summarised.
    """
    if category not in (None, *_CATEGORIES):
        raise InputError(
            f"unknown edit category {category!r}; choose one of: {', '.join(_CATEGORIES)}"
        )
    cases = _read_cases(folder, first)
    unedited = cases.pop(_UNEDITED, None)
    left_out = set(_CATEGORIES) - {category} if category else set()
    methods = {name: own for name, own in cases.items() if name not in left_out}
    if not methods:
        raise InputError(
            f"{folder}: no results of {category} in its files, which hold {', '.join(cases)}"
        )
    summary: dict[str, Any] = {"unedited": dict(summarise(unedited))} if unedited else {}
    summary["methods"] = {name: dict(summarise(own)) for name, own in methods.items()}
    return summary


def _read_cases(folder: Path, first: int | None) -> dict[str, list[CaseResult]]:
    """The results of all records by method, the unedited model among them."""
    files = _case_files(folder)
    cases: dict[str, list[CaseResult]] = defaultdict(list)
    damaged: list[str] = []
    for number, path in files:
        if first is not None and number >= first:
            break
        try:
            found = _read_case(number, path)
        except InputError as error:
            damaged.append(str(error))
            continue
        for name, case in found.items():
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
    if not cases.keys() - {_UNEDITED}:
        chosen = "" if first is None else f" below case {first}"
        raise InputError(f"{folder}: none of its {len(files)} result files{chosen} can be used")
    return cases


def _case_files(folder: Path) -> list[tuple[int, Path]]:
    """The result files with their case ids, in the order of these."""
    if _is_unfinished(folder):
        raise InputError(f"{folder}: the run is not finished; run its command again to continue it")
    named = [(match, path) for path in folder.glob("*case_*.json") if (match := _name(path))]
    if not named:
        raise InputError(f"{folder}: not a run; give a folder such as results/MEMIT/run_000")
    return sorted((int(match.group(1)), path) for match, path in named)


def _name(path: Path) -> re.Match[str] | None:
    return _CASE_FILE.fullmatch(path.name)


def _is_unfinished(folder: Path) -> bool:
    """Whether it is a run of this package, whose params.json holds versions, without a summary."""
    path = folder / "params.json"
    if (folder / "summary.json").is_file() or not path.is_file():
        return False
    params = read_json(path)
    return isinstance(params, dict) and "versions" in params


def _read_case(case_id: int, path: Path) -> dict[str, CaseResult]:
    """What a file says of one record, by method."""
    try:
        parts = _parts(read_json(path, "result file"))
        before = [part["pre"] for part in parts.values() if part.get("pre")]
        blocks = {name: part["post"] for name, part in parts.items()}
        if before:
            blocks[_UNEDITED] = before[0]
        return {name: _case(case_id, block) for name, block in blocks.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        raise InputError(f"{path}: not a result in the layout of ROME and MEMIT") from None


def _parts(value: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The parts with ``post`` and perhaps ``pre`` of a file, by method."""
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
    return cast(CaseResult, case)


def _losses(item: Mapping[str, Any]) -> dict[str, float]:
    losses = {"target_new": float(item["target_new"])}
    if "target_true" in item:
        losses["target_true"] = float(item["target_true"])
    return losses


def _flags(values: Sequence[Any]) -> list[bool]:
    if not all(isinstance(value, int | float) for value in values):
        raise ValueError("expected true and false")
    return [bool(value) for value in values]
