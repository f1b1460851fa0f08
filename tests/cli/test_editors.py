"""``--editor`` in every command that has it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from collabedit.algebra import relative_distance
from collabedit.editors import DEFAULT_EDITOR, editors
from collabedit.messages import Delta, RoundConfig
from tests.cli.commands import collabedit, fails
from tests.cli.test_by_files import work  # noqa: F401
from tests.conftest import EXACT
from tests.experiments.studies import load_summary

#: Each party finds its targets in its own batches, and the pooled edit in others.
pytestmark = pytest.mark.usefixtures("exact_module")

CLOSED_FORMS = [e.name for e in editors() if e.at_once and e.name != DEFAULT_EDITOR]


@pytest.fixture(scope="module")
def settings(work: Path) -> dict[str, Path]:  # noqa: F811
    """Files of settings for two layers and for one."""
    common = {"target_steps": 3, "prior_weight": 5, "null_space_threshold": 0.4, "ft_steps": 3}
    files = {}
    for name, layers in (("two", [1, 2]), ("one", [2])):
        files[name] = work / f"{name}.json"
        files[name].write_text(json.dumps({"layers": layers, **common}))
    return files


def edit(work: Path, editor: str, hparams: Path, requests: str = "all") -> Delta:  # noqa: F811
    out = work / f"{editor}-{requests}.safetensors"
    options = ["--hparams", hparams, "-o", out]
    if editor != "FT-L":
        options += ["--covariance", work / "cov.safetensors"]
    collabedit(
        *("edit", "--editor", editor.lower(), "--model", work / "model"),
        *("--requests", work / f"{requests}.jsonl", *options),
    )
    return Delta.load(out)


@pytest.mark.parametrize("editor", CLOSED_FORMS)
def test_three_parties_by_files_get_the_pooled_edit(
    work: Path,  # noqa: F811
    settings: dict[str, Path],
    editor: str,
    tmp_path: Path,
) -> None:
    config, out = tmp_path / "round.json", tmp_path / "delta.safetensors"
    said = collabedit(
        *("round", "new", "--editor", editor, "--model", work / "model", "-o", config),
        *("--schedule", "one-shot", "--hparams", settings["two"]),
    )
    assert f"a one-shot {editor} round" in said
    assert RoundConfig.load(config).editor == editor
    updates = []
    for party in ("party0", "party1", "party2", "all"):
        updates.append(tmp_path / f"{party}.safetensors")
        collabedit(
            *("contribute", "--round", config, "--requests", work / f"{party}.jsonl"),
            *("-o", updates[-1]),
        )
    shared = ("--round", config, "--covariance", work / "cov.safetensors")
    collabedit("merge", *updates[:3], *shared, "-o", out)
    collabedit("merge", updates[3], *shared, "--method", "GLOBAL", "-o", tmp_path / "all.delta")
    merged, pooled = Delta.load(out), Delta.load(tmp_path / "all.delta")
    assert merged.metadata.editor == editor
    for name, expected in pooled.changes.items():
        assert relative_distance(merged.changes[name], expected) < EXACT


@pytest.mark.parametrize(
    ("editor", "hparams"), [("EMMET", "two"), ("AlphaEdit", "two"), ("ROME", "one")]
)
def test_every_editor_can_edit_alone(
    work: Path,  # noqa: F811
    settings: dict[str, Path],
    editor: str,
    hparams: str,
) -> None:
    delta = edit(work, editor, settings[hparams])
    assert (delta.metadata.editor, delta.metadata.edits) == (editor, 6)
    assert delta.metadata.complete
    assert all(float(change.dense().norm()) > 0 for change in delta.changes.values())


def test_fine_tuned_deltas_are_merged(work: Path, settings: dict[str, Path]) -> None:  # noqa: F811
    files = []
    for party in ("party0", "party1"):
        edit(work, "FT-L", settings["one"], party)
        files.append(work / f"FT-L-{party}.safetensors")
    out = work / "fine-tuned.safetensors"
    collabedit("merge", *files, "--method", "dare", "--option", "drop=0.5", "-o", out)
    assert Delta.load(out).metadata.edits == 4


@pytest.mark.parametrize(
    ("editor", "message"),
    [
        ("ROME", "ROME takes one edit at a time.*use EMMET with a single layer"),
        ("FT-L", "FT-L has no statistics to exchange.*collabedit merge"),
        ("UltraEdit", "UltraEdit needs two messages from each party, and files carry one"),
        ("MEND", "unknown editor 'MEND'; choose one of: MEMIT, PMET, EMMET, ROME, AlphaEdit"),
    ],
)
def test_rounds_by_files_refuse_some_editors(tmp_path: Path, editor: str, message: str) -> None:
    error = fails("round", "new", "--editor", editor, "-o", tmp_path / "round.json")
    assert re.search(message, error)
    assert not list(tmp_path.iterdir())


def test_rome_refuses_settings_for_several_layers(
    work: Path,  # noqa: F811
    settings: dict[str, Path],
    tmp_path: Path,
) -> None:
    error = fails(
        *("edit", "--editor", "ROME", "--model", work / "model", "--hparams", settings["two"]),
        *("--requests", work / "all.jsonl", "-o", tmp_path / "delta.safetensors"),
    )
    assert "ROME edits a single layer" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("editor", "hparams", "methods", "exact"),
    [
        ("AlphaEdit", "two", "CollabEdit,GLOBAL,DARE,WSA", True),
        ("ROME", "one", "CollabEdit,GLOBAL,TA", True),
        ("UltraEdit", "two", "CollabEdit,GLOBAL,TA", True),
        ("FT-L", "one", "GLOBAL,SA,TIES", False),
    ],
)
def test_a_study_uses_its_editor(
    work: Path,  # noqa: F811
    settings: dict[str, Path],
    tmp_path: Path,
    editor: str,
    hparams: str,
    methods: str,
    exact: bool,
) -> None:
    collabedit(
        *("run", "single-round", "--editor", editor, "--model", work / "model"),
        *("--parties", 2, "-n", "2,1", "--merge", methods, "--hparams", settings[hparams]),
        *("--covariance", work / "cov.safetensors", "--results", tmp_path),
    )
    summary = load_summary(tmp_path / editor / "run_000")
    assert list(summary["methods"]) == methods.split(",")
    assert summary["settings"]["editor"] == editor
    if exact:
        assert summary["delta_relative_to_global"]["CollabEdit"] < EXACT


def test_a_study_of_fine_tuning_refuses_collab_edit_at_once(tmp_path: Path) -> None:
    error = fails("run", "single-round", "--editor", "ft-l", "--results", tmp_path)
    assert "CollabEdit merges statistics, and FT-L has none" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ("edit",),
        ("round", "new"),
        ("run", "single-round"),
        ("run", "forgetting"),
        ("models", "show"),
    ],
    ids=" ".join,
)
def test_the_help_lists_all_editors(command: tuple[str, ...]) -> None:
    text = collabedit(*command, "--help")
    assert all(editor.name in text for editor in editors())


def test_show_gives_an_editors_settings(work: Path) -> None:  # noqa: F811
    facts = json.loads(collabedit("models", "show", work / "model", "--editor", "rome", "--json"))
    assert facts["editor"] == "ROME"
    assert facts["hyperparameters"]["layers"] == [1]
    assert set(facts["editors"]) == {editor.name for editor in editors()}
    assert "AlphaEdit" in collabedit("models", "show", work / "model")
