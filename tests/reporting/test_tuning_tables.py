"""Tables of a hand-made search."""

from __future__ import annotations

from typing import Any

from collabedit.reporting.results import RunResult
from collabedit.reporting.tables import tables_of
from tests.reporting.test_tables import BETTER, SCORES, headings, rows, summary, summary_tables


def tuning_summary(**parts: Any) -> dict[str, Any]:
    """Of a model with three layers, two of which are edited."""
    choice = {"layers": "0-1", "clamp_factor": 0.75, "target_steps": 25, "update_norm": 0.0321}
    traced = {
        "facts": 7,
        "examined": 64,
        "draws": 3,
        "noise": 0.1,
        "window": 2,
        "clean": 0.4567,
        "corrupted": 0.1,
        "hidden": [0.2, 0.25, 0.0],
        "hidden_error": [0.02, 0.01, 0.0],
        "mlp": [0.123, -0.01],
        "mlp_error": [0.03, 0.04],
    }
    methods = {
        "layers 0-1, lambda 5": {
            **BETTER,
            **choice,
            "weight": 5.0,
            "gain": 4.25,
            "gain_error": 2,
            "present": False,
        },
        "layers 0-1, lambda 50": {
            **SCORES,
            **choice,
            "weight": 50.0,
            "gain": 0,
            "gain_error": 0,
            "present": True,
        },
    }
    preset = {"layers": [0, 1], "prior_weight": 5.0}
    made = summary("tune", trace=traced, ranges=[[0, 1]], methods=methods, preset=preset)
    return {**made, **parts}


def test_tuning_shows_the_trace_and_the_trials() -> None:
    effects, trials = summary_tables(tuning_summary(), "Tuning of a model")
    assert str(effects.title) == "Tuning of a model: average indirect effects"
    assert "7 known facts of 64 records, 3 draws" in str(effects.caption)
    assert "probability is 45.7, with noise 10.0" in str(effects.caption)
    assert rows(effects) == [
        ["0", "20.0", "2.0", "0-1", "12.3", "3.0"],
        ["1", "25.0", "1.0", "1-2", "-1.0", "4.0"],
        ["2", "0.0", "0.0", "", "", ""],
    ]
    names = ["layers", "lambda", "clamp", "steps"]
    assert headings(trials) == [*names, "ES", "PS", "NS", "Score", "gain", "+-", "update"]
    assert rows(trials) == [
        ["unedited", "", "", "", "25.0", "12.5", "75.0", "21.4", "", "", ""],
        ["0-1", "5", "0.75", "25", "100.0", "93.8", "66.7", "84.2", "4.2", "2.0", "0.032"],
        ["0-1 (present)", "50", "0.75", "25", *rows(trials)[0][4:8], "0.0", "0.0", "0.032"],
    ]
    assert len(summary_tables(tuning_summary(methods={}), "Tuning of a model")) == 1


def test_only_the_best_score_stands_out_in_markdown() -> None:
    _, trials = tables_of(RunResult.of(tuning_summary()), "Tuning")
    text = trials.markdown()
    assert text.count("**") == 2
    assert "| **84.2** |" in text
    assert "4 records, the best settings first" in text


def test_rows_for_csv_have_the_settings() -> None:
    first, second, third = RunResult.of(tuning_summary()).rows()
    assert first["method"] == "unedited"
    assert (second["layers"], second["weight"], second["gain"]) == ("0-1", 5.0, 4.25)
    assert third["present"] is True
