"""The command that repeats a run gives the settings that the run had."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import collabedit.experiments
from collabedit import experiments
from collabedit.cli import app
from collabedit.editors import Hyperparameters
from collabedit.reporting.html.command import HPARAMS, command_of
from collabedit.reporting.results import PapersResult, RunResult
from collabedit.tuning import TuneSettings
from tests.reporting.test_plots import SUMMARIES

COMMON: dict[str, Any] = {
    "model": "models/my model",
    "dataset": "zsre",
    "parties": 3,
    "edits_per_party": (4, 2, 6),
    "limit": 50,
    "heldout": Path("held out.txt"),
    "generations": True,
    "seed": 7,
    "dtype": "float64",
    "memory_budget": 3_000_000,
    "conversations": True,
    "after_merge": (
        {"name": "RECT", "options": {}},
        {"name": "SPHERE", "options": {"energy": 0.4}},
    ),
}
STUDIES = {
    "single-round": experiments.SingleRoundSettings(**COMMON, merge=("SA", "TIES")),
    "multi-round": experiments.MultiRoundSettings(**COMMON, rounds=3, beta=(0, 2.5)),
    "forgetting": experiments.ForgettingSettings(**COMMON, further=9, batch=3, measure_every=1),
    "overlap": experiments.OverlapSettings(**{**COMMON, "edits_per_party": 4}, copies=(1, 3)),
    "conflict": experiments.ConflictSettings(**COMMON, modes=("single-b",), conflicts="B.json"),
    "augmentation": experiments.AugmentationSettings(**COMMON, augment_prompts=False, beta=1.5),
    "editors": experiments.EditorsSettings(**COMMON, editors=("MEMIT", "ROME")),
}


class _StoppedError(Exception):
    pass


def settings_of(command: str, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings that a study gets from the command."""
    given: list[Any] = []

    def study(settings: Any, *rest: Any, **more: Any) -> Any:
        given.append(settings)
        raise _StoppedError

    monkeypatch.setattr(collabedit.experiments, name, study)
    words = shlex.split(command)
    assert words[0] == "collabedit"
    found = CliRunner().invoke(app, words[1:])
    assert isinstance(found.exception, _StoppedError), found.output
    return given[0]


@pytest.mark.parametrize("study", list(STUDIES))
def test_the_command_gives_the_same_settings(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = STUDIES[study]
    made = {**SUMMARIES[study], "settings": asked.model_dump(mode="json")}
    command = command_of(RunResult.of(made))
    assert command is not None
    name = {"editors": "compare_editors"}.get(study, study.replace("-", "_"))
    assert settings_of(command, name, monkeypatch) == asked


def test_hyperparameters_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hyperparameters = Hyperparameters(layers=(3, 4))
    asked = experiments.SingleRoundSettings(model="m", hyperparameters=hyperparameters)
    made = {**SUMMARIES["single-round"], "settings": asked.model_dump(mode="json")}
    result = RunResult.of(made)
    monkeypatch.chdir(tmp_path)
    Path(HPARAMS).write_text(json.dumps(result.settings["hyperparameters"]))
    command = command_of(result)
    assert command is not None
    assert settings_of(command, "single_round", monkeypatch) == asked


def test_tuning_names_its_model_first() -> None:
    settings = TuneSettings(model="m", trials=0).model_dump(mode="json")
    command = command_of(RunResult.of({**SUMMARIES["tune"], "settings": settings}))
    assert command is not None
    assert command.startswith("collabedit tune m --dataset worldfacts")
    assert "--trials 0" in command


def test_unknown_settings_have_no_command() -> None:
    assert command_of(PapersResult(methods={}, settings={"model": "m"})) is None
    assert command_of(RunResult.of(SUMMARIES["single-round"])) is None
