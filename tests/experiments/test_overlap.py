"""Overlap: the effect of copies of edits in one round, and of skipping known ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collabedit.editing import measure
from collabedit.errors import InputError
from collabedit.evaluation import evaluate, score, summarise
from collabedit.experiments import OverlapSettings, Run, overlap
from collabedit.experiments.study import deal
from collabedit.messages import Delta, RoundConfig, Schedule
from collabedit.models import LanguageModel
from collabedit.requests import Record
from tests.conftest import EXACT
from tests.experiments.studies import (
    Tiny,
    dense_round,
    found_targets,
    key_moment,
    load_summary,
    relative,
    rounds_of,
    totals_of,
    written,
)

EDITS, CLIENTS, ROUNDS = 3, 2, 2
COPIES = (1, 2, 5)
BETA = 1.5
SKIPPING = "CollabEdit, skipping"


def settings_for(tiny: Tiny, **changes: Any) -> OverlapSettings:
    options = {
        "edits_per_party": EDITS,
        "parties": CLIENTS,
        "schedule": Schedule.ONE_SHOT,
        "rounds": ROUNDS,
        "copies": COPIES,
        "beta": BETA,
        "skip_known": 1e-12,  # everything is known
        **changes,
    }
    return OverlapSettings(**tiny.options(**options))


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return overlap(settings_for(tiny), tmp_path_factory.mktemp("overlap"))


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> LanguageModel:
    return tiny.model()


@pytest.fixture(scope="module")
def config(run: Run) -> RoundConfig:
    return RoundConfig.load(run.folder / "round.json")


@pytest.fixture(scope="module")
def records(tiny: Tiny) -> list[Record]:
    """The one share that everybody has."""
    ((share,),) = deal(settings_for(tiny).model_copy(update={"parties": 1}))
    assert len(share) == EDITS
    return share


def copies_of(run: Run, method: str, copies: int) -> dict[str, Tensor]:
    delta = Delta.load(run.folder / "stages/deltas" / f"{method}, {copies} copies.safetensors")
    return {name: change.dense() for name, change in delta.changes.items()}


# In one round


@pytest.mark.parametrize("copies", COPIES)
def test_every_copy_of_an_edit_counts(
    tiny: Tiny,
    run: Run,
    model: LanguageModel,
    config: RoundConfig,
    records: list[Record],
    copies: int,
) -> None:
    """``n R K^T (A0 + n K K^T)^-1``: less than the n-fold update, but still too much."""
    requests, priors = [record.request for record in records], tiny.second_moments()
    _, statistics = dense_round(model, config, [requests], priors)
    for name, ((keys, residuals),) in statistics.items():
        cross = copies * residuals @ keys.T
        expected = cross @ torch.linalg.inv(priors[name] + copies * keys @ keys.T)
        assert relative(copies_of(run, "CollabEdit", copies)[name], expected) < 1e-8


@pytest.mark.parametrize("copies", COPIES)
def test_task_arithmetic_multiplies_the_update(run: Run, copies: int) -> None:
    once, several = copies_of(run, "TA", 1), copies_of(run, "TA", copies)
    for name, update in once.items():
        assert relative(several[name], copies * update) < 1e-12
        assert relative(copies_of(run, "CollabEdit", 1)[name], update) < 1e-10


def test_rows_show_the_size_and_the_remaining_residual(
    run: Run, model: LanguageModel, config: RoundConfig, records: list[Record]
) -> None:
    requests = [record.request for record in records]
    (targets,) = found_targets(model, config, [requests])

    def missed() -> Tensor:
        now = measure(model, requests, config.contexts, [config.layers[-1]], config.layers[-1])
        return (targets - now.hidden).norm(dim=0)

    before = missed()
    summary = load_summary(run.folder)
    for method, rows in summary["copies"].items():
        assert [row["copies"] for row in rows] == list(COPIES)
        first = copies_of(run, method, 1)
        for row in rows:
            made = copies_of(run, method, row["copies"])
            norm = max(float(made[name].norm() / first[name].norm()) for name in first)
            assert row["relative_norm"] == pytest.approx(norm, rel=1e-9)
            with written(model, made):
                left = float((missed() / before).mean())
                metrics = summarise(evaluate(model, records))
            assert row["remaining_residual"] == pytest.approx(left, rel=EXACT)
            assert {**row, **metrics} == row
    assert [row["relative_norm"] for row in summary["copies"]["TA"]] == pytest.approx(COPIES)
    collab = [row["relative_norm"] for row in summary["copies"]["CollabEdit"]]
    assert collab[0] == 1
    assert 1 < collab[1] < 2
    assert collab[1] < collab[2] < 5


# Over rounds


def test_the_same_edits_are_repeated_on_the_edited_model(
    tiny: Tiny, run: Run, model: LanguageModel, config: RoundConfig, records: list[Record]
) -> None:
    """The dense formula of every round, all parties with the same edits, and its residuals."""
    shares, priors = [[record.request for record in records]] * CLIENTS, tiny.second_moments()
    rows = load_summary(run.folder)["repeated"]["CollabEdit"]
    added = rounds_of(run, "CollabEdit")
    before, *after = totals_of(added)
    for row, own, now in zip(rows, added, after, strict=True):
        with written(model, before):
            updates, statistics = dense_round(model, config, shares, priors)
        for name, update in updates.items():
            assert relative(own[name], update) < 1e-8
            everyone = torch.cat([residuals for _, residuals in statistics[name]], dim=1)
            assert row["residual_norms"][name] == pytest.approx(float(everyone.norm()), rel=1e-8)
        assert (row["edits"], row["skipped"]) == (CLIENTS * EDITS, 0)
        with written(model, now):
            assert {**row, **summarise(evaluate(model, records))} == row
        before = now
        priors = {name: p + BETA * key_moment(statistics[name]) for name, p in priors.items()}
    assert len(rows) == ROUNDS


def test_a_party_that_skips_everything_is_left_out(run: Run) -> None:
    summary = load_summary(run.folder)
    metrics = summary["unedited"]
    for row in summary["repeated"][SKIPPING]:
        assert {name: row[name] for name in metrics} == metrics
        assert (row["edits"], row["skipped"]) == (0, CLIENTS * EDITS)
        assert row["residual_norms"] == {}
    assert rounds_of(run, SKIPPING) == [{}] * ROUNDS
    assert summary["methods"][f"{SKIPPING}, {ROUNDS} rounds"] == metrics
    unedited = run.read_stage("evaluation/unedited")
    assert run.read_stage(f"evaluation/{SKIPPING}/round_{ROUNDS}") == unedited


@pytest.fixture(scope="module")
def some_skipped(
    tiny: Tiny,
    run: Run,
    model: LanguageModel,
    records: list[Record],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Run, float]:
    """A run whose threshold lies between the edits' probabilities after the first round."""
    with written(model, rounds_of(run, "CollabEdit")[0]):
        reached = sorted(probabilities(model, records))
    threshold = math.sqrt(reached[-1] * reached[-2])
    settings = settings_for(tiny, skip_known=threshold, copies=(1,), merge=("CollabEdit",))
    return overlap(settings, tmp_path_factory.mktemp("some")), threshold


def probabilities(model: LanguageModel, records: list[Record]) -> list[float]:
    pairs = [(record.request.text, record.request.target_new) for record in records]
    return [math.exp(-each.nll) for each in score(model, pairs)]


def test_parties_skip_facts_known_from_earlier_rounds(
    tiny: Tiny,
    some_skipped: tuple[Run, float],
    model: LanguageModel,
    config: RoundConfig,
    records: list[Record],
) -> None:
    run, threshold = some_skipped
    priors = tiny.second_moments()
    added, known = rounds_of(run, SKIPPING), []
    rows = load_summary(run.folder)["repeated"][SKIPPING]
    for row, own, before in zip(rows, added, totals_of(added[:-1]), strict=True):
        with written(model, before):
            likely = probabilities(model, records)
            left = [r.request for r, p in zip(records, likely, strict=True) if not p >= threshold]
            updates, statistics = dense_round(model, config, [left] * CLIENTS, priors)
        known.append(EDITS - len(left))
        assert (row["edits"], row["skipped"]) == (CLIENTS * len(left), CLIENTS * known[-1])
        for name, update in updates.items():
            assert relative(own[name], update) < EXACT
        priors = {name: p + BETA * key_moment(statistics[name]) for name, p in priors.items()}
    assert known[0] < known[1] < EDITS


def test_the_first_method_of_the_cases_is_the_last_round(run: Run, records: list[Record]) -> None:
    summary = load_summary(run.folder)
    assert list(summary["methods"]) == ["CollabEdit, 2 rounds", "CollabEdit, skipping, 2 rounds"]
    files = {path.name for path in run.folder.glob("case_*.json")}
    assert files == {f"case_{record.case_id}.json" for record in records}


# Settings


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"copies": ()}, "copies"),
        ({"copies": (1, 0)}, "copies"),
        ({"copies": (-1,)}, "copies"),
        ({"rounds": 0}, "rounds"),
        ({"skip_known": 0.0}, "skip_known"),
        ({"skip_known": 1.5}, "skip_known"),
        ({"beta": -1.0}, "beta"),
        ({"beta": float("inf")}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"edits_per_party": (2, 3)}, "edits_per_party"),
    ],
)
def test_settings_out_of_range_are_refused(tiny: Tiny, values: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"settings: {field}\b"):
        OverlapSettings.checked(**{**tiny.options(edits_per_party=2), **values})


def test_a_bad_setting_leaves_no_folder(tiny: Tiny, tmp_path: Path) -> None:
    settings = settings_for(tiny, edits_per_party=41)
    with pytest.raises(InputError, match="the data set has 40"):
        overlap(settings, tmp_path / "results")
    assert not (tmp_path / "results").exists()
