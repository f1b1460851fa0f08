"""Tables of hand-made summaries, cell by cell."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from collabedit.reporting.results import RunResult
from collabedit.reporting.tables import console, methods_table, results_csv, tables_of

SCORES: dict[str, Any] = {"records": 4, "ES": 25.0, "PS": 12.5, "NS": 75.04, "score": 21.428}
BETTER: dict[str, Any] = {"records": 4, "ES": 100.0, "PS": 93.75, "NS": 66.66, "score": 84.21}
WEIGHT = "model.layers.{}.mlp.down_proj.weight"


def summary_tables(made: dict[str, Any], title: str) -> list[Table]:
    """The tables of a summary's result, as the terminal gets them."""
    return [table.rich() for table in tables_of(RunResult.of(made), title)]


def summary_table(made: dict[str, Any], title: str) -> Table:
    return methods_table(RunResult.of(made), title).rich()


def headings(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


def rows(table: Table) -> list[list[str]]:
    cells = [list(column.cells) for column in table.columns]
    return [[str(cell) for cell in row] for row in zip(*cells, strict=True)]


def summary(study: str, **parts: Any) -> dict[str, Any]:
    return {
        "experiment": study,
        "unedited": SCORES,
        "methods": {"CollabEdit": BETTER},
        "settings": {},
        **parts,
    }


def test_a_single_round_shows_methods_by_metrics() -> None:
    made = summary(
        "single-round",
        methods={
            "CollabEdit": {**BETTER, "perplexity": 21.4567},
            "GLOBAL": {**BETTER, "perplexity": 21.0},
            "SA": SCORES,
        },
        delta_relative_to_global={"CollabEdit": 1.234e-15, "GLOBAL": 0.0, "SA": 0.75},
    )
    (table,) = summary_tables(made, "results/MEMIT/run_000")
    assert table.title == "results/MEMIT/run_000"
    assert headings(table) == ["method", "ES", "PS", "NS", "Score", "ppl", "distance"]
    assert rows(table) == [
        ["unedited", "25.0", "12.5", "75.0", "21.4", "", ""],
        ["CollabEdit", "100.0", "93.8", "66.7", "84.2", "21.46", "1.2e-15"],
        ["GLOBAL", "100.0", "93.8", "66.7", "84.2", "21.00", "0.0e+00"],
        ["SA", "25.0", "12.5", "75.0", "21.4", "", "7.5e-01"],
    ]


def test_columns_that_nothing_measured_are_left_out() -> None:
    made = summary("single-round", unedited={"records": 2, "ES": 50.0}, methods={"single-b": {}})
    table = summary_table(made, "t")
    assert headings(table) == ["method", "ES"]
    assert rows(table) == [["unedited", "50.0"], ["single-b", ""]]


def test_zsre_has_its_own_columns() -> None:
    metrics = {
        "rewrite_token_accuracy": 33.333,
        "paraphrase_token_accuracy": 30.0,
        "neighborhood_token_accuracy": 20.0,
        "score": 26.47,
    }
    table = summary_table(summary("single-round", unedited=metrics, methods={"SA": metrics}), "t")
    assert headings(table) == ["method", "Score", "ES tok", "PS tok", "NS tok"]
    assert rows(table)[1] == ["SA", "26.5", "33.3", "30.0", "20.0"]


def test_rounds_are_a_triangle_of_scores() -> None:
    """One row after each round; a column is the round that the edits were made in."""
    made = summary(
        "multi-round",
        rounds={
            "CollabEdit": [[{"score": 90.0}], [{"score": 80.04}, {"score": 91.0}]],
            "TIES": [[{"score": 40.0}], [{"score": 30.0}, {"score": 41.25}]],
        },
    )
    first, second = summary_tables(made, "t")
    assert rows(first)[0][0] == "unedited"
    assert headings(second) == ["method", "measured after round", "round 1", "round 2"]
    assert rows(second) == [
        ["CollabEdit", "1", "90.0", ""],
        ["", "2", "80.0", "91.0"],
        ["TIES", "1", "40.0", ""],
        ["", "2", "30.0", "41.2"],
    ]


def test_rounds_without_a_score_say_so() -> None:
    """As when records have no neighbourhood prompts: the rest of the table is still there."""
    made = summary("multi-round", rounds={"SA": [[{"ES": 50.0}]]})
    assert rows(summary_tables(made, "t")[1]) == [["SA", "1", "nan"]]


def test_forgetting_is_a_curve_of_the_target_set() -> None:
    made = summary(
        "forgetting",
        curves={
            "CollabEdit beta=0": [
                {"further_edits": 0, **BETTER},
                {"further_edits": 40, **SCORES},
            ],
            "CollabEdit beta=1": [{"further_edits": 0, **BETTER}],
        },
    )
    _, table = summary_tables(made, "t")
    assert headings(table) == ["method", "further", "ES", "PS", "NS", "Score"]
    assert rows(table) == [
        ["CollabEdit beta=0", "0", "100.0", "93.8", "66.7", "84.2"],
        ["", "40", "25.0", "12.5", "75.0", "21.4"],
        ["CollabEdit beta=1", "0", "100.0", "93.8", "66.7", "84.2"],
    ]


def overlap_summary() -> dict[str, Any]:
    def of_round(edits: int, skipped: int, *norms: float) -> dict[str, Any]:
        by_weight = {WEIGHT.format(5 + i): norm for i, norm in enumerate(norms)}
        return {"edits": edits, "skipped": skipped, "residual_norms": by_weight, **BETTER}

    def of_copies(copies: int, size: float, left: float) -> dict[str, Any]:
        return {"copies": copies, "relative_norm": size, "remaining_residual": left, **SCORES}

    return summary(
        "overlap",
        repeated={
            "CollabEdit": [of_round(20, 0, 10.0, 20.125), of_round(20, 0, 4.0, 8.0)],
            "CollabEdit, skipping": [of_round(20, 0, 10.0, 20.125), of_round(0, 20)],
        },
        copies={"TA": [of_copies(1, 1.0, 0.5), of_copies(8, 8.0, 3.456)]},
    )


def test_overlap_has_a_table_of_rounds_and_one_of_copies() -> None:
    _, repeated, copies = summary_tables(overlap_summary(), "t")
    scores = ["100.0", "93.8", "66.7", "84.2"]
    assert headings(repeated) == [
        *("method", "round", "edits", "skipped", "|R| layer 5", "|R| layer 6"),
        *("ES", "PS", "NS", "Score"),
    ]
    assert rows(repeated) == [
        ["CollabEdit", "1", "20", "0", "10.00", "20.12", *scores],
        ["", "2", "20", "0", "4.00", "8.00", *scores],
        ["CollabEdit, skipping", "1", "20", "0", "10.00", "20.12", *scores],
        ["", "2", "0", "20", "", "", *scores],  # nobody took part
    ]
    assert headings(copies) == [
        *("method", "parties", "ES", "PS", "NS", "Score", "|D| / |D of first|", "|z - h| left")
    ]
    assert rows(copies) == [
        ["TA", "1", "25.0", "12.5", "75.0", "21.4", "1.00", "0.50"],
        ["", "8", "25.0", "12.5", "75.0", "21.4", "8.00", "3.46"],
    ]


def test_late_parties_have_norms_from_then_on() -> None:
    made = overlap_summary()
    made["repeated"]["CollabEdit, skipping"].reverse()
    _, repeated, _ = summary_tables(made, "t")
    assert [row[4:6] for row in rows(repeated)[2:]] == [["", ""], ["10.00", "20.12"]]


def test_conflict_has_a_row_per_mode() -> None:
    made = summary("conflict", unedited_b=SCORES, methods={"single-b": BETTER, "performance-a": {}})
    (table,) = summary_tables(made, "t")
    assert [row[0] for row in rows(table)] == ["unedited", "single-b", "performance-a"]


def test_augmentation_compares_the_answers() -> None:
    def metrics(value: float) -> dict[str, float]:
        return {
            "records": 3,
            "rewrite_difference": value,
            "rewrite_conflict_wins": 10 * value,
            "wordings_difference": -value,
            "wordings_conflict_wins": 100 - value,
        }

    made = summary(
        "augmentation", unedited=metrics(0.125), methods={"after augmentation": metrics(3.0)}
    )
    (table,) = summary_tables(made, "t")
    assert headings(table) == [
        *("method", "P difference", "conflict wins", "in other words", "conflict wins")
    ]
    assert rows(table) == [
        ["unedited", "0.12", "1.2", "-0.12", "99.9"],
        ["after augmentation", "3.00", "30.0", "-3.00", "97.0"],
    ]


def wide_summary() -> dict[str, Any]:
    """All metrics at once, ten rounds, and the residuals of five layers."""
    metrics = {
        **BETTER,
        "rewrite_accuracy": 99.51,
        "paraphrase_accuracy": 88.62,
        "neighborhood_accuracy": 77.73,
        "fluency": 623.14,
        "consistency": 33.25,
        "perplexity": 21.456,
    }
    scores = [[{"score": 100.0 - number} for number in range(n)] for n in range(1, 11)]
    made = overlap_summary()
    for parts in made["repeated"].values():
        for row in parts:
            row["residual_norms"] = {WEIGHT.format(5 + i): 120.25 + i for i in range(5)}
    return {
        **made,
        "unedited": metrics,
        "methods": {"CollabEdit beta=0.5": metrics},
        "delta_relative_to_global": {"CollabEdit beta=0.5": 1.5e-10},
        "rounds": {"CollabEdit beta=0.5": scores},
    }


def printed(table: Table, width: int | None = None) -> str:
    out = console() if width is None else Console(width=width)
    with out.capture() as capture:
        out.print(table)
    return capture.get()


def test_in_files_no_table_is_cut_or_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for table in summary_tables(wide_summary(), "t"):
        lines = printed(table).splitlines()
        for row in rows(table):
            assert any(all(cell in line for cell in row) for line in lines)


@pytest.mark.parametrize("width", [80, 100])
def test_on_a_narrow_terminal_numbers_are_folded_and_not_cut(width: int) -> None:
    for table in summary_tables(wide_summary(), "t"):
        assert "…" not in printed(table, width)


def test_csv_has_a_row_per_run_and_method() -> None:
    single = summary("single-round", delta_relative_to_global={"CollabEdit": 0.5})
    other = summary("single-round", unedited={"records": 1, "perplexity": 9.0}, methods={})
    read = list(
        csv.DictReader(
            io.StringIO(results_csv({"a": RunResult.of(single), "b": RunResult.of(other)}))
        )
    )
    assert [(row["run"], row["method"]) for row in read] == [
        ("a", "unedited"),
        ("a", "CollabEdit"),
        ("b", "unedited"),
    ]
    assert float(read[1]["score"]) == 84.21
    assert float(read[1]["distance_from_global"]) == 0.5
    assert read[0]["perplexity"] == ""
    assert float(read[2]["perplexity"]) == 9.0
    assert RunResult.of(single).rows()[1]["distance_from_global"] == 0.5
