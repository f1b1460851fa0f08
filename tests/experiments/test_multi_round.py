"""Several rounds: against the dense formula of every round, party by party."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.evaluation import evaluate, perplexity, summarise
from collabedit.experiments import (
    MultiRoundSettings,
    Run,
    SingleRoundSettings,
    multi_round,
    single_round,
)
from collabedit.experiments.guards import Advice, Guard, RoundSeen
from collabedit.experiments.study import deal, requests_of
from collabedit.experiments.trajectory import Trajectory, trajectories
from collabedit.merging import AfterMergeStep, after_merge
from collabedit.messages import RoundConfig, Schedule
from collabedit.models import LanguageModel
from collabedit.progress import EventLog, show_progress
from collabedit.progress.plans import study_stages
from collabedit.reporting.results import Costs, MultiRoundResult
from collabedit.requests import Record
from tests.conftest import EXACT
from tests.experiments.studies import (
    Tiny,
    assert_alike,
    dense_round,
    found_targets,
    key_moment,
    load_summary,
    probabilities,
    relative,
    rounds_of,
    totals_of,
    written,
)

ROUNDS = 3
PLANNED = {*study_stages(1, [True], answers=True, heldout=True)}
BETA = 2.0


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    tiny: Tiny
    settings: MultiRoundSettings
    run: Run

    @property
    def summary(self) -> dict[str, Any]:
        return load_summary(self.run.folder)

    @property
    def rounds(self) -> list[list[list[Record]]]:
        return deal(self.settings, ROUNDS)

    @property
    def config(self) -> RoundConfig:
        return RoundConfig.load(self.run.folder / "round.json")

    def added(self, name: str) -> list[dict[str, Tensor]]:
        """What each round added, dense."""
        added = rounds_of(self.run, name)
        assert len(added) == ROUNDS
        return added

    def totals(self, name: str) -> list[dict[str, Tensor]]:
        """All changes before each round and after the last one."""
        return totals_of(self.added(name))

    def model(self) -> LanguageModel:
        return self.tiny.model(self.settings.dtype)

    def priors(self) -> dict[str, Tensor]:
        return self.tiny.second_moments(self.settings.dtype)


def finished(tiny: Tiny, folder: Path, **changes: Any) -> Finished:
    settings = MultiRoundSettings(**tiny.options(rounds=ROUNDS, **changes))
    return Finished(tiny, settings, multi_round(settings, folder))


@pytest.fixture(scope="module")
def exact(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """In float64, where a matrix product hardly depends on what is multiplied beside it.

    In float32 the products of matrices this small do, and the search for targets in later rounds
    makes much of the last digit.
    """
    return finished(
        tiny,
        tmp_path_factory.mktemp("exact"),
        schedule=Schedule.ONE_SHOT,
        merge=("CollabEdit", "GLOBAL", "SA"),
        beta=(0.0, BETA),
        dtype="float64",
    )


@pytest.fixture(scope="module")
def usual(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """With the defaults: float32, layerwise, a single beta; and a held-out text."""
    return finished(
        tiny,
        tmp_path_factory.mktemp("usual"),
        merge=("collabedit", "GLOBAL", "TA"),
        beta=(BETA,),
        heldout=tiny.folder / "heldout.txt",
    )


@pytest.mark.parametrize(
    ("kind", "name", "beta"),
    [
        ("exact", "CollabEdit beta=0", 0.0),
        ("exact", "CollabEdit beta=2", BETA),
        ("usual", "CollabEdit", BETA),
    ],
)
def test_each_round_is_the_dense_formula_with_all_earlier_keys(
    request: pytest.FixtureRequest, kind: str, name: str, beta: float
) -> None:
    """``Delta_k = R K^T (lambda C + beta sum_earlier K K^T + K K^T)^-1`` on the edited model."""
    run: Finished = request.getfixturevalue(kind)
    added, before = run.added(name), run.totals(name)
    model, priors = run.model(), run.priors()
    for number, shares in enumerate(run.rounds):
        with written(model, before[number]):
            updates, statistics = dense_round(model, run.config, requests_of(shares), priors)
        for weight, update in updates.items():
            assert update.norm() > 0.01
            # Solutions of systems with condition numbers below 1e5, in float64.
            assert relative(added[number][weight], update) < 1e-8
        priors = {w: prior + beta * key_moment(statistics[w]) for w, prior in priors.items()}


def test_the_dynamic_covariance_matters_from_the_second_round_on(exact: Finished) -> None:
    static, dynamic = (exact.added(f"CollabEdit beta={beta:g}") for beta in (0, BETA))
    for name in exact.config.weight_names:
        assert torch.equal(static[0][name], dynamic[0][name])
        assert relative(dynamic[1][name], static[1][name]) > 1e-3


@pytest.mark.parametrize(("kind", "name"), [("exact", "SA"), ("usual", "TA")])
def test_other_methods_take_the_parties_own_updates_under_the_static_prior(
    request: pytest.FixtureRequest, kind: str, name: str
) -> None:
    run: Finished = request.getfixturevalue(kind)
    added, before = run.added(name), run.totals(name)
    model, priors = run.model(), run.priors()
    for number, records in enumerate(run.rounds):
        shares = requests_of(records)
        with written(model, before[number]):
            targets = found_targets(model, run.config, shares)
            own = [
                dense_round(model, run.config, [share], priors, [target])[0]
                for share, target in zip(shares, targets, strict=True)
            ]
        for weight in run.config.weight_names:
            total = sum(update[weight] for update in own)
            expected = total / len(own) if name == "SA" else total
            assert relative(added[number][weight], expected) < 1e-8


def test_methods_that_merge_updates_ignore_beta(exact: Finished, tmp_path: Path) -> None:
    changes = {"schedule": Schedule.ONE_SHOT, "dtype": "float64"}
    other = finished(exact.tiny, tmp_path, merge=("SA",), beta=(7.0,), **changes)
    for ours, theirs in zip(exact.added("SA"), other.added("SA"), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert other.summary["delta_relative_to_global"] == {}


def test_merging_is_lossless_in_every_round(exact: Finished) -> None:
    distances = exact.summary["delta_relative_to_global_by_round"]
    for beta in ("0", "2"):
        assert max(distances[f"CollabEdit beta={beta}"]) < 1e-10
        assert distances[f"GLOBAL beta={beta}"] == [0.0] * ROUNDS
        collab, pooled = (exact.totals(f"{name} beta={beta}") for name in ("CollabEdit", "GLOBAL"))
        for ours, theirs in zip(collab[1:], pooled[1:], strict=True):
            assert all(relative(ours[name], theirs[name]) < 1e-10 for name in theirs)


def test_without_a_held_out_text_there_is_no_perplexity(exact: Finished) -> None:
    assert exact.summary["perplexity_by_round"]["SA"] == [None] * ROUNDS
    assert "perplexity" not in exact.summary["unedited"]


def test_a_method_without_beta_is_compared_with_static_pooled_editing(exact: Finished) -> None:
    found = exact.summary["delta_relative_to_global_by_round"]["SA"]
    for reference, is_it in (("GLOBAL beta=0", True), ("GLOBAL beta=2", False)):
        ours, theirs = exact.added("SA")[1], exact.added(reference)[1]
        distance = max(relative(ours[name], theirs[name]) for name in exact.config.weight_names)
        assert (found[1] == pytest.approx(distance, rel=1e-9)) == is_it


def test_the_distance_is_that_of_what_each_round_added(usual: Finished) -> None:
    summary = usual.summary
    added, reference = usual.added("TA"), usual.added("GLOBAL")
    for number in range(ROUNDS):
        expected = max(
            relative(added[number][name], reference[number][name])
            for name in usual.config.weight_names
        )
        found = summary["delta_relative_to_global_by_round"]["TA"][number]
        assert found == pytest.approx(expected, rel=1e-9)
        assert found > 0.01
    assert summary["delta_relative_to_global"]["TA"] == found


def test_in_float32_the_first_round_is_lossless_and_later_ones_nearly(usual: Finished) -> None:
    """Later rounds start from weights whose last digits differ between the two.

    Targets on such small matrices then differ more than on real ones, where products do not
    depend on the number of rows: hence the loose bound.
    """
    first, *later = usual.summary["delta_relative_to_global_by_round"]["CollabEdit"]
    assert first < 1e-10
    assert max(later) < 0.05


def test_the_rounds_are_measured_in_a_triangle(usual: Finished) -> None:
    summary = usual.summary
    assert list(summary["rounds"]) == ["CollabEdit", "GLOBAL", "TA"]
    for name, matrix in summary["rounds"].items():
        assert [len(row) for row in matrix] == [1, 2, 3]
        for after, row in enumerate(matrix, start=1):
            cases = usual.run.read_stage(f"evaluation/{name}/round_{after}")["cases"]
            for number, metrics in enumerate(row):
                ids = {r.case_id for share in usual.rounds[number] for r in share}
                own = [case for case in cases if case["case_id"] in ids]
                assert len(own) == len(ids) == 3
                assert metrics == summarise(own)
        last = summary["perplexity_by_round"][name][-1]
        assert summary["methods"][name] == {**summarise(cases), "perplexity": last}
        assert summary["methods"][name]["records"] == 9


def test_what_is_measured_is_the_model_of_that_round(usual: Finished) -> None:
    model, text = usual.model(), (usual.tiny.folder / "heldout.txt").read_text()
    records = [record for shares in usual.rounds for share in shares for record in share]
    unedited = {**summarise(evaluate(model, records)), "perplexity": perplexity(model, text)}
    assert probabilities(usual.summary["unedited"]) == pytest.approx(unedited)
    for after, state in enumerate(usual.totals("CollabEdit")):
        so_far = records[: 3 * after] if after else records
        with written(model, state):
            direct = evaluate(model, so_far)
            if after:
                found = usual.summary["perplexity_by_round"]["CollabEdit"][after - 1]
                assert found == pytest.approx(perplexity(model, text), rel=EXACT)
                assert found != pytest.approx(unedited["perplexity"], rel=EXACT)
        stage = f"evaluation/CollabEdit/round_{after}" if after else "evaluation/unedited"
        assert_alike(usual.run.read_stage(stage)["cases"], direct)


def test_measures_outside_their_range_are_in_the_summary(usual: Finished) -> None:
    """Computed by hand from the weights and measures of each round."""
    summary, model = usual.summary, usual.model()
    for name in summary["methods"]:
        guard = Guard(name, Advice("", ""), summary["unedited"]["perplexity"])
        for number, total in enumerate(usual.totals(name)[1:]):
            added = usual.added(name)[number]
            sizes = (
                max(float(each[w].norm() / model.weight(w).double().norm()) for w in each)
                for each in (added, total)
            )
            measured = summary["perplexity_by_round"][name][number]
            score = summary["rounds"][name][number][0].get("score")
            guard.see(RoundSeen(*sizes, measured, score))
        found = summary["warnings"].get(name, [])
        assert len(found) == len(guard.warnings)
        for ours, expected in zip(found, guard.warnings, strict=True):
            assert (ours["round"], ours["measure"]) == (expected.round, expected.measure)
            assert ours["value"] == pytest.approx(expected.value, rel=1e-9)


def test_a_warning_reaches_the_summary_and_the_log(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("collabedit.experiments.guards._MOST_CHANGE", 1e-6)
    settings = MultiRoundSettings(
        **tiny.options(rounds=1, merge=("TA",), edits_per_party=1, answers=0)
    )
    run = multi_round(settings, tmp_path)
    (found,) = load_summary(run.folder)["warnings"]["TA"]
    assert (found["round"], found["measure"], found["limit"]) == (1, "total", 1e-6)
    assert f"TA, after round 1: {found['message']}" in caplog.messages
    (loaded,) = MultiRoundResult.load(run.folder).warnings["TA"]
    assert loaded.value == found["value"]


def test_steps_after_merging_know_the_changes_of_earlier_rounds(
    tiny: Tiny, tmp_path: Path, own_registries: None
) -> None:
    """So that a step of all changes gets the unedited weights in every round."""
    seen: list[tuple[Tensor, Tensor]] = []

    @after_merge("Halved", since_unedited=True)
    def halved(update: LowRankUpdate, weight: Tensor) -> LowRankUpdate:
        seen.append((update.dense(), weight))
        return LowRankUpdate(0.5 * update.left, update.right)

    options = tiny.options(rounds=2, merge=("TA",), edits_per_party=1, answers=0)
    options |= {"after_merge": (AfterMergeStep(name="halved"),), "schedule": Schedule.ONE_SHOT}
    settings = MultiRoundSettings(**options)
    run = multi_round(settings, tmp_path)
    _, *totals = totals_of(rounds_of(run, "TA"))
    model = tiny.model()
    names = list(totals[0])
    for index, (total, weight) in enumerate(seen):
        name = names[index % len(names)]
        # The weights that the second round starts from are rounded to float32.
        torch.testing.assert_close(weight, model.weight(name).double(), rtol=1e-5, atol=1e-6)
        assert relative(totals[index // len(names)][name], 0.5 * total) < 1e-10
    assert len(seen) == 2 * len(names)


def test_case_files_hold_the_last_round(usual: Finished) -> None:
    stored = usual.run.read_stage("evaluation/GLOBAL/round_3")["cases"]
    assert len(list(usual.run.folder.glob("case_*.json"))) == len(stored) == 9
    for case in stored:
        written_case = json.loads((usual.run.folder / f"case_{case['case_id']}.json").read_text())
        assert written_case["methods"]["GLOBAL"] == case
        assert written_case["post"] == written_case["methods"]["CollabEdit"]


def test_the_first_round_is_a_single_round(usual: Finished, tmp_path: Path) -> None:
    """Of the same records: a run over one round only."""
    changes = {"merge": ("CollabEdit",), "edits_per_party": (1, 2)}
    settings = SingleRoundSettings(**usual.tiny.options(**changes))
    one_round = MultiRoundSettings(**usual.tiny.options(**changes, rounds=1))
    single = load_summary(single_round(settings, tmp_path).folder)
    several = load_summary(multi_round(one_round, tmp_path).folder)
    assert several["unedited"] == single["unedited"]
    assert several["methods"] == single["methods"]
    assert several["residual_norms"] == single["residual_norms"]
    assert several["residual_norms"]["CollabEdit"]


@pytest.mark.parametrize("name", ["CollabEdit", "GLOBAL", "TA"])
def test_a_finished_round_has_its_facts(usual: Finished, name: str) -> None:
    model, priors = usual.model(), usual.priors()
    for number, shares in enumerate(usual.rounds):
        facts = usual.run.read_stage(f"facts/{name}/round_{number + 1}")
        assert (facts["edits"], facts["skipped"]) == (3, 0)
        if name == "TA":  # nobody there pools residuals
            assert facts["residual_norms"] == {}
            continue
        with written(model, usual.totals(name)[number]):
            _, statistics = dense_round(model, usual.config, requests_of(shares), priors)
        for weight, parties in statistics.items():
            everyone = torch.cat([residuals for _, residuals in parties], dim=1)
            assert facts["residual_norms"][weight] == pytest.approx(float(everyone.norm()), EXACT)
        assert load_summary(usual.run.folder)["residual_norms"].keys() >= {name}
        priors = {w: p + BETA * key_moment(statistics[w]) for w, p in priors.items()}


def test_every_round_is_the_pooled_edit_of_the_same_targets(
    usual: Finished, exact: Finished
) -> None:
    """On one model they differ only by rounding, whatever the trajectories do."""
    for finished, tolerance in ((usual, 1e-4), (exact, 1e-10)):
        found = finished.summary["distance_from_pooled_by_round"]
        assert found
        for name, rounds in found.items():
            assert name.startswith("CollabEdit")
            assert len(rounds) == ROUNDS
            assert max(rounds) < tolerance


def test_a_run_records_how_long_each_stage_took(usual: Finished) -> None:
    names = [f"states/TA/round_{number}" for number in range(1, ROUNDS + 1)]
    assert set(names) <= set(Costs.load(usual.run.folder).stages)


def test_trajectories_are_named_by_method_and_beta() -> None:
    assert trajectories(["CollabEdit", "SA", "GLOBAL"], [0.0, 1.0, 0.5]) == [
        Trajectory("CollabEdit beta=0", "CollabEdit", 0.0, against_pooled=True),
        Trajectory("CollabEdit beta=1", "CollabEdit", 1.0, against_pooled=True),
        Trajectory("CollabEdit beta=0.5", "CollabEdit", 0.5, against_pooled=True),
        Trajectory("SA", "SA"),
        Trajectory("GLOBAL beta=0", "GLOBAL", 0.0),
        Trajectory("GLOBAL beta=1", "GLOBAL", 1.0),
        Trajectory("GLOBAL beta=0.5", "GLOBAL", 0.5),
    ]
    assert trajectories(["CollabEdit", "TIES"], [10.0]) == [
        Trajectory("CollabEdit", "CollabEdit", 10.0),
        Trajectory("TIES", "TIES"),
    ]


def test_no_two_trajectories_share_a_name() -> None:
    """The name is also that of their files."""
    betas = [0.1, 0.1234567, 0.1234568, 1e6, 1e6 + 1]
    names = [trajectory.name for trajectory in trajectories(["CollabEdit", "GLOBAL"], betas)]
    assert len(set(names)) == 2 * len(betas)
    assert names[0] == "CollabEdit beta=0.1"


def test_no_record_is_dealt_in_two_rounds(usual: Finished) -> None:
    dealt = [record.case_id for shares in usual.rounds for share in shares for record in share]
    assert len(set(dealt)) == len(dealt) == 9
    assert [[len(share) for share in shares] for shares in usual.rounds] == [[1, 2]] * ROUNDS


@pytest.mark.parametrize(
    "values", [{"rounds": 0}, {"beta": ()}, {"beta": ("much",)}, {"nonsense": 1}]
)
def test_settings_out_of_range_are_refused(tiny: Tiny, values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"settings: ") as caught:
        MultiRoundSettings.checked(**tiny.options(**values))
    assert "\n" not in str(caught.value)


def test_long_runs_measure_a_sample_after_some_rounds(
    tiny: Tiny, tmp_path: Path, usual: Finished
) -> None:
    """They give the same results as measuring everything does for those records."""
    changes = {"heldout": tiny.folder / "heldout.txt", "merge": ("TA",), "beta": (BETA,)}
    run = finished(tiny, tmp_path, measure=(1,), sample=1, **changes)
    result, every = (MultiRoundResult.load(each.run.folder) for each in (run, usual))
    assert result.measured == [1, ROUNDS] == list(run.settings.measured)
    assert every.measured == list(range(1, ROUNDS + 1))
    assert [len(part) for part in result.rounds["TA"]] == [1, ROUNDS]
    assert [metrics["records"] for metrics in result.rounds["TA"][-1]] == [1] * ROUNDS
    assert result.perplexity_by_round["TA"] == [every.perplexity_by_round["TA"][n] for n in (0, -1)]
    assert {case.name for case in (run.run.folder / "stages/evaluation/TA").iterdir()} == {
        "round_1.json",
        f"round_{ROUNDS}.json",
    }


def test_stages_are_counted_round_by_round(tiny: Tiny, tmp_path: Path) -> None:
    """Each stage has a number, later stages have later ones, and the last one ends the count."""
    log = EventLog(tmp_path / "log.jsonl")
    with show_progress(quiet=True, log=log):
        finished(tiny, tmp_path, measure=(1,), merge=("CollabEdit",), beta=(BETA,))
    log.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    begun = [event for event in map(json.loads, lines) if event["event"] == "begin"]
    numbers = [event["number"] for event in begun if event["stage"] in PLANNED]
    assert None not in numbers
    assert numbers == sorted(numbers)
    assert numbers[-1] == begun[-1]["of"]
    scored = [event["number"] for event in begun if event["stage"] == "Scoring"]
    assert len(scored) == 3  # the unedited model, round 1, and the last one


def test_the_measured_rounds_must_exist(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="there is no round 4 of 3"):
        MultiRoundSettings.checked(**tiny.options(rounds=3, measure=(1, 4)))


def test_each_measured_round_is_told_at_once(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress():
        heldout = tiny.folder / "heldout.txt"
        run = finished(tiny, tmp_path, measure=(1,), merge=("TA",), heldout=heldout)
    said = [line for line in capsys.readouterr().err.splitlines() if ", after round" in line]
    assert [line.partition(":")[0] for line in said] == [
        f"TA, after round {number} of {ROUNDS}" for number in (1, ROUNDS)
    ]
    last = MultiRoundResult.load(run.run.folder).methods["TA"]
    assert f"ES {last['ES']:.1f}, PS {last['PS']:.1f}, NS {last['NS']:.1f}" in said[-1]
    assert f"perplexity {last['perplexity']:.4g}" in said[-1]


def test_downstream_tasks_are_measured_beside_the_edits(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    items = [{"query": "The capital of France is", "choices": ["Paris", "Rome"], "gold": 0}] * 3
    task = tmp_path / "capital.jsonl"
    task.write_text("".join(json.dumps(item) + "\n" for item in items))
    run = finished(tiny, tmp_path / "runs", merge=("TA",), measure=(2,), tasks=(str(task),))
    tasks = MultiRoundResult.load(run.run.folder).tasks
    assert [len(tasks[name]) for name in ("unedited", "TA")] == [1, 2]
    assert all(0 <= scores["capital"]["acc"] <= 1 for own in tasks.values() for scores in own)


def test_tasks_are_checked_before_any_work(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    settings = MultiRoundSettings(**tiny.options(rounds=1, tasks=("nosuchtask",)))
    with pytest.raises(InputError, match="nosuchtask"):
        multi_round(settings, tmp_path)
    assert not list(tmp_path.iterdir())
