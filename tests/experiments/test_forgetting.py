"""Forgetting: which edits are made when, and how the first ones are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from collabedit.datasets import load_dataset
from collabedit.errors import DatasetError, InputError
from collabedit.evaluation import evaluate, summarise
from collabedit.experiments import (
    ForgettingSettings,
    Run,
    SingleRoundSettings,
    forgetting,
    single_round,
)
from collabedit.experiments.study import deal
from collabedit.messages import RoundConfig, Schedule
from collabedit.requests import EditRequest
from tests.experiments.studies import (
    Tiny,
    assert_alike,
    dense_round,
    key_moment,
    load_summary,
    relative,
    rounds_of,
    totals_of,
    written,
)

FURTHER, BATCH = 5, 2


def settings_for(tiny: Tiny, **changes: Any) -> ForgettingSettings:
    return ForgettingSettings(
        **tiny.options(
            schedule=Schedule.ONE_SHOT,
            further=FURTHER,
            batch=BATCH,
            beta=(0.0, 3.0),
            measure_every=2,
            **changes,
        )
    )


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return forgetting(settings_for(tiny), tmp_path_factory.mktemp("forgetting"))


def added(run: Run, name: str) -> list[dict[str, Tensor]]:
    """By the target set, then by each batch."""
    found = rounds_of(run, name)
    assert len(found) == 1 + -(-FURTHER // BATCH)
    return found


def test_the_target_set_is_measured_every_so_often_and_at_the_end(run: Run) -> None:
    """Three batches of at most two edits, measured every second one, before and after all."""
    summary = load_summary(run.folder)
    assert list(summary["curves"]) == ["CollabEdit beta=0", "CollabEdit beta=3"]
    for name, points in summary["curves"].items():
        assert [point["further_edits"] for point in points] == [0, 4, 5]
        assert [point["records"] for point in points] == [3, 3, 3]
        last = {key: value for key, value in points[-1].items() if key != "further_edits"}
        assert summary["methods"][name] == last
    last_round = run.read_stage("facts/CollabEdit beta=3/round_4")
    assert summary["residual_norms"]["CollabEdit beta=3"] == last_round["residual_norms"] != {}
    stages = {path.name for path in (run.folder / "stages/evaluation/CollabEdit beta=0").iterdir()}
    assert stages == {"after_0.json", "after_2.json", "after_3.json"}


def test_before_further_edits_it_is_a_single_round(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    settings = SingleRoundSettings(
        **tiny.options(merge=("CollabEdit",), schedule=Schedule.ONE_SHOT)
    )
    single = single_round(settings, tmp_path)
    cases = single.read_stage("evaluation/CollabEdit")["cases"]
    for name in ("CollabEdit beta=0", "CollabEdit beta=3"):
        assert_alike(run.read_stage(f"evaluation/{name}/after_0")["cases"], cases)
    assert load_summary(run.folder)["unedited"] == load_summary(single.folder)["unedited"]


def test_what_is_measured_is_the_target_set_on_the_edited_model(tiny: Tiny, run: Run) -> None:
    model, targets = tiny.model(), target_records(run, tiny)
    for name in ("CollabEdit beta=0", "CollabEdit beta=3"):
        totals = totals_of(added(run, name))
        points = load_summary(run.folder)["curves"][name]
        for batches, point in zip((0, 2, 3), points, strict=True):
            with written(model, totals[1 + batches]):
                cases = evaluate(model, targets)
            assert {**point, **summarise(cases)} == point
            assert_alike(run.read_stage(f"evaluation/{name}/after_{batches}")["cases"], cases)


def target_records(run: Run, tiny: Tiny) -> list[Any]:
    ids = [case["case_id"] for case in run.read_stage("evaluation/unedited")["cases"]]
    by_id = {record.case_id: record for record in load_dataset(tiny.folder / "facts.json")}
    return [by_id[case_id] for case_id in ids]


@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_each_batch_protects_all_earlier_keys(tiny: Tiny, run: Run, beta: float) -> None:
    """The dense formula of each batch, whose prior holds the keys of the target set and others."""
    model, priors = tiny.model(), tiny.second_moments()
    config = RoundConfig.load(run.folder / "round.json")
    made = added(run, f"CollabEdit beta={beta:g}")
    before_each = totals_of(made)[:-1]
    for own, before, shares in zip(made, before_each, requests_by_round(tiny, run), strict=True):
        with written(model, before):
            updates, statistics = dense_round(model, config, shares, priors)
        for name, update in updates.items():
            assert relative(own[name], update) < 1e-8
        priors = {name: p + beta * key_moment(statistics[name]) for name, p in priors.items()}


def requests_by_round(tiny: Tiny, run: Run) -> list[list[list[EditRequest]]]:
    """The requests of each round: the parties' target sets, then batches of the next records."""
    dealt = settings_for(tiny).model_copy(update={"parties": 3, "edits_per_party": (1, 2, FURTHER)})
    ((first, second, further),) = deal(dealt)
    assert [r.case_id for r in first + second] == [r.case_id for r in target_records(run, tiny)]
    requests = [record.request for record in further]
    batches = [requests[start : start + BATCH] for start in range(0, FURTHER, BATCH)]
    return [[[r.request for r in first], [r.request for r in second]], *([b] for b in batches)]


def test_case_files_are_of_the_target_set_after_all_edits(run: Run) -> None:
    stored = run.read_stage("evaluation/CollabEdit beta=3/after_3")["cases"]
    files = {path.name for path in run.folder.glob("case_*.json")}
    assert files == {f"case_{case['case_id']}.json" for case in stored}


def test_a_single_beta_is_not_named(tiny: Tiny, tmp_path: Path) -> None:
    settings = settings_for(tiny).model_copy(
        update={"beta": (1.0,), "further": 1, "merge": ("CollabEdit", "SA"), "batch": 4}
    )
    summary = load_summary(forgetting(settings, tmp_path).folder)
    assert list(summary["curves"]) == ["CollabEdit", "SA"]
    for points in summary["curves"].values():
        assert [point["further_edits"] for point in points] == [0, 1]


@pytest.mark.parametrize("name", ["further", "batch", "measure_every"])
def test_numbers_below_one_are_refused(tiny: Tiny, name: str) -> None:
    with pytest.raises(InputError, match=f"settings: {name}: "):
        ForgettingSettings.checked(**tiny.options(**{name: 0}))


def test_too_few_records_are_reported_before_anything_is_written(
    tiny: Tiny, tmp_path: Path
) -> None:
    settings = settings_for(tiny).model_copy(update={"further": 38})
    with pytest.raises(DatasetError, match="need 41 records together, but the data set has 40"):
        forgetting(settings, tmp_path / "results")
    assert not (tmp_path / "results").exists()
