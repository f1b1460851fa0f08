"""Side effects of an edit: lm-evaluation-harness tasks, on a model in its current state."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from collabedit.errors import InputError, MissingExtraError
from collabedit.models import LanguageModel
from collabedit.progress import say

__all__ = ["OWN_TASKS", "TaskScores", "check_tasks", "downstream"]

#: Tasks that ship with the package and work offline: common knowledge, four choices each.
OWN_TASKS = ("capitals", "opposites", "everyday")

#: Each task's metrics, such as ``acc`` and ``acc_stderr``.
TaskScores = dict[str, dict[str, float]]


class _Item(TypedDict):
    query: str
    choices: list[str]
    gold: int


_METRICS = [
    {"metric": name, "aggregation": "mean", "higher_is_better": True}
    for name in ("acc", "acc_norm")
]


def downstream(
    model: LanguageModel,
    tasks: Sequence[str] = OWN_TASKS,
    *,
    include: Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
) -> TaskScores:
    """Evaluate a model on tasks.

    Args:
        model: the model, edited or not.
        tasks: names of :data:`OWN_TASKS`; ``.jsonl`` files of items with a ``query``, its
            ``choices`` and the number of the right one, ``gold``; or names of the harness's tasks,
            whose data it downloads.
        include: a folder of further tasks in the harness's format (YAML files).
        limit: most items of a task; all by default.
        batch_size: items at a time.

    Returns:
        The tasks' metrics, as shares from 0 to 1.

    Raises:
        MissingExtraError: when the harness is not installed.
        InputError: when there is no such task, or its data can't be downloaded or read.
    """
    manager, chosen = _chosen(tasks, include)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    say(f"Measuring {', '.join(tasks)}")
    with _quiet():
        wrapped = HFLM(
            pretrained=model.hf,
            tokenizer=model.tokenizer,
            batch_size=batch_size,
            device=str(model.device),
        )
        try:
            evaluated: Any = lm_eval.simple_evaluate(
                wrapped,
                tasks=chosen,
                task_manager=manager,
                limit=limit,
                bootstrap_iters=1,
                log_samples=False,
            )
        except (OSError, ConnectionError) as error:
            first = str(error).partition("\n")[0]
            raise InputError(f"the data of {', '.join(tasks)} are unavailable: {first}") from None
    return {task: _numbers(scores) for task, scores in evaluated["results"].items()}


def check_tasks(tasks: Sequence[str], include: Path | None = None) -> None:
    """Check that tasks can be measured, before any work that ends with them.

    Raises:
        MissingExtraError: when the harness is not installed.
        InputError: when there is no such task, or its file cannot be read.
    """
    _chosen(tasks, include)


def _chosen(tasks: Sequence[str], include: Path | None) -> tuple[Any, list[Any]]:
    """The harness's task manager, and each task's name or configuration."""
    manager = _manager(include)
    configurations = {
        task: _own(task) for task in tasks if task in OWN_TASKS or task.endswith(".jsonl")
    }
    unknown = sorted(set(tasks) - set(configurations) - set(manager.all_tasks))
    if not tasks:
        raise InputError("no task is named")
    if unknown:
        raise InputError(
            f"unknown task {', '.join(unknown)!r}; ours are {', '.join(OWN_TASKS)}, others are "
            ".jsonl files, or those of 'lm-eval ls tasks' or of --include"
        )
    return manager, [configurations.get(task, task) for task in tasks]


@lru_cache(maxsize=1)
def _manager(include: Path | None) -> Any:
    """The harness's task manager; it reads thousands of files, once."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtraError("lm-eval", "lm-eval", "measuring downstream tasks") from None
    with _quiet():
        return TaskManager(include_path=None if include is None else str(include))


def _own(task: str) -> dict[str, Any]:
    """The harness's configuration for a task of this package, or of a file.

    Raises:
        InputError: when the file cannot be read, or has items of another form.
    """
    if task in OWN_TASKS:
        folder = resources.files("collabedit.evaluation").joinpath("tasks")
        path, name = str(folder.joinpath(f"{task}.jsonl")), task
    else:
        path, name = task, Path(task).stem
        _check_items(Path(task))
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": path}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "query",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": _METRICS,
        "metadata": {"version": 1},
    }


def _check_items(path: Path) -> None:
    """Raise an InputError unless every line of a file is an item with choices."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the task {path}: {error}") from None
    items = TypeAdapter(_Item)
    for number, line in enumerate(lines, 1):
        try:
            item = items.validate_json(line)
            right = 0 <= item["gold"] < len(item["choices"])
        except ValidationError:
            right = False
        if not right:
            raise InputError(
                f"{path}, line {number}: an item needs 'query', a text, 'choices', a list of "
                "texts, and 'gold', the number of the right one from 0"
            )
    if not lines:
        raise InputError(f"{path} has no items")


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """``acc`` from the harness's ``acc,none``; non-numbers are left out."""
    return {
        key.partition(",")[0]: float(value)
        for key, value in scores.items()
        if isinstance(value, int | float) and "," in key
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the harness, its data sets and git, which it starts to name its own version."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, shown = logger.level, datasets.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        # Its progress bars go to Python's standard error, git's complaints to the process's.
        with contextlib.redirect_stderr(io.StringIO()), _discarded_standard_error():
            yield
    finally:
        logger.setLevel(level)
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _discarded_standard_error() -> Iterator[None]:
    """Throw away what this process and those that it starts write to standard error."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
