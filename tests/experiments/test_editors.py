"""Comparison of editors: the same numbers as single rounds, no repeated work, and resuming."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from collabedit import files
from collabedit.editors import Hyperparameters
from collabedit.errors import InputError, RoundError
from collabedit.experiments import (
    EditorsSettings,
    Run,
    SingleRoundSettings,
    compare_editors,
    single_round,
    study,
)
from collabedit.messages import Schedule
from collabedit.reporting.results import RunResult
from collabedit.reporting.tables import results_csv
from tests.cli.commands import collabedit, fails
from tests.conftest import EXACT
from tests.experiments.studies import LAYERS, PRIOR_WEIGHT, Tiny, load_summary

METHODS = ("GLOBAL", "CollabEdit", "SA")


def hyperparameters(layers: tuple[int, ...] = LAYERS) -> Hyperparameters:
    return Hyperparameters(
        layers=layers,
        target_steps=3,
        prior_weight=PRIOR_WEIGHT,
        null_space_threshold=0.4,
        ft_steps=2,
    )


def settings_for(tiny: Tiny, **changes: Any) -> EditorsSettings:
    values = {
        "editors": ("MEMIT", "alphaedit"),
        "merge": METHODS,
        "hyperparameters": hyperparameters(),
        "heldout": tiny.folder / "heldout.txt",
    }
    return EditorsSettings(**tiny.options(**{**values, **changes}))


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return compare_editors(settings_for(tiny), tmp_path_factory.mktemp("editors"))


def test_there_is_a_part_for_each_editor_and_schedule(finished: Run) -> None:
    assert finished.folder.parts[-2:] == ("editors", "run_000")
    summary = load_summary(finished.folder)
    assert [(p["editor"], p["schedule"]) for p in summary["editors"]] == [
        ("MEMIT", "layerwise"),
        ("MEMIT", "one-shot"),
        ("AlphaEdit", "layerwise"),
        ("AlphaEdit", "one-shot"),
    ]
    for part in summary["editors"]:
        assert list(part["methods"]) == list(METHODS)
        assert part["delta_relative_to_global"]["CollabEdit"] < EXACT
        assert part["delta_relative_to_global"]["SA"] > 0.05
        assert part["residual_norms"].keys() >= {"CollabEdit"}
        single = load_summary(finished.folder / part["run"])
        for key in ("methods", "residual_norms"):
            assert single[key] == part[key]
    scores = [part["methods"]["GLOBAL"]["perplexity"] for part in summary["editors"]]
    assert len(set(scores)) == 4  # each edits otherwise
    assert summary["settings"]["editors"] == ["MEMIT", "AlphaEdit"]


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("editor", ["MEMIT", "AlphaEdit"])
def test_numbers_equal_those_of_single_rounds(
    tiny: Tiny, tmp_path: Path, finished: Run, editor: str, schedule: Schedule
) -> None:
    common = tiny.options(
        merge=METHODS,
        hyperparameters=hyperparameters(),
        heldout=tiny.folder / "heldout.txt",
        editor=editor,
        schedule=schedule,
    )
    alone = single_round(SingleRoundSettings(**common), tmp_path)
    part = finished.folder / editor / schedule.value
    assert json.loads((part / "summary.json").read_text()) == load_summary(alone.folder)
    for case in alone.folder.glob("case_*.json"):
        assert (part / case.name).read_bytes() == case.read_bytes()
    own, other = (json.loads((f / "params.json").read_text()) for f in (part, alone.folder))
    assert own == other


def test_shared_work_is_done_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unedited model's measures, the priors of one covariance and the targets."""
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "cache"))
    seen: dict[str, int] = {"measured": 0, "priors": 0}

    def counting(owner: Any, name: str, key: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            seen[key] += 1
            return original(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    counting(study, "evaluate", "measured")
    counting(study, "static_priors", "priors")
    settings = settings_for(tiny, editors=("MEMIT", "PMET"), merge=("GLOBAL",))
    compare_editors(settings, tmp_path / "results")
    assert seen == {"measured": 1 + 4, "priors": 1}
    assert len(list((tmp_path / "cache" / "targets").rglob("*.safetensors"))) == 1


def test_editors_of_one_layer_are_measured_once(tiny: Tiny, tmp_path: Path) -> None:
    settings = settings_for(
        tiny,
        editors=("ft-l", "ROME", "MEMIT"),
        merge=("CollabEdit", "GLOBAL", "TA"),
        hyperparameters=hyperparameters(LAYERS[:1]),
    )
    run = compare_editors(settings, tmp_path)
    parts = load_summary(run.folder)["editors"]
    assert [(p["editor"], p["schedule"], p["run"]) for p in parts] == [
        ("FT-L", "either", "FT-L"),
        ("ROME", "either", "ROME"),
        ("MEMIT", "either", "MEMIT"),
    ]
    assert [list(part["methods"]) for part in parts] == [
        ["GLOBAL", "TA"],  # fine-tuning has no statistics for CollabEdit
        ["CollabEdit", "GLOBAL", "TA"],
        ["CollabEdit", "GLOBAL", "TA"],
    ]
    assert "either: the schedule makes no difference" in (run.folder / "table.md").read_text()


@contextmanager
def stopping_after(writes: int) -> Iterator[None]:
    """Interrupt whatever writes more than a number of files."""
    original, written = files.atomic_path, []

    def counted(path: Path) -> AbstractContextManager[Path]:
        if len(written) == writes:
            raise KeyboardInterrupt
        written.append(path)
        return original(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "atomic_path", counted)
        yield


def json_files(folder: Path) -> set[Path]:
    """All files but the costs: those of a stage interrupted right after its file are lost."""
    found = {path.relative_to(folder) for path in folder.rglob("*.json")}
    return {path for path in found if path.name != "costs.json"}


def test_continues_after_any_interruption(tiny: Tiny, tmp_path: Path) -> None:
    """A run that is interrupted before a file of every stage ends with the same bytes."""
    settings = settings_for(
        tiny,
        editors=("MEMIT", "FT-L"),
        merge=("GLOBAL", "SA"),
        hyperparameters=hyperparameters(LAYERS[:1]),
        heldout=None,
    )
    whole = compare_editors(settings, tmp_path / "whole")
    run = None
    for attempt in range(40):
        # A stage writes at most six files, those of its records and its time among them.
        with stopping_after(2 + attempt % 5), contextlib.suppress(KeyboardInterrupt):
            run = compare_editors(settings, tmp_path / "parts")
            break
    assert attempt > 5
    assert run is not None
    assert run.folder.name == "run_000"
    names = json_files(whole.folder)
    assert json_files(run.folder) == names
    for name in [Path("table.md"), *names]:
        if name.name != "round.json":  # it holds the time
            assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_the_table_shows_what_the_summary_holds(finished: Run) -> None:
    """On the screen, as Markdown and as CSV."""
    shown = collabedit("summarize", finished.folder)
    summary = load_summary(finished.folder)
    score = f"{summary['editors'][0]['methods']['GLOBAL']['score']:.1f}"
    markdown = (finished.folder / "table.md").read_text()
    for text in (shown, markdown):
        assert all(name in text for name in ("unedited", "MEMIT", "AlphaEdit", "one-shot", score))
        assert "Score by editor and method" in text
    header, *rows = results_csv({"run": RunResult.of(summary)}).splitlines()
    assert header.startswith("run,editor,schedule,method,")
    assert len(rows) == 1 + 4 * len(METHODS)
    assert json.loads(collabedit("summarize", finished.folder, "--json"))


def test_the_command(tiny: Tiny, tmp_path: Path) -> None:
    hparams = tmp_path / "hparams.json"
    hparams.write_text(hyperparameters().model_dump_json())
    arguments = ["run", "editors", "--model", tiny.folder / "model", "--hparams", hparams]
    arguments += ["--dataset", tiny.folder / "facts.json", "--covariance", tiny.covariance()]
    arguments += ["--editors", "pmet", "--schedules", "one-shot", "-p", "2", "-n", "1"]
    shown = collabedit(*arguments, "--merge", "global,sa", "--results", tmp_path)
    assert "PMET" in shown
    assert f"Results: {tmp_path}/editors/run_000/" in shown
    assert "table.md" in shown
    assert (tmp_path / "editors/run_000/PMET/one-shot/summary.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--editors", "MEMIT,MEND"], "unknown editor 'MEND'; choose one of: MEMIT, PMET, EMMET"),
        (["--schedules", "both"], "unknown schedule 'both'"),
        (["--merge", "COLLAB"], "unknown merge method 'COLLAB'"),
        (["--editors", "FT-L", "--merge", "CollabEdit"], "FT-L has no statistics for CollabEdit"),
    ],
)
def test_bad_options_get_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in fails("run", "editors", "--results", tmp_path, *arguments)
    assert not list(tmp_path.iterdir())


def test_settings_that_no_editor_can_use_are_refused_at_once(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="ROME edits a single layer"):
        settings_for(tiny, editors=("MEMIT", "ROME"))
    with pytest.raises(RoundError, match="FT-L has no statistics for CollabEdit to merge"):
        settings_for(
            tiny,
            editors=("FT-L",),
            merge=("CollabEdit",),
            hyperparameters=hyperparameters(LAYERS[:1]),
        )
