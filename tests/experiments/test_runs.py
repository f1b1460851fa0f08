"""A run's folder: what is finished stays finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from collabedit.algebra import LowRankUpdate
from collabedit.experiments import Run, open_run
from collabedit.messages import Delta, RoundState
from collabedit.models import LanguageModel
from collabedit.reporting.results import Costs, RunResult
from tests.rounds.test_round import make_round


def counted(compute: Callable[[], Any]) -> tuple[Callable[[], Any], list[int]]:
    """A computation, and a list that grows with each call."""
    calls: list[int] = []

    def once_more() -> Any:
        calls.append(1)
        return compute()

    return once_more, calls


def change() -> LowRankUpdate:
    generator = torch.Generator().manual_seed(4)
    left = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    return LowRankUpdate(left, torch.randn(2, 5, generator=generator, dtype=torch.float64))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_run(tmp_path, "MEMIT", {"seed": 0})


def test_a_finished_stage_is_read_and_not_computed_again(
    run: Run, tmp_path: Path, tiny_llama: LanguageModel
) -> None:
    delta = Delta(Delta.empty(make_round(tiny_llama)).metadata, {"w": change()})
    state = RoundState(2, {"w": change()}, {"w": torch.ones(5, 1, dtype=torch.float64)})
    stages: list[tuple[Any, Any]] = [
        (Run.json_stage, {"a": [1, 2.5, "é"]}),
        (Run.delta_stage, delta),
        (Run.state_stage, state),
    ]
    for stage, value in stages:
        compute, calls = counted(lambda value=value: value)
        name = f"some/{stage.__name__}"
        for opened in (run, run, open_run(tmp_path, "MEMIT", {"seed": 0})):
            found = stage(opened, name, compute)
            if isinstance(value, dict):
                assert found == value == opened.read_stage(name)
            else:
                assert torch.equal(found.changes["w"].dense(), change().dense())
        assert len(calls) == 1
    assert set(Costs.load(run.folder).stages) == {f"some/{stage.__name__}" for stage, _ in stages}


def test_a_stages_value_is_the_one_in_its_file(run: Run) -> None:
    """So that a continued run works with exactly the same values."""
    assert run.json_stage("stage", lambda: ((1, 2), {3: 0.1})) == [[1, 2], {"3": 0.1}]


@pytest.mark.parametrize("value", [float("nan"), KeyError("in the computation")])
def test_a_stage_that_fails_leaves_no_file(run: Run, value: Any) -> None:
    def compute() -> float:
        if isinstance(value, Exception):
            raise value
        return value

    with pytest.raises((ValueError, KeyError)):
        run.json_stage("stage", compute)
    assert not list(run.folder.rglob("*stage*.json*"))


def test_a_stage_killed_after_its_costs_are_written_is_computed_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The costs come first, so that no finished stage lacks them."""

    class Killed(BaseException):
        pass

    original = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.name == "slow.json":
            raise Killed
        return original(self, target)

    compute, calls = counted(lambda: [1, 2])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            run.json_stage("slow", compute)
    assert not list((run.folder / "stages").iterdir())
    assert "slow" in Costs.load(run.folder).stages
    assert run.json_stage("slow", compute) == [1, 2]
    assert len(calls) == 2
    size = (run.folder / "stages" / "slow.json").stat().st_size
    assert Costs.load(run.folder).stages["slow"].bytes == size


def test_a_run_is_finished_by_its_summary(run: Run, tmp_path: Path) -> None:
    assert not run.finished
    assert run.params()["seed"] == 0
    run.write_case(7, {"case_id": 7})
    RunResult(experiment="any").save(run.folder)
    assert run.finished
    assert json.loads((run.folder / "case_7.json").read_text()) == {"case_id": 7}
    again = open_run(tmp_path, "MEMIT", {"seed": 0})
    assert not again.continued
    assert again.folder.name == "run_001"


def test_other_versions_are_not_continued(run: Run, tmp_path: Path) -> None:
    path = run.folder / "params.json"
    params = json.loads(path.read_text())
    params["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(params))
    assert open_run(tmp_path, "MEMIT", {"seed": 0}).folder != run.folder
