"""The parts of a run's report: tables with a heading and a short explanation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from collabedit.evaluation import (
    ANSWER_METRICS,
    CaseResult,
    Summary,
    metric,
    metrics,
    summarise,
)
from collabedit.reporting.bootstrap import Bootstrap, Interval, bootstrap
from collabedit.reporting.html.edits import Edit, shared_questions
from collabedit.reporting.results import (
    ConflictResult,
    EditorsResult,
    MethodsResult,
    MultiRoundResult,
    RunResult,
)
from collabedit.reporting.table import Column, Row, Table, Value, section
from collabedit.reporting.tables import answer_tables, layer_name, tables_of

__all__ = ["Part", "Samples", "parts_of", "samples_of", "side_by_side"]

_METHOD = Column.name("method")
_NAMES = ("editor", "schedule", "method")

#: Headings of a study's further tables.
_HEADINGS = {
    "multi-round": "Forgetting over rounds",
    "forgetting": "Forgetting curves",
    "overlap": "The same edits from several parties",
    "editors": "Score by editor and method",
    "tune": "Trials",
}
_MOST_QUESTIONS = 50


@dataclass(frozen=True)
class Part:
    """A part of the report.

    Attributes:
        heading: its heading.
        text: what it shows.
        tables: the tables that are shown.
        folded: tables shown on demand, below a line that says what they are.
        picture: whether the run's plot belongs here.
    """

    heading: str
    text: str = ""
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    picture: bool = False


@dataclass(frozen=True)
class Samples:
    """Models that were measured on the same records.

    Attributes:
        edits: the records.
        models: the models' names, the unedited one first.
        sample: their metrics, with resamples.
    """

    edits: Sequence[Edit]
    models: Sequence[str]
    sample: Bootstrap

    @property
    def keys(self) -> list[str]:
        """The metrics to show: those of comparisons in percent, with the Score last."""
        measured = {key for own in self.sample.resampled.values() for key in own}
        shown = [m.key for m in metrics("comparison") if m.key in measured and m.unit == "%"]
        return [key for key in shown if key != "score"] + ["score"] * ("score" in measured)

    @property
    def asked(self) -> list[str]:
        """The metrics of what the models wrote, if they were asked."""
        measured = {key for own in self.sample.resampled.values() for key in own}
        return [each.key for each in ANSWER_METRICS if each.key in measured]


def samples_of(edits: Sequence[Edit]) -> list[Samples]:
    """The edits, grouped by the models measured on them; usually there is one group."""
    groups: dict[tuple[str, ...], list[Edit]] = defaultdict(list)
    for edit in edits:
        if edit.models:
            groups[tuple(edit.models)].append(edit)
    return [Samples(own, names, bootstrap(_cases(own, names))) for names, own in groups.items()]


def _cases(edits: Sequence[Edit], models: Sequence[str]) -> dict[str, list[CaseResult]]:
    return {name: [edit.models[name] for edit in edits] for name in models}


def parts_of(result: RunResult, samples: Sequence[Samples], edits: Sequence[Edit]) -> list[Part]:
    """All parts for which a run has data, except its edits and settings."""
    parts = [
        _methods(result, samples),
        _differences(samples),
        _distances(result),
        _study(result),
        _shared(result, edits),
        _relations(samples),
        _residuals(result),
        _costs(result),
    ]
    return [part for part in parts if part.tables or part.folded or part.picture]


def _methods(result: RunResult, samples: Sequence[Samples]) -> Part:
    """Methods by ES, PS, NS and Score."""
    everything = tables_of(result, "All metrics")[0]
    if not samples:
        return Part("Results", tables=[everything, *answer_tables(result)], picture=True)
    text = (
        "Percent, with 95 % bootstrap intervals over records in brackets. Hover over a heading, or "
        "see the definitions at the end, for what a metric means."
    )
    tables = [_intervals(own, own.keys, _title(own, "Methods")) for own in samples]
    written = "What the models write when they are asked"
    tables += [_intervals(own, own.asked, written) for own in samples if own.asked]
    return Part("Methods", text, tables, [everything], picture=True)


def _title(samples: Samples, what: str) -> str:
    count = samples.sample.records
    return f"{what}, measured on {count:,} record{'' if count == 1 else 's'}"


def _intervals(samples: Samples, keys: Sequence[str], title: str) -> Table:
    columns = [_METHOD, *map(_column, keys)]
    rows: list[Row] = [
        {"method": name, **{key: _text(samples.sample.interval(name, key)) for key in keys}}
        for name in samples.models
    ]
    return Table(title, columns, [section(columns, rows)])


def _column(key: str) -> Column:
    return replace(Column.of(metric(key)), decimals=None)


def _text(found: Interval | None, *, signed: bool = False) -> str:
    """A value with its interval; a true minus sign, since a hyphen reads as a range."""
    if found is None:
        return ""
    sign = "+" if signed else ""
    value, low, high = (
        f"{number:{sign}.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")
        if abs(number) < 0.05
        else f"{number:{sign}.1f}"
        for number in (found.value, found.low, found.high)
    )
    return f"{value} [{low}, {high}]".replace("-", "−")


def _differences(samples: Sequence[Samples]) -> Part:
    """Every method minus every other."""
    text = (
        "The first method minus the second, in percentage points, on the same resamples of the "
        "records. An interval without 0 tells the two apart; the difficulty of the records cancels "
        "out."
    )
    several = [own for own in samples if len(own.models) > 1]
    tables = [_paired(own, own.keys, _title(own, "Paired differences")) for own in several]
    title = "Paired differences of what the models write"
    folded = [_paired(own, own.asked, title) for own in several if own.asked]
    return Part("Differences between methods", text, tables, folded)


def _paired(samples: Samples, keys: Sequence[str], title: str) -> Table:
    columns = [
        Column.name("method", once=True),
        Column.name("minus"),
        *map(_column, keys),
    ]
    sections = []
    names = [*samples.models[1:], samples.models[0]]
    for index, name in enumerate(names[:-1]):
        rows = [_difference(samples, keys, name, other) for other in names[index + 1 :]]
        sections.append(section(columns, rows))
    return Table(title, columns, sections)


def _difference(samples: Samples, keys: Sequence[str], name: str, other: str) -> Row:
    found = {key: samples.sample.difference(name, other, key) for key in keys}
    return {"method": name, "minus": other, **{k: _text(v, signed=True) for k, v in found.items()}}


def _distances(result: RunResult) -> Part:
    """Distance of each update from pooled editing."""
    text = (
        "The largest over layers of |D − D_GLOBAL| / |D_GLOBAL|, where GLOBAL is one party that "
        "holds all edits: 0 loses nothing, 1 is the distance of the unedited model."
    )
    tables: list[Table] = []
    if isinstance(result, MultiRoundResult):
        tables += _by_round(
            "Distance from GLOBAL's update, along each method's own rounds",
            result.delta_relative_to_global_by_round,
        )
        tables += _by_round(
            "Distance from pooled editing of the same targets on the same model",
            result.distance_from_pooled_by_round,
        )
    if isinstance(result, MethodsResult) and result.delta_relative_to_global:
        columns = [_METHOD, Column.of(metric("distance_from_global"))]
        rows: list[Row] = [
            {"method": name, "distance_from_global": distance}
            for name, distance in result.delta_relative_to_global.items()
        ]
        tables.insert(0, Table("Distance from GLOBAL's update", columns, [section(columns, rows)]))
    return Part("Distance to pooled editing", text, tables)


def _by_round(title: str, found: Mapping[str, Sequence[float | None]]) -> list[Table]:
    count = max(map(len, found.values()), default=0)
    if not count:
        return []
    rounds = [
        replace(Column.of(metric("distance_from_global")), key=str(n), heading=f"round {n}")
        for n in range(1, count + 1)
    ]
    columns = [_METHOD, *rounds]
    rows: list[Row] = [
        {"method": name, **{str(n): value for n, value in enumerate(own, 1)}}
        for name, own in found.items()
    ]
    return [Table(title, columns, [section(columns, rows)])]


def _study(result: RunResult) -> Part:
    """The study's results besides its methods."""
    tables = tables_of(result, "")
    own = tables[1 : len(tables) - len(answer_tables(result))]
    return Part(_HEADINGS.get(result.experiment, ""), tables=own)


def _shared(result: RunResult, edits: Sequence[Edit]) -> Part:
    """Questions that several edits answer."""
    tables = [_unedited_b(result)] if isinstance(result, ConflictResult) else []
    shared = shared_questions(edits)
    conflicts = sum(len({edit.new for edit in own}) > 1 for own in shared.values())
    text = (
        f"{len(shared):,} of the questions have several edits; {conflicts:,} of them have "
        "conflicting answers."
    )
    columns = [Column.name("question"), Column.words("answers"), Column.words("kind")]
    rows = [_question(prompt, own) for prompt, own in list(shared.items())[:_MOST_QUESTIONS]]
    if rows:
        left = len(shared) - len(rows)
        note = f"And {left:,} more." if left else ""
        title = "Questions with several edits"
        tables.append(Table(title, columns, [section(columns, rows)], note))
    return Part("Conflicts and overlaps", text, tables)


def _question(prompt: str, edits: Sequence[Edit]) -> Row:
    answers = list(dict.fromkeys(edit.new for edit in edits))
    kind = "conflict" if len(answers) > 1 else "overlap"
    return {"question": prompt, "answers": " / ".join(answers), "kind": kind}


def _unedited_b(result: ConflictResult) -> Table:
    row: Row = {"method": "unedited", **result.unedited_b}
    columns = [_METHOD, *(Column.of(m) for m in metrics() if m.key in row)]
    title = "The conflicting records on the unedited model"
    return Table(title, columns, [section(columns, [row])])


def _relations(samples: Sequence[Samples]) -> Part:
    """Each relation's metrics, one column per model."""
    text = "Percent. Mind the number of records: a relation with few says little."
    tables = [table for own in samples for table in _by_relation(own)]
    if not tables:
        return Part("")
    return Part("By relation", text, tables[-1:], tables[:-1])


def _by_relation(samples: Samples) -> Iterator[Table]:
    groups: dict[str, list[Edit]] = defaultdict(list)
    for edit in samples.edits:
        if edit.relation:
            groups[edit.relation].append(edit)
    if not groups:
        return
    found = {
        relation: {name: summarise(own) for name, own in _cases(edits, samples.models).items()}
        for relation, edits in sorted(groups.items())
    }
    for key in samples.keys:
        yield _relation_table(samples, key, groups, found)


def _relation_table(
    samples: Samples,
    key: str,
    groups: Mapping[str, Sequence[Edit]],
    found: Mapping[str, Mapping[str, Summary]],
) -> Table:
    shown = Column.of(metric(key))
    columns = [
        Column.name("relation"),
        Column.words("for example"),
        Column("records", "records"),
        *(replace(shown, key=f"of {name}", heading=name) for name in samples.models),
    ]
    rows: list[Row] = []
    for relation, by_model in found.items():
        row: dict[str, Value] = {
            "relation": relation,
            "for example": groups[relation][0].template.replace("{}", "…"),
            "records": len(groups[relation]),
        }
        rows.append(row | {f"of {name}": own.get(key) for name, own in by_model.items()})
    return Table(f"{shown.heading} by relation", columns, [section(columns, rows)])


def _residuals(result: RunResult) -> Part:
    """``|R|`` by method and layer."""
    text = (
        "|R| is the Frobenius norm of all parties' residuals: how far the edits had to move. Only "
        "methods that pool statistics have it."
    )
    rows = _norms(result)
    weights = dict.fromkeys(key for row in rows for key in row if key not in _NAMES)
    if not weights:
        return Part("")
    columns = [
        *(Column.name(key) for key in _NAMES if key in rows[0]),
        *(Column(each, layer_name(each), decimals=2) for each in weights),
    ]
    return Part("Residual norms", text, [Table.of("|R|", columns, rows)])


def _norms(result: RunResult) -> list[Row]:
    """Residual norms by weight, one row per method."""
    if isinstance(result, EditorsResult):
        return [
            {"editor": part.editor, "schedule": part.schedule, "method": name, **own}
            for part in result.editors
            for name, own in part.residual_norms.items()
        ]
    if isinstance(result, MethodsResult):
        return [{"method": name, **own} for name, own in result.residual_norms.items()]
    return []


def _costs(result: RunResult) -> Part:
    """Seconds and bytes by stage."""
    stages = result.costs.stages
    if not stages:
        return Part("")
    columns = [
        Column.name("stage"),
        Column("seconds", "seconds", decimals=1),
        Column("bytes", "bytes", decimals=0),
    ]
    rows: list[Row] = [
        {"stage": name, "seconds": cost.seconds, "bytes": cost.bytes}
        for name, cost in stages.items()
    ]
    seconds = sum(cost.seconds for cost in stages.values())
    size = sum(cost.bytes for cost in stages.values())
    total: Row = {"stage": "all stages", "seconds": seconds, "bytes": size}
    sections = [section(columns, rows), section(columns, [total])]
    text = "Measured on the machine of the run; the bytes are those that a stage stores on disk."
    return Part("Seconds and bytes by stage", text, [Table("Stages", columns, sections)])


def side_by_side(runs: Mapping[str, Sequence[Samples]], results: Mapping[str, RunResult]) -> Part:
    """All runs' methods in one table, and the differences between those on the same records."""
    text = "The same methods on the same records are compared pair by pair."
    keys = [m.key for m in metrics("headline") if m.unit == "%" or m.key == "score"]
    tables = [_all_runs(results, keys)]
    if paired := _across(runs):
        tables.append(paired)
    return Part("Side by side", text, tables)


def _all_runs(results: Mapping[str, RunResult], keys: Sequence[str]) -> Table:
    names = [Column.name("run", once=True), Column.name("method")]
    rows = {run: result.rows() for run, result in results.items()}
    present = {key for own in rows.values() for row in own for key in row}
    columns = [*names, *(Column.of(metric(key)) for key in keys if key in present)]
    sections = [
        section(columns, [{"run": run, **row} for row in own]) for run, own in rows.items() if own
    ]
    return Table("All runs", columns, sections)


def _across(runs: Mapping[str, Sequence[Samples]]) -> Table | None:
    """Each run minus the first one, method by method."""
    (first, own), *others = runs.items()
    found = [
        row
        for run, theirs in others
        for a in own
        for b in theirs
        for row in _between(run, b, first, a)
    ]
    if not found:
        return None
    keys = list(dict.fromkeys(k for row in found for k in row if k not in ("run", "method")))
    columns = [Column.name("run", once=True), Column.name("method"), *map(_column, keys)]
    title = f"Paired differences: each run minus {first}"
    return Table(title, columns, [section(columns, found)])


def _between(run: str, samples: Samples, first: str, others: Samples) -> Iterator[Row]:
    theirs = {edit.identity: edit for edit in others.edits}
    if theirs.keys() != {edit.identity for edit in samples.edits}:
        return
    for name in samples.models:
        if name in others.models:
            edits = [
                (edit.models[name], theirs[edit.identity].models[name]) for edit in samples.edits
            ]
            both = bootstrap({run: [a for a, _ in edits], first: [b for _, b in edits]})
            found = {key: both.difference(run, first, key) for key in samples.keys}
            yield {
                "run": run,
                "method": name,
                **{key: _text(value, signed=True) for key, value in found.items()},
            }
