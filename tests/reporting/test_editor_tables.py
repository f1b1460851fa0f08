"""The tables of a comparison of editors, cell by cell, from a hand-made summary."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from collabedit.reporting.results import RunResult
from collabedit.reporting.tables import tables_of
from tests.reporting.test_tables import BETTER, SCORES, headings, rows, summary_tables


def part(editor: str, schedule: str, **methods: Any) -> dict[str, Any]:
    distances = {"CollabEdit": 1.234e-15, "SA": 0.75}
    return {
        "editor": editor,
        "schedule": schedule,
        "layers": [0],
        "run": editor,
        "methods": methods,
        "delta_relative_to_global": {
            name: distances.get(name, 0.0) for name in methods if "GLOBAL" in methods
        },
    }


def editors_summary() -> dict[str, Any]:
    """Two editors in two schedules; fine-tuning has no CollabEdit."""
    exact = {**BETTER, "perplexity": 21.004}
    return {
        "experiment": "editors",
        "unedited": {**SCORES, "perplexity": 20.0},
        "editors": [
            part(
                "MEMIT",
                "layerwise",
                GLOBAL=exact,
                CollabEdit={**exact, "perplexity": 21.001},
                SA={**SCORES, "perplexity": 20.5},
            ),
            part("MEMIT", "one-shot", GLOBAL=BETTER, CollabEdit=BETTER),
            part("FT-L", "either", GLOBAL={**BETTER, "score": 70.0}),
        ],
        "settings": {},
    }


def test_all_measures_of_all_editors() -> None:
    table, _ = summary_tables(editors_summary(), "results/editors/run_000")
    assert table.title == "results/editors/run_000"
    assert headings(table) == [
        *("editor", "schedule", "method", "ES", "PS", "NS", "Score", "ppl", "distance")
    ]
    assert rows(table) == [
        ["", "", "unedited", "25.0", "12.5", "75.0", "21.4", "20.00", ""],
        [
            *("MEMIT", "layerwise", "GLOBAL"),
            *("100.0", "93.8", "66.7", "84.2", "21.00", "0.0e+00"),
        ],
        ["", "", "CollabEdit", "100.0", "93.8", "66.7", "84.2", "21.00", "1.2e-15"],
        ["", "", "SA", "25.0", "12.5", "75.0", "21.4", "20.50", "7.5e-01"],
        ["MEMIT", "one-shot", "GLOBAL", "100.0", "93.8", "66.7", "84.2", "", "0.0e+00"],
        ["", "", "CollabEdit", "100.0", "93.8", "66.7", "84.2", "", "1.2e-15"],
        ["FT-L", "either", "GLOBAL", "100.0", "93.8", "66.7", "70.0", "", "0.0e+00"],
    ]
    assert "either: the schedule makes no difference" in str(table.caption)


def bold(text: object) -> bool:
    assert isinstance(text, Text)
    return text.style == "bold"


def test_the_best_of_an_editor_and_schedule_is_bold() -> None:
    """As shown: values that differ only in hidden digits are equally good."""
    measures, scores = summary_tables(editors_summary(), "t")
    columns = {str(c.header): [bold(cell) for cell in c.cells] for c in measures.columns}
    assert columns["ES"] == [False, True, True, False, True, True, True]
    assert columns["NS"] == [False, False, False, True, True, True, True]
    assert columns["ppl"] == [False, False, False, True, False, False, False]  # lower is better
    assert not any(columns["distance"])
    shown = {str(c.header): [bold(cell) for cell in c.cells] for c in scores.columns}
    assert shown["GLOBAL"] == [True, True, False]
    assert shown["SA"] == [True, False, False]


def test_scores_alone_are_editors_by_methods() -> None:
    _, table = summary_tables(editors_summary(), "t")
    assert headings(table) == ["editor", "schedule", "GLOBAL", "CollabEdit", "SA"]
    assert rows(table) == [
        ["MEMIT", "layerwise", "84.2", "84.2", "21.4"],
        ["MEMIT", "one-shot", "84.2", "84.2", ""],
        ["FT-L", "either", "70.0", "", ""],
    ]


def test_without_scores_there_is_one_table() -> None:
    bare = {"ES": 50.0}
    made = {"unedited": bare, "editors": [part("ROME", "either", SA=bare)], "settings": {}}
    (table,) = tables_of(RunResult.of(made), "t")
    assert [column.heading for column in table.columns] == ["editor", "schedule", "method", "ES"]


def test_markdown_has_the_same_cells() -> None:
    lines = tables_of(RunResult.of(editors_summary()), "Editors")[0].markdown().splitlines()
    assert lines[:2] == ["## Editors", ""]
    assert lines[2].startswith("| editor | schedule | method | ES |")
    assert lines[3] == "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[7] == "|  |  | SA | 25.0 | 12.5 | **75.0** | 21.4 | **20.50** | 7.5e-01 |"
    assert len({line.count("|") for line in lines[2:11]}) == 1


def test_rows_name_their_editor_and_schedule() -> None:
    found = RunResult.of(editors_summary()).rows()
    assert [(r["editor"], r["schedule"], r["method"]) for r in found][3:5] == [
        ("MEMIT", "layerwise", "SA"),
        ("MEMIT", "one-shot", "GLOBAL"),
    ]
    assert found[3]["distance_from_global"] == 0.75
    assert found[0] == {"editor": "", "schedule": "", "method": "unedited", **SCORES} | {
        "perplexity": 20.0
    }
