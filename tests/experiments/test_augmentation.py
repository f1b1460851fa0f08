"""Augmentation: three rounds, and every record measured on the model of each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from torch import Tensor

from collabedit.datasets import RoundEdit, load_round_edits, load_wordings
from collabedit.errors import DatasetError, InputError, UnknownNameError
from collabedit.evaluation import score
from collabedit.experiments import AugmentationSettings, Run, augmentation
from collabedit.experiments.augmentation import _rounds
from collabedit.messages import RoundConfig, Schedule
from collabedit.models import LanguageModel
from collabedit.requests import EditRequest
from tests.conftest import EXACT
from tests.experiments.studies import (
    Tiny,
    dense_round,
    key_moment,
    load_summary,
    relative,
    rounds_of,
    totals_of,
    written,
)

STAGES = ("unedited", "edited away", "before augmentation", "after augmentation")
SHARES = (1, 2)
WORDINGS = {"P366": ["{} serves for", "One uses {} for", "The use of {} is", "{} is good for"]}


def round_edit(number: int) -> dict[str, Any]:
    return {
        "case_id": 10 + number,
        "edit": {
            "relation": {"id": "P366", "prompt": "{} has use(s), such as"},
            "subject": {"label": f"tool {'abcdef'[number]}"},
            "object": {"label": ("writing", "sailing", "singing")[number % 3]},
            "new_object": "cooking",
            "conflict_object": {"label": ("fishing", "dancing")[number % 2]},
        },
        "true_objects": [{"label": "writing"}, {"label": "sailing"}],
    }


@dataclass(frozen=True)
class Finished:
    """A finished run with its records by party."""

    tiny: Tiny
    run: Run
    shares: list[list[RoundEdit]]

    @property
    def items(self) -> list[RoundEdit]:
        return [item for share in self.shares for item in share]

    def totals(self) -> list[dict[str, Tensor]]:
        """All changes by the number of finished rounds."""
        return totals_of(rounds_of(self.run, "CollabEdit"))


def settings_for(tiny: Tiny, folder: Path, **changes: Any) -> AugmentationSettings:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edits.json").write_text(json.dumps([round_edit(n) for n in range(6)]))
    (folder / "wordings.json").write_text(json.dumps(WORDINGS))
    options = {
        "dataset": str(folder / "edits.json"),
        "wordings": folder / "wordings.json",
        "schedule": Schedule.ONE_SHOT,
        "edits_per_party": SHARES,
        **changes,
    }
    return AugmentationSettings(**tiny.options(**options))


def finish(tiny: Tiny, folder: Path, **changes: Any) -> Finished:
    """Run the study; the parties' records are found from its case files and its facts."""
    settings = settings_for(tiny, folder, **changes)
    run = augmentation(settings, folder / "results")
    wordings = load_wordings(settings.wordings) if settings.wordings else None
    known = {i.case_id: i for i in load_round_edits(settings.dataset, wordings, settings.seed)}
    ids = [case["case_id"] for case in run.read_stage("evaluation/unedited")]
    assert len(ids) == len(set(ids)) == sum(SHARES)
    items = [known[case_id] for case_id in ids]
    return Finished(tiny, run, [items[: SHARES[0]], items[SHARES[0] :]])


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tiny, tmp_path_factory.mktemp("augmentation"), beta=2.0)


def likelihood(model: LanguageModel, prompt: str, item: RoundEdit, target: str) -> float:
    """Per token, scored alone."""
    (found,) = score(model, [(prompt.replace("{}", item.subject), target)])
    return math.exp(-found.nll)


@pytest.mark.parametrize(("stage", "number"), [(name, n) for n, name in enumerate(STAGES)])
def test_every_record_is_measured_on_the_model_of_the_round(
    finished: Finished, stage: str, number: int
) -> None:
    """All of them, not the first record only; one by one on a model with the change written."""
    model = finished.tiny.model()
    stored = finished.run.read_stage(f"evaluation/{stage}")
    with written(model, finished.totals()[number]):
        for case, item in zip(stored, finished.items, strict=True):
            assert case["case_id"] == item.case_id
            # The third and later wordings of the file are the second and fourth of each record.
            prompts = [item.prompt, "One uses {} for", "{} is good for"]
            answers = [case["rewrite"], *case["other_wordings"]]
            for prompt, answer in zip(prompts, answers, strict=True):
                for name, target in (("preferred", item.preferred), ("conflict", item.conflict)):
                    expected = likelihood(model, prompt, item, target)
                    assert answer[name] == pytest.approx(expected, rel=EXACT)


def test_the_models_of_the_rounds_differ(finished: Finished) -> None:
    stages = [finished.run.read_stage(f"evaluation/{stage}") for stage in STAGES]
    for index in range(len(finished.items)):
        values = {round(cases[index]["rewrite"]["preferred"], 9) for cases in stages}
        assert len(values) == len(STAGES)


def test_the_rounds_are_the_dense_formula_of_the_right_edits(finished: Finished) -> None:
    """Edit away; restore against as many conflicting parties; restore in many forms."""

    def shares(*texts: Callable[[RoundEdit], list[EditRequest]]) -> list[list[EditRequest]]:
        return [
            [request for item in share for request in of(item)]
            for of in texts
            for share in finished.shares
        ]

    def request(item: RoundEdit, target: str, prompt: str = "") -> EditRequest:
        where = prompt or item.prompt
        return EditRequest(item.case_id, where, item.subject, target, relation_id="P366")

    def augmented(item: RoundEdit) -> list[EditRequest]:
        right = [item.preferred, *(o for o in ("writing", "sailing") if o != item.preferred)]
        forms = ["{} serves for", "The use of {} is"]
        return [
            *(request(item, target) for target in right),
            *(request(item, item.preferred, prompt) for prompt in forms),
        ]

    rounds = [
        shares(lambda item: [request(item, "cooking")]),
        shares(
            lambda item: [request(item, item.conflict)],
            lambda item: [request(item, item.preferred)],
        ),
        shares(augmented),
    ]
    config = RoundConfig.load(finished.run.folder / "round.json")
    model, priors = finished.tiny.model(), finished.tiny.second_moments()
    for number, parties in enumerate(rounds):
        with written(model, finished.totals()[number]):
            updates, statistics = dense_round(model, config, parties, priors)
        for name, update in updates.items():
            assert relative(rounds_of(finished.run, "CollabEdit")[number][name], update) < 1e-8
        facts = finished.run.read_stage(f"facts/CollabEdit/round_{number + 1}")
        assert facts["edits"] == sum(map(len, parties))
        priors = {name: p + 2.0 * key_moment(statistics[name]) for name, p in priors.items()}


def test_wordings_to_augment_are_not_those_to_measure(finished: Finished) -> None:
    for item in finished.items:
        assert list(item.wordings) == WORDINGS["P366"]
        assert not set(item.wordings[::2]) & set(item.wordings[1::2])


def test_the_summary_compares_both_answers(finished: Finished) -> None:
    summary = load_summary(finished.run.folder)
    assert list(summary["methods"]) == list(STAGES[1:])
    for stage in STAGES:
        cases = finished.run.read_stage(f"evaluation/{stage}")
        found = summary["unedited"] if stage == "unedited" else summary["methods"][stage]
        differences = [c["rewrite"]["preferred"] - c["rewrite"]["conflict"] for c in cases]
        assert found["records"] == 3
        assert found["rewrite_difference"] == pytest.approx(100 * fmean(differences))
        assert found["rewrite_conflict_wins"] == pytest.approx(
            100 * sum(difference < 0 for difference in differences) / 3
        )
        means = [
            fmean(pair["preferred"] - pair["conflict"] for pair in case["other_wordings"])
            for case in cases
        ]
        assert found["wordings_difference"] == pytest.approx(100 * fmean(means))
        assert found["wordings_conflict_wins"] == pytest.approx(
            100 * sum(mean < 0 for mean in means) / 3
        )


def test_case_files_hold_every_stage(finished: Finished) -> None:
    for index, item in enumerate(finished.items):
        case = json.loads((finished.run.folder / f"case_{item.case_id}.json").read_text())
        assert case["record"] == {
            "prompt": item.prompt,
            "subject": item.subject,
            "edited": "cooking",
            "preferred": item.preferred,
            "conflict": item.conflict,
        }
        for stage in STAGES:
            assert case[stage] == finished.run.read_stage(f"evaluation/{stage}")[index]


@pytest.mark.parametrize(
    ("objects", "prompts", "edits"),
    [(False, False, [1, 1, 1]), (True, False, [2, 2, 3]), (False, True, [3, 3, 3])],
)
def test_either_augmentation_can_be_left_out(
    tiny: Tiny, tmp_path: Path, objects: bool, prompts: bool, edits: list[int]
) -> None:
    settings = settings_for(tiny, tmp_path, augment_objects=objects, augment_prompts=prompts)
    items = load_round_edits(settings.dataset, WORDINGS)[:3]
    last = _rounds(settings, [[item] for item in items])[2]
    assert [len(requests) for requests in last] == edits
    for item, requests in zip(items, last, strict=True):
        assert requests[0] == item.request(item.preferred)
        assert item.conflict not in {request.target_new for request in requests}


def test_counterfact_records_are_accepted(tiny: Tiny, tmp_path: Path) -> None:
    """They restore the true object; without further prompts nothing is measured in other words."""
    facts = tiny.write_facts(
        "bare.json", [{**fact, "paraphrase_prompts": []} for fact in tiny.raw_facts()]
    )
    run = finish(tiny, tmp_path, dataset=str(facts), wordings=None, beta=0.0)
    for item in run.items:
        case = json.loads((run.run.folder / f"case_{item.case_id}.json").read_text())
        rewrite = next(
            f["requested_rewrite"] for f in tiny.raw_facts() if f["case_id"] == item.case_id
        )
        assert case["record"]["preferred"] == rewrite["target_true"]["str"]
        assert case["record"]["edited"] == rewrite["target_new"]["str"]
    summary = load_summary(run.run.folder)
    assert set(summary["unedited"]) == {"records", "rewrite_difference", "rewrite_conflict_wins"}


def test_bad_input_leaves_no_folder(tiny: Tiny, tmp_path: Path) -> None:
    def fails(error: type[Exception], message: str, **changes: Any) -> None:
        settings = settings_for(tiny, tmp_path, **changes)
        with pytest.raises(error, match=message):
            augmentation(settings, tmp_path / "results")
        assert not (tmp_path / "results").exists()

    fails(DatasetError, "the data set has 6", edits_per_party=4)
    fails(InputError, "nowhere.json", wordings=tmp_path / "nowhere.json")
    fails(InputError, "nowhere.json", dataset=str(tmp_path / "nowhere.json"))
    fails(UnknownNameError, "unknown partition 'luck'", partition="luck")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"beta": -1.0}, "beta"),
        ({"beta": float("inf")}, "beta"),
        ({"merge": ("CollabEdit", "SA")}, "merge"),
    ],
)
def test_settings_out_of_range_are_refused(tiny: Tiny, values: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"settings: {field}\b"):
        AugmentationSettings.checked(**tiny.options(**values))
