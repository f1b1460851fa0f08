"""Conflict: what each mode edits and what it measures."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from collabedit.datasets import conflicting, load_dataset
from collabedit.errors import DatasetError, InputError
from collabedit.evaluation import CaseResult, evaluate, summarise
from collabedit.experiments import (
    ConflictSettings,
    Run,
    SingleRoundSettings,
    conflict,
    single_round,
)
from collabedit.experiments.study import deal, records_of, requests_of
from collabedit.messages import Delta, RoundConfig, Schedule
from collabedit.requests import Record
from collabedit.settings import MODES
from tests.experiments.studies import (
    Tiny,
    assert_alike,
    dense_round,
    load_summary,
    probabilities,
    relative,
    written,
)


@dataclass(frozen=True)
class Finished:
    """A finished run with both sets of records."""

    tiny: Tiny
    run: Run
    shares: dict[str, list[list[Record]]]

    def records(self, name: str) -> list[Record]:
        return [record for share in self.shares[name] for record in share]

    @property
    def summary(self) -> dict[str, Any]:
        return load_summary(self.run.folder)

    def changes(self, edited: str) -> dict[str, Tensor]:
        path = self.run.folder / "stages/deltas" / f"{edited}.safetensors"
        return {name: change.dense() for name, change in Delta.load(path).changes.items()}

    def cases(self, stage: str) -> list[CaseResult]:
        cases: list[CaseResult] = self.run.read_stage(f"evaluation/{stage}")["cases"]
        return cases


def settings_for(tiny: Tiny, **changes: Any) -> ConflictSettings:
    return ConflictSettings(**tiny.options(**{"schedule": Schedule.ONE_SHOT, **changes}))


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    settings = settings_for(tiny)
    run = conflict(settings, tmp_path_factory.mktemp("conflict"))
    (shares,) = deal(settings)
    everything = load_dataset(settings.dataset)
    others = iter(conflicting(records_of(shares), settings.seed, everything))
    return Finished(tiny, run, {"A": shares, "B": [[next(others) for _ in s] for s in shares]})


def single_cases(tiny: Tiny, folder: Path, facts: Path) -> list[CaseResult]:
    settings = SingleRoundSettings(
        **tiny.options(merge=("CollabEdit",), schedule=Schedule.ONE_SHOT, dataset=str(facts))
    )
    cases: list[CaseResult] = single_round(settings, folder).read_stage("evaluation/CollabEdit")[
        "cases"
    ]
    return cases


def facts_with_conflicts(finished: Finished) -> list[dict[str, Any]]:
    """All facts, those of A with the objects of B, dealt in the same way as A."""
    others = {record.case_id: record.request.target_new for record in finished.records("B")}
    facts = deepcopy(finished.tiny.raw_facts())
    for fact in facts:
        if fact["case_id"] in others:
            fact["requested_rewrite"]["target_new"]["str"] = others[fact["case_id"]]
    return facts


def test_the_modes_match_the_paper() -> None:
    """Section 5 of the paper: what is edited, and which edits' success is measured."""
    assert {name: (mode.edited, mode.measured) for name, mode in MODES.items()} == {
        "whether-conflict": ("A", "B"),
        "performance-a": ("A", "A"),
        "performance-b": ("A+B", "A"),
        "performance-a+b": ("A+B", "B"),
        "single-b": ("B", "B"),
    }


def test_editing_a_and_measuring_it_is_a_single_round(finished: Finished, tmp_path: Path) -> None:
    cases = single_cases(finished.tiny, tmp_path, finished.tiny.folder / "facts.json")
    assert_alike(finished.cases("A_measured_A"), cases)
    assert finished.summary["methods"]["performance-a"] == summarise(cases)
    norms = finished.summary["residual_norms"]
    assert norms["performance-a"] == norms["whether-conflict"] != norms["performance-b"]


def test_editing_b_and_measuring_it_is_a_single_round_too(
    finished: Finished, tmp_path: Path
) -> None:
    facts = finished.tiny.write_facts("facts-b.json", facts_with_conflicts(finished))
    cases = single_cases(finished.tiny, tmp_path, facts)
    assert_alike(finished.cases("B_measured_B"), cases)
    assert finished.summary["methods"]["single-b"] == summarise(cases)


@pytest.mark.parametrize("edited", ["A", "B", "A+B"])
def test_as_many_parties_hold_the_other_answers(finished: Finished, edited: str) -> None:
    """The dense formula; both answers of a question have their own targets and one key."""
    config = RoundConfig.load(finished.run.folder / "round.json")
    shares = [own for name in edited.split("+") for own in requests_of(finished.shares[name])]
    assert [len(share) for share in shares] == [1, 2] * (1 + edited.count("+"))
    updates, _ = dense_round(finished.tiny.model(), config, shares, finished.tiny.second_moments())
    for name, update in updates.items():
        assert relative(finished.changes(edited)[name], update) < 1e-8


@pytest.mark.parametrize("name", list(MODES))
def test_each_mode_measures_its_records_on_its_model(finished: Finished, name: str) -> None:
    mode, model = MODES[name], finished.tiny.model()
    records = finished.records(mode.measured)
    with written(model, finished.changes(mode.edited)):
        expected = evaluate(model, records)
    assert_alike(finished.cases(f"{mode.edited}_measured_{mode.measured}"), expected)
    assert probabilities(finished.summary["methods"][name]) == summarise(expected)


def test_the_unedited_model_is_measured_on_both(finished: Finished) -> None:
    model, summary = finished.tiny.model(), finished.summary
    assert probabilities(summary["unedited"]) == summarise(evaluate(model, finished.records("A")))
    assert probabilities(summary["unedited_b"]) == summarise(evaluate(model, finished.records("B")))
    for ours, theirs in zip(finished.records("A"), finished.records("B"), strict=True):
        assert ours.request.text == theirs.request.text
        assert theirs.request.target_new not in {
            ours.request.target_new,
            ours.request.target_true,
        }


def test_generated_conflicts_come_from_the_whole_data_set(finished: Finished) -> None:
    """Three records are dealt; alone, they would know only their own objects."""
    everything = load_dataset(finished.tiny.folder / "facts.json")
    for ours, theirs in zip(finished.records("A"), finished.records("B"), strict=True):
        relation = [
            r.request for r in everything if r.request.relation_id == ours.request.relation_id
        ]
        objects = {r.target_new for r in relation} | {r.target_true for r in relation}
        assert theirs.request.target_new in objects
    dealt = [r.request for r in finished.records("A")]
    known = {r.target_new for r in dealt} | {r.target_true for r in dealt}
    assert {r.request.target_new for r in finished.records("B")} - known


def test_conflicts_of_a_file_are_those_that_are_edited(finished: Finished, tmp_path: Path) -> None:
    facts = finished.tiny.write_facts("conflicts.json", facts_with_conflicts(finished)[::-1])
    settings = settings_for(finished.tiny, conflicts=str(facts), modes=("single-b",))
    run = conflict(settings, tmp_path)
    assert load_summary(run.folder)["methods"] == {
        "single-b": finished.summary["methods"]["single-b"]
    }
    assert not (run.folder / "stages/deltas/A.safetensors").exists()


def test_a_file_that_lacks_a_conflict_is_refused_at_once(tiny: Tiny, tmp_path: Path) -> None:
    settings = settings_for(tiny, conflicts=str(tiny.folder / "facts.json"))
    with pytest.raises(DatasetError, match="has the same target_new"):
        conflict(settings, tmp_path / "results")
    few = tiny.write_facts("few.json", tiny.raw_facts()[:1])
    with pytest.raises(DatasetError, match="has no conflicting record"):
        conflict(settings_for(tiny, conflicts=str(few)), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_case_files_hold_each_mode_with_what_it_measures(finished: Finished) -> None:
    for index, (ours, theirs) in enumerate(
        zip(finished.records("A"), finished.records("B"), strict=True)
    ):
        text = (finished.run.folder / f"case_{ours.case_id}.json").read_text()
        case = json.loads(text)
        other = case["conflicting"]
        assert list(case["methods"]) == ["performance-a", "performance-b"]
        assert list(other["methods"]) == ["whether-conflict", "performance-a+b", "single-b"]
        assert case["methods"]["performance-b"] == finished.cases("A+B_measured_A")[index]
        assert other["methods"]["single-b"] == finished.cases("B_measured_B")[index]
        assert case["requested_rewrite"]["target_new"]["str"] == ours.request.target_new
        assert other["requested_rewrite"]["target_new"]["str"] == theirs.request.target_new
        assert case["pre"] == finished.cases("unedited_A")[index]
        assert other["pre"] == finished.cases("unedited_B")[index]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modes": ("performance-c",)}, "unknown conflict mode 'performance-c'; choose one of: "),
        ({"modes": ()}, "settings: modes: "),
        ({"merge": ("CollabEdit", "SA")}, "settings: merge: "),
    ],
)
def test_settings_out_of_range_are_refused(
    tiny: Tiny, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ConflictSettings.checked(**tiny.options(**values))
