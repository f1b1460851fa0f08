"""The table at the end of editing: the outcome of each edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collabedit.evaluation.outcomes import Outcome, Outcomes
from collabedit.reporting.table import Column, Row, Table, console, section

__all__ = ["outcome_table", "print_outcomes", "side_by_side", "task_table"]

#: Most edits shown, and most characters of a text.
_SHOWN, _LONGEST = 24, 90


def print_outcomes(outcomes: Outcomes) -> None:
    """Print the outcomes of edits, failures first if there are many, and a summary."""
    out = console()
    failed = set(outcomes.failed)
    order = sorted(range(len(outcomes.each)), key=lambda index: index not in failed)
    out.print(outcome_table([outcomes.each[index] for index in sorted(order[:_SHOWN])]).rich())
    if len(order) > _SHOWN:
        out.print(f"... and {len(order) - _SHOWN} more")
    out.print(str(outcomes), highlight=False)


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """Edits, the model's answers before and after, raw and in chat, and the outcomes."""
    headings = {"edit": "edit", "before": "before", "after": "after"}
    if any(outcome.chat is not None for outcome in outcomes):
        headings |= {"asked": "asked in chat", "chat_before": "before", "chat_after": "after"}
    headings["outcome"] = "outcome"
    columns = [Column(key, heading, is_text=True) for key, heading in headings.items()]
    sections = [section(columns, [_row(outcome)]) for outcome in outcomes]
    return Table("What the model says", columns, sections)


def _row(outcome: Outcome) -> Row:
    row = {
        "edit": f"{outcome.request.text} -> {outcome.request.target_new}",
        "before": outcome.raw[0]["text"],
        "after": outcome.raw[1]["text"],
        "outcome": outcome.took.value,
    }
    if outcome.chat is not None:
        row["asked"] = outcome.chat[0]["prompt"]
        row["chat_before"], row["chat_after"] = (answer["text"] for answer in outcome.chat)
    return {key: _shortened(text) for key, text in row.items()}


def side_by_side(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Texts side by side, such as questions and models' answers."""
    columns = [Column(str(n), heading, is_text=True) for n, heading in enumerate(headings)]
    values: list[Row] = [{str(n): _shortened(t) for n, t in enumerate(row)} for row in rows]
    return Table(title, columns, [section(columns, [row]) for row in values])


def task_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Tasks by models, in percent.

    Args:
        scores: by model and task, the task's metrics as shares; ``*_stderr`` are standard errors.
    """
    first = next(iter(scores.values()))
    rows: list[Row] = []
    for task, metrics in first.items():
        for name in (name for name in metrics if not name.endswith("_stderr")):
            values = {model: by_task[task].get(name) for model, by_task in scores.items()}
            shown = {model: None if v is None else 100 * v for model, v in values.items()}
            error = metrics.get(f"{name}_stderr")
            rows.append(
                {
                    "task": task,
                    "metric": name,
                    **shown,
                    "+-": None if error is None else 100 * error,
                }
            )
    numbers = [Column(model, model, unit="%", decimals=1) for model in (*scores, "+-")]
    columns = [Column.name("task", once=True), Column.name("metric"), *numbers]
    return Table("Downstream tasks", columns, [section(columns, rows)])


def _shortened(text: str) -> str:
    """A text on one line, truncated if long; of a model that ends at once, "(nothing)"."""
    line = " ".join(text.split()) or "(nothing)"
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
