"""``collabedit run``: the options of every study, their defaults, and bad ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from collabedit.cli import app
from collabedit.covariance import collect, file_corpus
from collabedit.editors import Schedule, editors
from collabedit.errors import InputError
from collabedit.models import load_model
from collabedit.settings import (
    AugmentationSettings,
    CommonSettings,
    ConflictSettings,
    EditorsSettings,
    ForgettingSettings,
    MultiRoundSettings,
    OverlapSettings,
    SingleRoundSettings,
)
from tests.cli.commands import collabedit, fails
from tests.conftest import CORPUS, make_model, save_model
from tests.experiments.studies import load_summary

#: A study's settings, and its own options with the settings fields that they set.
STUDIES: dict[str, tuple[type[CommonSettings], dict[str, str]]] = {
    "single-round": (SingleRoundSettings, {"--secure-aggregation": "secure_aggregation"}),
    "editors": (EditorsSettings, {"--editors": "editors", "--schedules": "schedules"}),
    "multi-round": (MultiRoundSettings, {"--rounds": "rounds", "--beta": "beta"}),
    "forgetting": (
        ForgettingSettings,
        {
            "--further": "further",
            "--batch": "batch",
            "--beta": "beta",
            "--measure-every": "measure_every",
        },
    ),
    "overlap": (
        OverlapSettings,
        {
            "--rounds": "rounds",
            "--copies": "copies",
            "--skip-known": "skip_known",
            "--beta": "beta",
        },
    ),
    "conflict": (ConflictSettings, {"--mode": "modes", "--conflicts": "conflicts"}),
    "augmentation": (
        AugmentationSettings,
        {
            "--wordings": "wordings",
            "--objects": "augment_objects",
            "--prompts": "augment_prompts",
            "--beta": "beta",
        },
    ),
}
#: Options whose names are not their fields'.
RENAMED = {"hyperparameters": "--hparams"}


def expected_options(study: str) -> dict[str, str]:
    """All options with the fields that they set."""
    settings, own = STUDIES[study]
    common = [name for name in settings.model_fields if name not in own.values()]
    return {RENAMED.get(name, "--" + name.replace("_", "-")): name for name in common} | own


def options_of(study: str) -> dict[str, Any]:
    command: Any = typer.main.get_command(app)
    for name in ("run", study):
        command = command.commands[name]
    return {flag: option for option in command.params for flag in option.opts}


@pytest.mark.parametrize("study", STUDIES)
def test_every_field_of_the_settings_has_an_option(study: str) -> None:
    options, expected = options_of(study), expected_options(study)
    long = {flag for flag in options if flag.startswith("--")}
    assert long == {*expected, "--results", "--fresh", "--workers"}
    assert all(getattr(options[flag], "help", None) for flag in expected)


@pytest.mark.parametrize("study", STUDIES)
def test_help_shows_the_settings_defaults(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = re.sub(r"\x1b\[[0-9;]*m", "", collabedit("run", study, "--help"))
    made = STUDIES[study][0]()
    for flag, field in expected_options(study).items():
        assert flag in text
        value = getattr(made, field)
        parts = value if isinstance(value, tuple) else (value,)
        shown = ", ".join(str(p.value if isinstance(p, Schedule) else p) for p in parts)
        if value not in (None, ()) and not isinstance(value, bool):
            assert f"[default: {shown}]" in text, flag
    assert study in collabedit("run", "--help")


@pytest.mark.parametrize("study", STUDIES)
def test_unset_options_are_left_to_the_settings(
    study: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command without options asks for exactly the settings without arguments."""
    asked: list[CommonSettings] = []

    def stop(settings: CommonSettings, *_: object, **__: object) -> None:
        asked.append(settings)
        raise InputError("far enough")

    name = "compare_editors" if study == "editors" else study.replace("-", "_")
    monkeypatch.setattr(f"collabedit.experiments.{name}", stop)
    assert "far enough" in fails("run", study, "--results", tmp_path)
    assert asked == [STUDIES[study][0]()]


def test_help_names_every_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for command in (["edit"], ["round", "new"], ["run", "editors"]):
        text = collabedit(*command, "--help")
        assert all(editor.name in text for editor in editors())


def commands_in_the_documentation() -> list[tuple[str, str]]:
    root = Path(__file__).parents[2]
    found = []
    for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for study, rest in re.findall(r"collabedit run ([a-z-]+)([^`\n]*)", text):
            found.append((study, rest))
    return found


def test_the_documentations_commands_exist() -> None:
    commands = commands_in_the_documentation()
    assert {study for study, _ in commands} == set(STUDIES)
    for study, rest in commands:
        flags = re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)
        assert set(flags) <= set(options_of(study)), (study, rest)


# Bad options


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model = make_model("llama", num_hidden_layers=2)
    save_model(model, folder / "model")
    hparams = {"layers": [0], "target_steps": 2, "prior_weight": 5.0}
    (folder / "hparams.json").write_text(json.dumps(hparams))
    (folder / "corpus.txt").write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
    corpus = file_corpus([folder / "corpus.txt"], 0)
    stored = load_model(str(folder / "model"))
    collect(stored, [0], corpus, tokens=2000, out=folder / "covariance.safetensors")
    return folder


BAD: list[tuple[str, list[object], str]] = [
    ("multi-round", ["--beta", "much"], "--beta: cannot read 'much'; write it like 0.5 or"),
    ("multi-round", ["--beta", "0,"], "--beta: cannot read '0,'"),
    ("multi-round", ["--beta", "-1"], "--beta: cannot read '-1'"),
    ("multi-round", ["--beta", "nan"], "--beta: cannot read 'nan'"),
    ("multi-round", ["--beta", "inf"], "--beta: cannot read 'inf'"),
    ("multi-round", ["--beta", ""], "--beta: cannot read ''"),
    ("multi-round", ["--rounds", 0], "rounds"),
    ("multi-round", ["--rounds", 30, "-n", 5], "the data set has 240"),
    ("forgetting", ["--beta", "1;2"], "--beta: cannot read '1;2'"),
    ("forgetting", ["--further", 0], "further"),
    ("forgetting", ["--batch", 0], "batch"),
    ("forgetting", ["--measure-every", 0], "measure_every"),
    ("forgetting", ["--further", 400], "the data set has 240"),
    ("overlap", ["--copies", "many"], "--copies: cannot read 'many'"),
    ("overlap", ["--copies", "0"], "copies"),
    ("overlap", ["--copies", "3-1"], "copies"),
    ("overlap", ["--copies", "-2"], "--copies: cannot read '-2'"),
    ("overlap", ["--skip-known", 0], "skip_known"),
    ("overlap", ["--skip-known", 1.5], "skip_known"),
    ("overlap", ["--beta", -1], "beta"),
    ("overlap", ["--beta", "inf"], "beta"),
    ("overlap", ["--beta", "nan"], "beta"),
    ("overlap", ["-n", "1,2"], "edits_per_party"),
    ("overlap", ["--merge", "COLLAB"], "unknown merge method 'COLLAB'"),
    ("conflict", ["--mode", "performance-c"], "unknown conflict mode 'performance-c'; choose one"),
    ("conflict", ["--mode", ""], "unknown conflict mode ''"),
    ("conflict", ["--merge", "all"], "merge"),
    ("conflict", ["--conflicts", "nowhere.json"], "nowhere.json"),
    ("conflict", ["--conflicts", "worldfacts"], "has the same target_new"),
    ("augmentation", ["--beta", -0.5], "beta"),
    ("augmentation", ["--beta", "inf"], "beta"),
    ("augmentation", ["--wordings", "nowhere.json"], "nowhere.json"),
    ("augmentation", ["--partition", "luck"], "unknown partition 'luck'"),
    ("augmentation", ["--merge", "SA,TA"], "merge"),
    ("augmentation", ["--heldout", "nowhere.txt"], "nowhere.txt"),
]


@pytest.mark.parametrize(("study", "arguments", "message"), BAD)
def test_bad_options_get_one_line_and_leave_nothing(
    work: Path, tmp_path: Path, study: str, arguments: list[object], message: str
) -> None:
    common = ["--model", work / "model", "--hparams", work / "hparams.json"]
    error = fails("run", study, *common, "--results", tmp_path / "results", *arguments)
    assert message in error
    assert not list(tmp_path.iterdir())


# The same study by command


def test_names_may_have_spaces_and_any_case(work: Path, tmp_path: Path) -> None:
    """The command also prints what the run's files say."""
    printed = collabedit(
        *("run", "conflict", "--model", work / "model", "--hparams", work / "hparams.json"),
        *("--covariance", work / "covariance.safetensors"),
        *("--parties", 1, "-n", 9, "--limit", 9, "--mode", "Performance-A, single-b"),
        *("--merge", "collabedit", "--results", tmp_path),
    )
    run = tmp_path / "MEMIT" / "run_000"
    assert list(load_summary(run)["methods"]) == ["performance-a", "single-b"]
    assert json.loads((run / "params.json").read_text())["experiment"] == "conflict"
    for word in ("performance-a", "single-b", "unedited", f"Results: {run}/"):
        assert word in printed
    files = {path.name for path in run.iterdir()}
    assert {"summary.json", "params.json", "round.json"} <= files
    assert ("plot.png" in files) == ("plot.png" in printed)


@pytest.mark.parametrize(("editor", "beta"), [("MEMIT", 10.0), ("AlphaEdit", 1.0)])
def test_beta_is_the_editors_own_unless_given(editor: str, beta: float) -> None:
    assert MultiRoundSettings(model="any", editor=editor).betas == (beta,)
    assert MultiRoundSettings(model="any", editor=editor, beta=(0, 3)).betas == (0, 3)
    assert ForgettingSettings(model="any", editor=editor).betas == (0, beta)
