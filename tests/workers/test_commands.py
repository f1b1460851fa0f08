"""Commands with --workers write what they write without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collabedit.messages import Contribution, Delta
from tests.cli.commands import collabedit, fails
from tests.cli.test_by_files import work as place  # noqa: F401

pytestmark = pytest.mark.slow  # processes take seconds to start


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


def settings(place: Path) -> tuple[object, ...]:  # noqa: F811
    return ("--hparams", place / "hparams.json", "--schedule", "one-shot")


def test_edit(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    found = []
    for name, workers in (("here", ()), ("there", ("--workers", "2"))):
        monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / name))
        out = tmp_path / f"{name}.safetensors"
        collabedit(
            *("edit", "--model", place / "model", "-r", place / "all.jsonl", "-o", out, "--no-ask"),
            *("-C", place / "cov.safetensors", *settings(place), *workers),
        )
        found.append({key: change.dense() for key, change in Delta.load(out).changes.items()})
    here, there = found
    assert all(torch.equal(here[key], there[key]) for key in here)


def test_contribute(place: Path, tmp_path: Path) -> None:  # noqa: F811
    collabedit(
        *("round", "new", "--model", place / "model", "-o", tmp_path / "round.json"),
        *("--contexts", place / "contexts.json", *settings(place)),
    )
    asked = ("--round", tmp_path / "round.json", "-r", place / "party1.jsonl", "--no-cache")
    found = []
    for name, workers in (("here", ()), ("there", ("--workers", "1"))):
        out = tmp_path / f"{name}.safetensors"
        collabedit("contribute", *asked, "-o", out, *workers)
        found.append(Contribution.load(out).statistics)
    here, there = found
    for key, factors in here.items():
        assert torch.equal(factors.keys, there[key].keys)
        assert torch.equal(factors.residuals, there[key].residuals)


def test_workers_that_cannot_be_get_one_line(place: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.safetensors"
    asked = ("edit", "--model", place / "model", "-r", place / "all.jsonl", "-o", out)
    assert "--workers: cannot read 'many'" in fails(*asked, "--workers", "many")
    assert not out.exists()
