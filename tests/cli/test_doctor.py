"""``collabedit doctor``: what an edit would cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from collabedit.messages import Covariance
from collabedit.planning import STAGES
from tests.cli.commands import collabedit, fails
from tests.conftest import make_model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model("llama", max_position_embeddings=512)
    path: Path = tmp_path_factory.mktemp("model")
    save_model(model, path)
    return path


@pytest.fixture
def structure_only(folder: Path, tmp_path: Path) -> Path:
    """A model without weights, as before they are downloaded."""
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    return tmp_path


def facts_of(*arguments: object) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(collabedit("doctor", *arguments, "--json"))
    return facts


def test_without_a_trial_no_weights_are_read(structure_only: Path) -> None:
    facts = facts_of(structure_only, "--no-trial", "-n", 4, "-p", 3)
    assert list(facts["stages"]) == list(STAGES)
    assert facts["fits"]
    assert facts["peak_bytes"] == max(row["bytes"] for row in facts["stages"].values())
    assert all(row["seconds"] > 0 for row in facts["stages"].values())
    assert "trial_seconds" not in facts["stages"]["load"]
    table = collabedit("doctor", structure_only, "--no-trial", "-n", 4, "-p", 3)
    assert "12 edits by MEMIT in float32" in " ".join(table.split())
    assert "It fits" in table


@pytest.mark.parametrize("editor", ["MEMIT", "FT-L"])
def test_a_trial_measures_every_stage(folder: Path, editor: str) -> None:
    facts = facts_of(folder, "--editor", editor, "--dtype", "bfloat16", "--tokens", 3000)
    for row in facts["stages"].values():
        assert row["trial_seconds"] > 0
        assert row["trial_bytes_measured"] > 100_000_000
    assert ("merge" in facts["stages"]) == (editor == "MEMIT")
    assert "measured" in collabedit("doctor", folder, "--editor", editor)


def test_an_edit_that_does_not_fit_gets_advice(
    structure_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collabedit.planning.machine.free_memory", lambda _device: 100_000_000)
    facts = facts_of(structure_only, "--no-trial")
    assert not facts["fits"]
    assert facts["advice"]
    assert "It does not fit" in collabedit("doctor", structure_only, "--no-trial")


def test_a_given_covariance_is_not_collected(structure_only: Path, tmp_path: Path) -> None:
    path = tmp_path / "covariance.safetensors"
    Covariance(
        second_moments={"some.weight": torch.eye(2, dtype=torch.float64)},
        samples=2,
        corpus="random numbers",
        model="any",
        model_sha256={"some.weight": "0" * 64},
        sampling_error={},
        created="",
    ).save(path)
    facts = facts_of(structure_only, "--no-trial", "--covariance", path)
    assert "covariance" not in facts["stages"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--editor", "nobody"], "nobody"),
        (["--dtype", "int3"], "unknown dtype"),
        (["--memory-budget", "much"], "--memory-budget"),
        (["--schedule", "never"], "never"),
    ],
)
def test_what_cannot_be_read_is_refused(
    structure_only: Path, arguments: list[str], message: str
) -> None:
    assert message in fails("doctor", structure_only, "--no-trial", *arguments)


def test_the_estimates_of_a_real_model_are_near_what_is_measured() -> None:
    # In a separate process, since earlier tests may have left this one with gigabytes.
    command = [sys.executable, "-m", "collabedit", "doctor", "smollm2-135m", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(run.stdout)
    for stage, row in facts["stages"].items():
        if stage != "load":  # the weights are pages of the file until they are used
            ratio = row["trial_bytes_measured"] / row["trial_bytes_estimated"]
            assert 0.4 < ratio < 3, stage  # not all freed memory is used again
