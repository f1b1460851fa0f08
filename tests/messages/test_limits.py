"""The limits of a round: bounds, the gate, and how both are stored in a round file."""

from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.errors import ContributionError, InputError, RoundError
from collabedit.files import read_json, write_json
from collabedit.messages import Bounds, Evaluation, Gate, Hits, RoundConfig, SecureAggregation
from collabedit.models import LanguageModel
from collabedit.parties import new_round
from tests.editing.facts import CONTEXTS
from tests.rounds.test_round import SETTINGS


def hits(edited: int, lost: int) -> dict[str, Hits]:
    """Of four edited prompts and eight neighbours."""
    return {
        "rewrite": Hits(before=0, after=edited, of=4),
        "neighborhood": Hits(before=8, after=8 - lost, of=8),
    }


@pytest.mark.parametrize(
    ("edited", "lost", "perplexity", "objections"),
    [
        (2, 4, 1.5, ()),
        (1, 4, 1.5, ("efficacy",)),
        (2, 5, 1.5, ("neighborhood",)),
        (2, 4, 1.51, ("perplexity",)),
        (2, 4, float("nan"), ("perplexity",)),
        (0, 8, 1e6, ("efficacy", "neighborhood", "perplexity")),
        (4, -3, 0.9, ()),
    ],
)
def test_a_trial_reports_the_limits_it_fails(
    edited: int, lost: int, perplexity: float, objections: tuple[str, ...]
) -> None:
    counted = hits(edited, max(0, lost))
    assert Gate().objections(counted, perplexity) == objections


def test_a_trial_without_prompts_can_fail_only_on_perplexity() -> None:
    assert Gate().objections({}, 1.0) == ()
    assert Gate().objections({}, 2.0) == ("perplexity",)


def vote(counted: dict[str, Hits], perplexity: float) -> Evaluation:
    return Evaluation(
        round_sha256="r",
        delta_sha256="d",
        hits=counted,
        perplexity=perplexity,
        objections=Gate().objections(counted, perplexity),
    )


def test_a_vote_is_described_in_words() -> None:
    assert Gate().words(vote(hits(4, 0), 1.0)) == "accepts"
    assert Gate().words(vote(hits(1, 5), 32.5)) == (
        "rejects: 1 of 4 edited prompts give the new object, 50% must; 5 of 8 neighbouring prompts "
        "are lost, 50% may be; held-out perplexity is 32.5 times as high as before, 1.5 times is "
        "allowed"
    )
    hidden = vote(hits(1, 5), 1.0).model_copy(update={"hits": {}})
    assert Gate().words(hidden).startswith("rejects: too few edited prompts give the new object")


def test_untrusted_votes_are_checked() -> None:
    values = vote(hits(4, 0), 1.0).model_dump(mode="json")
    for change in (
        {"objections": ["beauty"]},
        {"perplexity": -1},
        {"hits": {"rewrite": {"of": -1}}},
    ):
        with pytest.raises(RoundError):
            Evaluation.from_values({**values, **change})
    with pytest.raises(RoundError, match=r"version 1 of collabedit\.evaluation"):
        Evaluation.from_values({**values, "version": 1})  # it holds no vote
    with pytest.raises(RoundError, match="another round"):
        vote({}, 1.0).check("x", "d")
    with pytest.raises(RoundError, match="another delta"):
        vote({}, 1.0).check("r", "x")


def test_bounds_name_the_party() -> None:
    bounds = Bounds(edits=3, rank=2)
    bounds.check_edits("bank", 3)
    bounds.check_rank("bank", 2)
    with pytest.raises(
        ContributionError, match="bank: it has 4 edits, and the round allows at most 3"
    ):
        bounds.check_edits("bank", 4)
    with pytest.raises(ContributionError, match="bank: its statistics have 3 directions"):
        bounds.check_rank("bank", 3)


def round_with(model: LanguageModel, **sections: object) -> RoundConfig:
    return new_round(model, hyperparameters=SETTINGS, contexts=CONTEXTS, **sections)  # type: ignore[arg-type]


def test_a_round_file_carries_the_limits(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    config = round_with(tiny_llama, bounds=Bounds(norm=10.0), gate=Gate(least_share=0.5))
    config.save(tmp_path / "round.json")
    found = RoundConfig.load(tmp_path / "round.json")
    assert (found.bounds, found.gate) == (config.bounds, config.gate)
    assert found.sha256 == config.sha256
    assert found.vote_by == Gate(least_share=0.5)
    looser = found.model_copy(update={"gate": Gate(least_share=0.0)})
    assert RoundConfig.model_validate(looser.model_dump()).sha256 != config.sha256


def test_a_file_without_limits_keeps_its_earlier_hash(
    tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    config = round_with(tiny_llama)
    path = tmp_path / "round.json"
    config.save(path)
    values = read_json(path, "round file")
    del values["bounds"], values["gate"]
    write_json(path, values)
    found = RoundConfig.load(path)
    assert (found.bounds, found.gate) == (None, None)
    assert found.sha256 == config.sha256
    assert found.vote_by == Gate()


def test_bounds_are_refused_under_secure_aggregation(
    tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    section = SecureAggregation(
        roster={"a": "0" * 64, "b": "1" * 64}, threshold=2, max_edits=4, form="dense"
    )
    with pytest.raises(InputError, match="under secure aggregation"):
        round_with(tiny_llama, bounds=Bounds(edits=2), secure_aggregation=section)
    path = tmp_path / "round.json"
    round_with(tiny_llama, secure_aggregation=section).save(path)
    write_json(path, {**read_json(path, "round file"), "bounds": {"edits": 2}})
    with pytest.raises(RoundError, match="which secure_aggregation hides"):
        RoundConfig.load(path)
