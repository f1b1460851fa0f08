"""The single-round experiment: its results, and resuming after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collabedit.algebra import relative_distance
from collabedit.editors import Hyperparameters
from collabedit.errors import InputError
from collabedit.experiments import Run, SingleRoundSettings, open_run, single_round
from collabedit.merging import AfterMergeStep, rect, sphere
from collabedit.messages import Delta, Schedule
from collabedit.models import load_model
from collabedit.reporting.results import RunResult
from tests.cli.commands import collabedit, fails
from tests.conftest import EXACT, make_model, save_model
from tests.experiments.studies import load_summary


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    model = make_model("llama")
    save_model(model, folder / "model")
    (folder / "heldout.txt").write_text("The capital of Italy is Rome. " * 20)
    return folder


def settings_for(study: Path, **changes: Any) -> SingleRoundSettings:
    values: dict[str, Any] = {
        "model": str(study / "model"),
        "parties": 3,
        "edits_per_party": (1, 3, 2),
        "hyperparameters": Hyperparameters(layers=(1, 2), target_steps=3, prior_weight=5.0),
        "heldout": study / "heldout.txt",
    }
    return SingleRoundSettings(**{**values, **changes})


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_run_has_the_papers_layout(study: Path, tmp_path: Path, schedule: Schedule) -> None:
    run = single_round(settings_for(study, schedule=schedule), tmp_path)
    assert run.folder == tmp_path / "MEMIT" / "run_000"
    params = json.loads((run.folder / "params.json").read_text())
    assert params["settings"]["seed"] == 0
    assert set(params["versions"]) == {"collabedit", "python", "torch", "transformers", "numpy"}
    cases = [json.loads(path.read_text()) for path in run.folder.glob("case_*.json")]
    assert len(cases) == 6
    for case in cases:
        assert case["post"] == case["methods"]["CollabEdit"]
        assert {"target_new", "target_true"} == set(case["pre"]["rewrite_prompts_probs"][0])
        assert len(case["post"]["paraphrase_prompts_probs"]) == 2
    summary = load_summary(run.folder)
    assert tuple(summary["methods"]) == settings_for(study).merge
    assert {"ES", "PS", "NS", "score", "perplexity"} <= set(summary["methods"]["GLOBAL"])
    distances = summary["delta_relative_to_global"]
    assert distances["CollabEdit"] < EXACT
    assert min(distances[name] for name in ("SA", "TIES")) > 0.05
    assert summary["methods"]["CollabEdit"]["ES"] == summary["methods"]["GLOBAL"]["ES"]
    norms = summary["residual_norms"]
    assert list(norms) == ["CollabEdit", "GLOBAL"]  # the others merge finished updates
    assert len(norms["GLOBAL"]) == 2
    assert norms["CollabEdit"] == pytest.approx(norms["GLOBAL"], EXACT)


def test_an_interrupted_run_continues_to_the_same_result(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(study)
    whole = single_round(settings, tmp_path / "whole")
    finished: list[str] = []
    original = Run.json_stage

    def fails_at_the_third_evaluation(run: Run, name: str, compute: Any) -> Any:
        if len(finished) == 3:
            raise KeyboardInterrupt
        finished.append(name)
        return original(run, name, compute)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "json_stage", fails_at_the_third_evaluation)
        with pytest.raises(KeyboardInterrupt):
            single_round(settings, tmp_path / "parts")
    assert not list((tmp_path / "parts").rglob("summary.json"))
    run = single_round(settings, tmp_path / "parts")
    assert run.continued
    assert run.folder.name == "run_000"
    for name in ("summary.json", f"{next(whole.folder.glob('case_*.json')).name}"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_run_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    first = open_run(tmp_path, "MEMIT", {"seed": 0})
    assert open_run(tmp_path, "MEMIT", {"seed": 0}).folder == first.folder
    assert open_run(tmp_path, "MEMIT", {"seed": 0}, fresh=True).folder.name == "run_001"
    assert open_run(tmp_path, "MEMIT", {"seed": 1}).folder.name == "run_002"
    RunResult(experiment="any").save(first.folder)
    assert open_run(tmp_path, "MEMIT", {"seed": 0}).folder.name == "run_001"


def test_summaries_are_read_only_from_finished_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        RunResult.load(tmp_path)
    run = open_run(tmp_path, "MEMIT", {})
    with pytest.raises(InputError, match="not finished"):
        RunResult.load(run.folder)


def test_the_command_and_its_summaries(study: Path, tmp_path: Path) -> None:
    hparams = tmp_path / "hparams.json"
    hparams.write_text(json.dumps({"layers": [1, 2], "target_steps": 2, "prior_weight": 5.0}))
    arguments = [
        "run",
        "single-round",
        "--model",
        study / "model",
        "--parties",
        2,
        "-n",
        "2,1",
        "--merge",
        "collabedit,Global",
        "--hparams",
        hparams,
        "--after-merge",
        "SPHERE:energy=0.4,strength=0.5",
        "--results",
        tmp_path,
    ]
    table = collabedit(*arguments)
    assert "CollabEdit" in table
    asked = load_summary(tmp_path / "MEMIT" / "run_000")["settings"]["after_merge"]
    assert asked == [{"name": "SPHERE", "options": {"energy": 0.4, "strength": 0.5}}]
    assert "unedited" in table
    run = tmp_path / "MEMIT" / "run_000"
    as_json = json.loads(collabedit("summarize", run, "--json"))
    assert set(as_json[str(run)]["methods"]) == {"CollabEdit", "GLOBAL"}
    header, *rows = collabedit("summarize", run, "--csv").splitlines()
    assert header.startswith("run,method,")
    assert len(rows) == 3


def test_steps_after_merging_keep_the_merge_lossless(study: Path, tmp_path: Path) -> None:
    """They are functions of the merged change, so GLOBAL's takes them as well."""
    steps = (AfterMergeStep.parse("RECT:keep=0.3"), AfterMergeStep.parse("sphere"))
    methods = ("CollabEdit", "GLOBAL", "SA")
    for number, given in enumerate(((), steps)):
        settings = settings_for(study, merge=methods, after_merge=given, schedule=Schedule.ONE_SHOT)
        run = single_round(settings, tmp_path)
        assert run.folder.name == f"run_{number:03d}"
    plain, after = (
        {
            name: Delta.load(tmp_path / f"MEMIT/run_{n:03d}/stages/deltas/{name}.safetensors")
            for name in methods
        }
        for n in (0, 1)
    )
    model = load_model(str(study / "model"))
    for name in methods:
        assert [step.name for step in after[name].metadata.after_merge] == ["RECT", "SPHERE"]
        for weight, change in after[name].changes.items():
            before = model.weight(weight).double()
            expected = sphere(rect(plain[name].changes[weight], before, keep=0.3), before)
            assert relative_distance(change, expected) < 1e-10
    summary = load_summary(run.folder)
    assert summary["settings"]["after_merge"] == [step.model_dump() for step in steps]
    assert summary["delta_relative_to_global"]["CollabEdit"] < EXACT
    assert summary["delta_relative_to_global"]["SA"] > 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parties", 50, "-n", 10], "240"),
        (["--merge", "COLLAB"], "unknown merge method 'COLLAB'"),
        (["--schedule", "both"], "unknown schedule 'both'"),
        (["--partition", "luck"], "unknown partition 'luck'"),
        (["-n", "many"], "cannot read 'many'"),
        (["--dataset", "nowhere.json"], "nowhere.json"),
        (["--parties", 0], "parties"),
        (["--after-merge", "Rekt"], "unknown step after merging 'Rekt'"),
        (["--after-merge", "RECT:keep=two"], "RECT: keep must be of type float"),
    ],
)
def test_bad_options_get_one_line(
    study: Path, tmp_path: Path, arguments: list[object], message: str
) -> None:
    error = fails(
        "run", "single-round", "--model", study / "model", "--results", tmp_path, *arguments
    )
    assert message in error
    assert not list(tmp_path.iterdir())
