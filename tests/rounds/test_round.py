"""Rounds between parties: exactness, the messages, and everything that may be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from collabedit.algebra import Factors, LowRankUpdate, Prior, relative_distance
from collabedit.editors import Hyperparameters
from collabedit.errors import ContributionError, RequestError, RoundError
from collabedit.merging import resolve_method
from collabedit.messages import Contribution, Delta, RoundConfig, Schedule
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.requests import EditRequest
from collabedit.rounds import Coordinator, Ledger, merge_deltas
from collabedit.transports import run_in_process
from tests.conftest import make_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.models.test_language_model import change

SETTINGS = Hyperparameters(layers=(1, 2), prior_weight=5.0, target_steps=4)
SCHEDULES = list(Schedule)


@pytest.fixture
def tiny_llama(exact_llama: LanguageModel) -> LanguageModel:
    """A model that computes in float64 throughout, since rounds are compared to the last digits."""
    return exact_llama


def make_round(model: LanguageModel, schedule: Schedule = Schedule.LAYERWISE) -> RoundConfig:
    return new_round(model, schedule=schedule, hyperparameters=SETTINGS, contexts=CONTEXTS)


def make_priors(config: RoundConfig) -> dict[str, Prior]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(config.d_in, 4 * config.d_in, generator=generator, dtype=torch.float64)
    return {w: Prior.from_second_moment(x @ x.T / x.shape[1], 5.0) for w in config.weight_names}


def make_parties(
    model: LanguageModel, config: RoundConfig, sizes: Sequence[int] = (1, 3, 2)
) -> list[Party]:
    parties, start = [], 0
    for size in sizes:
        parties.append(Party(model, REQUESTS[start : start + size], config))
        start += size
    return parties


def edited_by(name: str, parties: Sequence[Party]) -> Delta:
    config = parties[0].config
    return run_in_process(parties, Coordinator(config, make_priors(config), resolve_method(name)))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "opt"])
@pytest.mark.usefixtures("exact_arithmetic")
def test_collab_edit_equals_the_pooled_edit(family: str, schedule: Schedule) -> None:
    model = make_model(family)
    parties = make_parties(model, make_round(model, schedule))
    merged = edited_by("CollabEdit", parties)
    everything = edited_by("GLOBAL", [Party.pooled(parties)])
    shuffled = edited_by("collabedit", parties[::-1])
    for name, expected in everything.changes.items():
        assert expected.dense().norm() > 0.1
        assert relative_distance(merged.changes[name], expected) < 1e-10
        assert relative_distance(shuffled.changes[name], expected) < 1e-10


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_measurement_does_not_depend_on_the_other_edits(schedule: Schedule) -> None:
    model = make_model("llama")
    config = make_round(model, schedule)
    targets = Party(model, REQUESTS, config).targets
    alone = Party(model, REQUESTS[:2], config, targets=targets[:, :2])
    empty = Delta.empty(config)
    together = Party(model, REQUESTS, config, targets=targets)._measure(empty, (1,))
    assert torch.equal(alone._measure(empty, (1,)).keys[1], together.keys[1][:, :2])


def test_the_first_layer_is_equal_in_both_schedules(tiny_llama: LanguageModel) -> None:
    deltas = [
        edited_by("GLOBAL", [Party(tiny_llama, REQUESTS, make_round(tiny_llama, schedule))])
        for schedule in SCHEDULES
    ]
    first, second = deltas[0].metadata, [delta.changes for delta in deltas]
    names = list(first.model_sha256)
    assert relative_distance(second[0][names[0]], second[1][names[0]]) < 1e-10
    assert relative_distance(second[0][names[1]], second[1][names[1]]) > 1e-3


def test_a_layerwise_round_measures_the_residual_again(tiny_llama: LanguageModel) -> None:
    """Brute force: edit layer 1, then measure and edit layer 2 with what is left."""
    from collabedit.editing import measure

    config = make_round(tiny_llama)
    (party,) = make_parties(tiny_llama, config, [6])
    delta = edited_by("GLOBAL", [party])
    priors, changes = make_priors(config), {}
    for layer, share in ((1, 0.5), (2, 1.0)):
        name = config.weight_of(layer)
        with tiny_llama.edited(changes):
            now = measure(tiny_llama, REQUESTS, CONTEXTS, [layer], 2)
        residual = share * (party.targets.double() - now.hidden)
        keys = now.keys[layer]
        inverse = torch.linalg.inv(priors[name].matrix + keys @ keys.T)
        changes = {**changes, name: LowRankUpdate.from_dense(residual @ keys.T @ inverse)}
    for name, expected in changes.items():
        assert relative_distance(delta.changes[name], expected) < 1e-10


def test_the_round_leaves_the_model_unchanged(tiny_llama: LanguageModel) -> None:
    before = tiny_llama.state_fingerprint()
    edited_by("CollabEdit", make_parties(tiny_llama, make_round(tiny_llama)))
    assert tiny_llama.state_fingerprint() == before


@pytest.mark.parametrize("name", ["SA", "TA", "TIES"])
def test_updates_and_deltas_merge_to_the_same(tiny_llama: LanguageModel, name: str) -> None:
    parties = make_parties(tiny_llama, make_round(tiny_llama, Schedule.ONE_SHOT))
    own = [edited_by("GLOBAL", [party]) for party in parties]
    method = resolve_method(name)
    from_updates = edited_by(name, parties)
    from_deltas = merge_deltas({str(i): delta for i, delta in enumerate(own)}, method)
    for weight in from_deltas.changes:
        expected = method.merge_updates([delta.changes[weight] for delta in own])
        assert relative_distance(from_updates.changes[weight], expected) < 1e-10
        assert relative_distance(from_deltas.changes[weight], expected) < 1e-10
    assert from_deltas.metadata.parties == 3
    assert from_deltas.metadata.edits == 6


def test_files_carry_a_round_exactly(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    config = make_round(tiny_llama)
    config.save(tmp_path / "round.json")
    loaded = RoundConfig.load(tmp_path / "round.json")
    assert loaded == config
    assert loaded.sha256 == config.sha256
    parties = make_parties(tiny_llama, loaded)
    delta, ledger = Delta.empty(loaded), None
    for _ in loaded.layers:
        updates = {}
        for index, party in enumerate(parties):
            path = tmp_path / f"{index}.safetensors"
            party.contribute(delta).save(path)
            updates[path.name] = Contribution.load(path)
        coordinator = Coordinator(
            loaded, make_priors(loaded), resolve_method("CollabEdit"), ledger=ledger
        )
        coordinator.merge(updates).save(tmp_path / "delta.safetensors")
        coordinator.ledger.save(tmp_path / "ledger.safetensors")
        delta = Delta.load(tmp_path / "delta.safetensors")
        ledger = Ledger.load(tmp_path / "ledger.safetensors")
    assert delta.metadata.complete
    assert delta.metadata.method == "CollabEdit"
    expected = edited_by("GLOBAL", [Party.pooled(parties)])
    for name, made in delta.changes.items():
        assert relative_distance(made, expected.changes[name]) < 1e-10


def test_float32_uploads_are_half_the_size_and_nearly_exact(tmp_path: Path) -> None:
    model = make_model("llama")
    config = make_round(model, Schedule.ONE_SHOT)
    party = Party(model, REQUESTS, config)
    delta = Delta.empty(config)
    party.contribute(delta).save(tmp_path / "wide.safetensors")
    party.contribute(delta, dtype="float32").save(tmp_path / "narrow.safetensors")
    wide, narrow = (tmp_path / f"{n}.safetensors" for n in ("wide", "narrow"))
    assert narrow.stat().st_size < 0.7 * wide.stat().st_size
    for name, factors in Contribution.load(narrow).statistics.items():
        exact = Contribution.load(wide).statistics[name]
        torch.testing.assert_close(factors.keys, exact.keys, atol=1e-5, rtol=1e-5)


def test_an_update_holds_no_text_and_no_single_edit(
    tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    config = make_round(tiny_llama, Schedule.ONE_SHOT)
    party = Party(tiny_llama, REQUESTS, config)
    update = party.contribute(Delta.empty(config))
    update.save(tmp_path / "update.safetensors")
    stored = (tmp_path / "update.safetensors").read_bytes()
    for request in REQUESTS:
        for text in (request.prompt, request.subject, request.target_new):
            assert text.encode() not in stored
    for factors in update.statistics.values():  # orthogonal columns: mixed, not the keys
        gram = factors.keys.T @ factors.keys
        assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-9)


# What may be wrong with a message


def other_model() -> LanguageModel:
    """The same Llama with one edited weight changed."""
    model = make_model("llama")
    (name,) = model.weight_names([1])
    model.apply_({name: change(model)})
    return model


def one_update(model: LanguageModel, config: RoundConfig) -> Contribution:
    return Party(model, REQUESTS[:2], config).contribute(Delta.empty(config))


def coordinator_of(config: RoundConfig) -> Coordinator:
    return Coordinator(config, make_priors(config), resolve_method("CollabEdit"))


def test_an_update_of_another_round_is_refused(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    update = one_update(tiny_llama, config.model_copy(update={"seed": 9}))
    with pytest.raises(ContributionError, match=r"bank: it belongs to another round"):
        coordinator_of(config).merge({"bank": update})


def test_an_update_of_another_model_is_refused(tiny_llama: LanguageModel) -> None:
    other = other_model()
    config = make_round(tiny_llama)
    with pytest.raises(ContributionError, match="another model"):
        coordinator_of(config).merge({"bank": one_update(other, make_round(other))})


def test_a_stale_update_is_refused(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    coordinator = coordinator_of(config)
    update = one_update(tiny_llama, config)
    coordinator.merge({"bank": update})
    with pytest.raises(ContributionError, match=r"layers \[1\] on another state"):
        coordinator.merge({"bank": update})


def test_a_complete_round_accepts_nothing_more(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama, Schedule.ONE_SHOT)
    coordinator = coordinator_of(config)
    update = one_update(tiny_llama, config)
    delta = coordinator.merge({"bank": update})
    with pytest.raises(RoundError, match="complete"):
        coordinator.merge({"bank": update})
    with pytest.raises(RoundError, match="complete"):
        Party(tiny_llama, REQUESTS[:1], config).contribute(delta)


def test_no_updates_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(RoundError, match="at least one"):
        coordinator_of(make_round(tiny_llama)).merge({})


def altered(update: Contribution, **arrays: torch.Tensor) -> Contribution:
    statistics = {
        name: Factors(arrays.get("keys", factors.keys), arrays.get("residuals", factors.residuals))
        for name, factors in update.statistics.items()
    }
    return Contribution(update.metadata, statistics)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"keys": torch.full((48, 2), float("nan"))}, "NaN"),
        ({"residuals": torch.full((32, 2), float("inf"))}, "infinite"),
        ({"keys": torch.ones(48, 3)}, "3 keys but 2 residuals"),
        ({"keys": torch.zeros(48, 0), "residuals": torch.zeros(32, 0)}, "matrix"),
    ],
)
def test_hostile_arrays_are_refused_when_read(
    tiny_llama: LanguageModel, tmp_path: Path, arrays: dict[str, torch.Tensor], message: str
) -> None:
    path = tmp_path / "update.safetensors"
    altered(one_update(tiny_llama, make_round(tiny_llama)), **arrays).save(path)
    with pytest.raises(ContributionError, match=message) as caught:
        Contribution.load(path)
    assert str(path) in str(caught.value)


def test_arrays_of_another_width_are_refused(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    update = altered(one_update(tiny_llama, config), keys=torch.ones(40, 2))
    with pytest.raises(ContributionError, match="40 and 32 wide"):
        coordinator_of(config).merge({"bank": update})


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "update.safetensors"
    torch.save({"keys": torch.ones(2)}, path)
    with pytest.raises(Exception, match="not a safetensors file") as caught:
        Contribution.load(path)
    assert str(path) in str(caught.value)


def test_a_party_refuses_another_model(tiny_llama: LanguageModel) -> None:
    other = other_model()
    with pytest.raises(RoundError, match="is not the model of this round"):
        Party(other, REQUESTS, make_round(tiny_llama))


def test_a_party_refuses_another_dtype() -> None:
    half = make_model("llama", dtype=torch.bfloat16)
    with pytest.raises(RoundError, match="float32; load it in that type"):
        Party(half, REQUESTS, make_round(make_model("llama")))


def test_a_party_needs_requests(tiny_llama: LanguageModel) -> None:
    with pytest.raises(RequestError, match="without requests"):
        Party(tiny_llama, [], make_round(tiny_llama))


def test_averaging_methods_refuse_statistics_in_a_layerwise_round(
    tiny_llama: LanguageModel,
) -> None:
    config = make_round(tiny_llama)
    with pytest.raises(RoundError, match="merge the deltas"):
        Coordinator(config, make_priors(config), resolve_method("SA"))


def test_priors_of_another_width_are_refused(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    priors = {w: Prior(torch.eye(40, dtype=torch.float64)) for w in config.weight_names}
    coordinator = Coordinator(config, priors, resolve_method("CollabEdit"))
    with pytest.raises(RoundError, match="40 wide; keys are 48"):
        coordinator.merge({"bank": one_update(tiny_llama, config)})


def test_unfinished_deltas_are_not_merged(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    partial = coordinator_of(config).merge({"bank": one_update(tiny_llama, config)})
    with pytest.raises(RoundError, match="bank: the delta contains layers \\[1\\]"):
        merge_deltas({"bank": partial}, resolve_method("SA"))


def test_a_repeated_request_of_one_party_lowers_the_rank(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama, Schedule.ONE_SHOT)
    twice = [REQUESTS[0], EditRequest(7, *astuple_without_id(REQUESTS[0]))]
    update = Party(tiny_llama, twice, config).contribute(Delta.empty(config))
    assert {factors.rank for factors in update.statistics.values()} == {1}


def astuple_without_id(request: EditRequest) -> tuple[str, str, str]:
    return request.prompt, request.subject, request.target_new
