"""Edits with one key for plain texts and one for conversations: exact, bounded, and resumable."""

from __future__ import annotations

import pytest
import torch

from collabedit.algebra import Prior, relative_distance
from collabedit.algebra.sketch import OVERSAMPLING, DenseSum
from collabedit.editing import measure
from collabedit.editors import default_hyperparameters
from collabedit.errors import ContributionError
from collabedit.merging import resolve_method
from collabedit.messages import Delta, RoundConfig, Schedule, SecureAggregation
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.privacy.secure import Identity, SecureParty
from collabedit.rounds import Coordinator
from collabedit.transports import run_in_process
from tests.editing.facts import CONTEXTS, REQUESTS, TALKS
from tests.rounds.test_round import SCHEDULES, SETTINGS, edited_by, make_parties, make_priors

SEPARATE = SETTINGS.with_changes(separate_keys=True)


@pytest.fixture
def tiny_llama(exact_llama: LanguageModel) -> LanguageModel:
    return exact_llama


def make_round(
    model: LanguageModel, schedule: Schedule = Schedule.LAYERWISE, editor: str = "MEMIT"
) -> RoundConfig:
    return new_round(
        model, editor=editor, schedule=schedule, hyperparameters=SEPARATE, contexts=TALKS
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("editor", ["MEMIT", "PMET", "AlphaEdit"])
def test_collab_edit_equals_the_pooled_edit(
    tiny_llama: LanguageModel, editor: str, schedule: Schedule
) -> None:
    parties = make_parties(tiny_llama, make_round(tiny_llama, schedule, editor))
    merged = edited_by("CollabEdit", parties)
    everything = edited_by("GLOBAL", [Party.pooled(parties)])
    for name, expected in everything.changes.items():
        assert expected.dense().norm() > 0.1
        assert relative_distance(merged.changes[name], expected) < 1e-10


def test_a_layer_satisfies_both_keys_as_the_dense_solution_does(tiny_llama: LanguageModel) -> None:
    """``R K^T (A0 + K K^T)^-1``, with each edit's residual at both of its keys."""
    config = make_round(tiny_llama, Schedule.ONE_SHOT)
    party = Party(tiny_llama, REQUESTS, config)
    delta = edited_by("CollabEdit", [party])
    name = config.weight_of(2)
    measured = measure(tiny_llama, REQUESTS, TALKS, [2], 2, separate=True)
    keys = measured.keys[2]
    residual = (party.targets.double() - measured.hidden[:, ::2]).repeat_interleave(2, dim=1)
    expected = residual @ keys.T @ torch.linalg.inv(dense(config, name) + keys @ keys.T)
    found = delta.changes[name].dense()
    assert float((found - expected).norm() / expected.norm()) < 1e-10


def dense(config: RoundConfig, name: str) -> torch.Tensor:
    """``A0`` of a weight, from its whitening: ``Q A0 Q^T = I``."""
    prior: Prior = make_priors(config)[name]
    whitening = prior.whiten(torch.eye(config.d_in, dtype=torch.float64))
    inverse: torch.Tensor = torch.linalg.inv(whitening.T @ whitening)
    return inverse


def test_what_conversations_lack_is_measured_in_conversations(tiny_llama: LanguageModel) -> None:
    """After layer 1, the two keys of an edit lack what each has not moved yet."""
    config = make_round(tiny_llama)
    party = Party(tiny_llama, REQUESTS, config)
    coordinator = Coordinator(config, make_priors(config), resolve_method("CollabEdit"))
    before = measure(tiny_llama, REQUESTS, TALKS, [1], 2, separate=True).hidden
    coordinator.merge({"a": party.contribute(Delta.empty(config))})
    delta = coordinator.delta
    sent = party.contribute(delta)
    with tiny_llama.edited(delta.changes):
        after = measure(tiny_llama, REQUESTS, TALKS, [2], 2, separate=True)
    wanted = (party.targets.double() - before[:, ::2]).repeat_interleave(2, dim=1)
    residual = wanted - (after.hidden - before)
    (statistics,) = sent.statistics.values()
    cross = statistics.residuals @ statistics.keys.T
    expected = residual @ after.keys[2].T
    assert float((cross - expected).norm() / expected.norm()) < 1e-10


def test_a_new_process_sends_the_same_in_a_later_exchange(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    party = Party(tiny_llama, REQUESTS, config)
    coordinator = Coordinator(config, make_priors(config), resolve_method("CollabEdit"))
    coordinator.merge({"a": party.contribute(Delta.empty(config))})
    known = party.contribute(coordinator.delta)
    fresh = Party(tiny_llama, REQUESTS, config, targets=party.targets)
    again = fresh.contribute(coordinator.delta)
    for name, factors in known.statistics.items():
        assert torch.equal(again.statistics[name].keys, factors.keys)
        assert torch.equal(again.statistics[name].residuals, factors.residuals)


def test_two_directions_an_edit_are_the_most(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    sent = Party(tiny_llama, REQUESTS, config).contribute(Delta.empty(config))
    assert {factors.rank for factors in sent.statistics.values()} == {2 * len(REQUESTS)}
    few = sent.metadata.model_copy(update={"edits": len(REQUESTS) - 1})
    with pytest.raises(ContributionError, match=r"12 directions from 5 edits; .* at most 10"):
        type(sent)(few, sent.statistics).check(config, Delta.empty(config).sha256, (1,))


@pytest.mark.parametrize("form", ["dense", "sketched"])
def test_sums_hold_both_keys_of_all_edits(tiny_llama: LanguageModel, form: str) -> None:
    identities = [Identity(name, name.encode().ljust(32)) for name in ("bank", "clinic", "school")]
    secure = SecureAggregation(
        roster={each.party: each.public for each in identities},
        threshold=2,
        max_edits=len(REQUESTS),
        form=form,  # type: ignore[arg-type]
    )
    config = new_round(
        tiny_llama, hyperparameters=SEPARATE, contexts=TALKS, secure_aggregation=secure
    )
    shares = REQUESTS[:1], REQUESTS[1:4], REQUESTS[4:]
    parties = [
        Party(tiny_llama, list(own), config, secure=SecureParty(identity, config))
        for own, identity in zip(shares, identities, strict=True)
    ]
    coordinator = Coordinator(config, make_priors(config), resolve_method("CollabEdit"))
    found = run_in_process(parties, coordinator)
    expected = edited_by("CollabEdit", make_parties(tiny_llama, make_round(tiny_llama)))
    for name, change in expected.changes.items():
        assert relative_distance(found.changes[name], change) < 1e-9


def test_the_smaller_form_of_sums_counts_both_keys(tiny_llama: LanguageModel) -> None:
    roster = {name: name.encode().hex().ljust(64, "0") for name in ("bank", "clinic")}
    d_in, d_out = tiny_llama.structure.mlp_size, tiny_llama.structure.hidden_size
    as_many_numbers = DenseSum(d_in, d_out).length // (d_in + d_out) - OVERSAMPLING
    secure = SecureAggregation(roster=roster, threshold=2, max_edits=as_many_numbers - 1)
    sketched = {
        name: new_round(
            tiny_llama, hyperparameters=SEPARATE, contexts=contexts, secure_aggregation=secure
        ).sketched
        for name, contexts in (("one key", CONTEXTS), ("two keys", TALKS))
    }
    assert sketched == {"one key": True, "two keys": False}


def test_rounds_without_conversations_have_one_key_an_edit(tiny_llama: LanguageModel) -> None:
    config = new_round(tiny_llama, hyperparameters=SEPARATE, contexts=CONTEXTS)
    assert (config.keys_per_edit, make_round(tiny_llama).keys_per_edit) == (1, 2)
    assert new_round(tiny_llama, hyperparameters=SETTINGS, contexts=TALKS).keys_per_edit == 1


@pytest.mark.parametrize(
    ("editor", "separate"), [("MEMIT", True), ("AlphaEdit", True), ("EMMET", False)]
)
def test_defaults_separate_keys_where_edits_are_weighed(
    tiny_llama: LanguageModel, editor: str, separate: bool
) -> None:
    preset = default_hyperparameters("some model", tiny_llama.structure, editor)
    assert preset.hyperparameters.separate_keys is separate
