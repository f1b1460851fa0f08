"""The tables of each study's results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import singledispatch
from math import nan

from collabedit.evaluation import ANSWER_METRICS, metric, metrics
from collabedit.evaluation.metrics import Level
from collabedit.reporting.outcome_tables import task_table
from collabedit.reporting.results import (
    EditorsResult,
    ForgettingResult,
    Metrics,
    MultiRoundResult,
    OverlapResult,
    RepeatedRound,
    RunResult,
    TuneResult,
)
from collabedit.reporting.table import Column, Row, Section, Table, console, section, to_csv

__all__ = [
    "answer_tables",
    "console",
    "layer_name",
    "measured_columns",
    "methods_table",
    "results_csv",
    "tables_of",
]

_METHOD = Column.name("method", once=True)
_NAMES = ("editor", "schedule", "method")


def tables_of(result: RunResult, title: str) -> list[Table]:
    """All tables of a run's result, the methods' table first.

    Args:
        result: the result of any study; each has its own tables.
        title: title of the first table.
    """
    return [*_own_tables(result, title), *answer_tables(result)]


@singledispatch
def _own_tables(result: RunResult, title: str) -> list[Table]:
    return [methods_table(result, title)]


def answer_tables(result: RunResult) -> list[Table]:
    """What the models wrote when asked: a table, or none if they were not asked."""
    rows = [row for row in result.rows() if any(each.key in row for each in ANSWER_METRICS)]
    if not rows:
        return []
    columns = [
        *(_METHOD if key == "method" else Column.name(key) for key in _NAMES if key in rows[0]),
        *(Column.of(each) for each in ANSWER_METRICS if any(each.key in row for row in rows)),
    ]
    return [Table("What the models write when they are asked", columns, [section(columns, rows)])]


def methods_table(result: RunResult, title: str) -> Table:
    """Methods by metrics, the unedited model first."""
    rows = result.rows()
    columns = [_METHOD, *measured_columns(rows)]
    return Table(title, columns, [section(columns, rows)])


def results_csv(results: Mapping[str, RunResult]) -> str:
    """All measurements of several runs as CSV, one row per run and method.

    Args:
        results: the results by the runs' names.
    """
    return to_csv([{"run": run, **row} for run, result in results.items() for row in result.rows()])


def measured_columns(rows: Sequence[Row], level: Level = "detail") -> list[Column]:
    """A column for each metric of a level that at least one row has."""
    asked = {each.key for each in ANSWER_METRICS}  # they have a separate table
    return [
        Column.of(measure)
        for measure in metrics(level)
        if measure.key not in asked and any(measure.key in row for row in rows)
    ]


@_own_tables.register
def _multi_round(result: MultiRoundResult, title: str) -> list[Table]:
    """Also the Score of each round's edits after each round, which shows how they fade."""
    score = metric("score")
    rounds = [
        replace(Column.of(score), key=str(number), heading=f"round {number}")
        for number in range(1, result.measured[-1] + 1)
    ]
    faded = _series(
        "Score of the edits of each round",
        [Column("after", "measured after round"), *rounds],
        {
            name: [
                {"after": after, **{str(n): m.get("score", nan) for n, m in enumerate(part, 1)}}
                for after, part in zip(result.measured, parts, strict=False)
            ]
            for name, parts in result.rounds.items()
        },
    )
    return [methods_table(result, title), faded, *_tasks(result), *_warnings(result)]


def _tasks(result: MultiRoundResult) -> list[Table]:
    """Downstream tasks after the last round, if any were measured."""
    return [task_table({k: own[-1] for k, own in result.tasks.items()})] if result.tasks else []


def _warnings(result: MultiRoundResult) -> list[Table]:
    """Measures that left their range, if any."""
    if not result.warnings:
        return []
    columns = [
        Column("round", "after round"),
        Column("message", "what left its range", is_text=True),
    ]
    rows: dict[str, list[Row]] = {
        name: [{"round": warning.round, "message": warning.message} for warning in warnings]
        for name, warnings in result.warnings.items()
    }
    return [_series("Early warnings", columns, rows)]


@_own_tables.register
def _forgetting(result: ForgettingResult, title: str) -> list[Table]:
    rows = [row for curve in result.curves.values() for row in curve]
    columns = [Column("further_edits", "further"), *measured_columns(rows, "headline")]
    curves = _series("The target set after further edits", columns, result.curves)
    return [methods_table(result, title), curves]


@_own_tables.register
def _overlap(result: OverlapResult, title: str) -> list[Table]:
    return [methods_table(result, title), _repeated(result.repeated), _copies(result.copies)]


def _repeated(repeated: Mapping[str, Sequence[RepeatedRound]]) -> Table:
    series: dict[str, list[Row]] = {
        name: [
            {
                "round": number,
                "edits": repeat.edits,
                "skipped": repeat.skipped,
                **{layer_name(weight): norm for weight, norm in repeat.residual_norms.items()},
                **repeat.metrics,
            }
            for number, repeat in enumerate(rounds, 1)
        ]
        for name, rounds in repeated.items()
    }
    rows = [row for own in series.values() for row in own]
    layers = dict.fromkeys(
        layer_name(w) for own in repeated.values() for r in own for w in r.residual_norms
    )
    columns = [
        *(Column(key, key) for key in ("round", "edits", "skipped")),
        *(
            Column(key, f"|R| {key}", decimals=2, definition="norm of all parties' residuals")
            for key in layers
        ),
        *measured_columns(rows, "headline"),
    ]
    return _series("The same edits in every round", columns, series)


def layer_name(weight_name: str) -> str:
    """``layer N`` instead of the weight's name."""
    match = re.search(r"\.(\d+)\.", weight_name)
    return f"layer {match.group(1)}" if match else weight_name


def _copies(copies: Mapping[str, Sequence[Metrics]]) -> Table:
    rows = [row for own in copies.values() for row in own]
    columns = [Column("copies", "parties"), *measured_columns(rows, "headline")]
    return _series("The same edits from several parties in one round", columns, copies)


def _series(title: str, columns: Sequence[Column], series: Mapping[str, Sequence[Row]]) -> Table:
    """Several rows per method."""
    columns = [_METHOD, *columns]
    sections = [
        section(columns, [{"method": name, **row} for row in rows]) for name, rows in series.items()
    ]
    return Table(title, columns, sections)


@_own_tables.register
def _editors(result: EditorsResult, title: str) -> list[Table]:
    """All metrics of all editors, and the Scores alone, editors by methods."""
    tables = [_measures(result, title)]
    if any("score" in metrics for part in result.editors for metrics in part.methods.values()):
        tables.append(_scores(result))
    return tables


_EDITOR = (Column.name("editor", once=True), Column.name("schedule", once=True))


def _measures(result: EditorsResult, title: str) -> Table:
    columns = [*_EDITOR, Column.name("method"), *measured_columns(result.rows(), "comparison")]
    keys = [column.key for column in columns]
    sections: list[Section] = [section(columns, result.rows()[:1])]
    sections += [section(columns, part.rows(), compared=keys) for part in result.editors]
    notes = ["Bold: the best of an editor and schedule."]
    notes += [f"{c.heading}: {c.definition}." for c in columns if c.scientific]
    if any(part.schedule == "either" for part in result.editors):
        notes.append("either: the schedule makes no difference (one layer), measured once.")
    return Table(title, columns, sections, " ".join(notes))


def _scores(result: EditorsResult) -> Table:
    """The Scores, one row per editor and schedule, one column per method."""
    methods = list(dict.fromkeys(name for part in result.editors for name in part.methods))
    score = Column.of(metric("score"))
    names = [Column.name("editor"), Column.name("schedule")]
    columns = [*names, *(replace(score, key=name, heading=name) for name in methods)]
    rows: list[Row] = [
        {
            "editor": part.editor,
            "schedule": part.schedule,
            **{name: measured.get("score") for name, measured in part.methods.items()},
        }
        for part in result.editors
    ]
    sections = [section(columns, rows, compared=methods)]
    return Table("Score by editor and method", columns, sections, "Bold: the best of a column.")


@_own_tables.register
def _tune(result: TuneResult, title: str) -> list[Table]:
    """The results of causal tracing, and all trials, the best first."""
    tables = [_effects(result, title)]
    if result.methods:
        tables.append(_trials(result))
    return tables


def _effects(result: TuneResult, title: str) -> Table:
    trace = result.trace
    percent = Column("", "", unit="%", decimals=1)
    columns = [
        Column.name("layer"),
        replace(percent, key="hidden", heading="its state restored"),
        replace(percent, key="hidden_error", heading="+-"),
        Column("layers", "layers"),
        replace(percent, key="mlp", heading="their MLPs restored"),
        replace(percent, key="mlp_error", heading="+-"),
    ]
    note = (
        f"Percent, at the subject's last token: {trace.facts} known facts of {trace.examined} "
        f"records, {trace.draws} draws of the noise each. The object's probability is "
        f"{100 * trace.clean:.1f}, with noise {100 * trace.corrupted:.1f}; +- is the standard "
        "error over facts."
    )
    rows = [_effect(result, layer) for layer in range(len(trace.hidden))]
    return Table(f"{title}: average indirect effects", columns, [section(columns, rows)], note)


def _effect(result: TuneResult, layer: int) -> Row:
    trace = result.trace
    row: dict[str, str | float] = {
        "layer": str(layer),
        "hidden": 100 * trace.hidden[layer],
        "hidden_error": 100 * trace.hidden_error[layer],
    }
    if layer < len(trace.mlp):
        last = layer + trace.window - 1
        row |= {
            "layers": f"{layer}-{last}" if last > layer else str(layer),
            "mlp": 100 * trace.mlp[layer],
            "mlp_error": 100 * trace.mlp_error[layer],
        }
    return row


def _trials(result: TuneResult) -> Table:
    unedited = result.unedited or {}
    trials: list[Row] = [
        {
            **trial.model_dump(),
            "name": f"{trial.layers} (present)" if trial.present else trial.layers,
        }
        for trial in result.methods.values()
    ]
    columns = [
        Column("name", "layers", is_name=True),
        Column("weight", "lambda", definition="weight of the prior"),
        Column("clamp_factor", "clamp", definition="bound on the targets' norm"),
        Column("target_steps", "steps", definition="steps of the targets' optimisation"),
        *measured_columns(trials, "headline"),
    ]
    sections = [
        section(columns, [{"name": "unedited", **unedited}]),
        section(columns, trials, compared=["score"]),
    ]
    note = (
        f"{unedited.get('records', 0)} records, the best settings first. gain: Score above that of "
        "the present settings, with its standard error (jackknife). update: its norm relative to "
        "that of the edited weights."
    )
    return Table("Trials", columns, sections, note)
