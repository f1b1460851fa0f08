"""Every editor through whole rounds: many parties get what one party with all edits would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate, relative_distance
from collabedit.editing import measure, optimise_targets
from collabedit.editors import Hyperparameters, editors
from collabedit.errors import CovarianceError, InputError, RoundError
from collabedit.merging import resolve_method
from collabedit.messages import Delta, RoundConfig, RoundState, Schedule
from collabedit.models import LanguageModel
from collabedit.parties import Party, fine_tune, new_round, round_on
from collabedit.requests import EditRequest
from collabedit.rounds import Coordinator, dynamic_priors, merge_deltas, static_priors
from collabedit.transports import run_in_process
from tests.conftest import EXACT, make_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.models.test_language_model import change
from tests.rounds.covariances import covariance_of

SETTINGS = Hyperparameters(
    layers=(1, 2),
    prior_weight=5.0,
    null_space_threshold=0.8,
    null_space_weight=0.5,
    target_steps=3,
    ft_steps=3,
    ft_learning_rate=0.01,
    ft_norm_bound=0.02,
)
AT_ONCE = [editor.name for editor in editors() if editor.at_once]


@pytest.fixture
def tiny_llama(exact_llama: LanguageModel) -> LanguageModel:
    """A model that computes in float64 throughout, since rounds are compared to the last digits."""
    return exact_llama


def round_of(
    model: LanguageModel, editor: str, schedule: Schedule = Schedule.LAYERWISE
) -> RoundConfig:
    one_layer = editor in ("ROME", "FT-L")
    settings = SETTINGS.with_changes(layers=(2,)) if one_layer else SETTINGS
    return new_round(
        model, editor=editor, schedule=schedule, hyperparameters=settings, contexts=CONTEXTS
    )


def parties_of(
    model: LanguageModel, config: RoundConfig, sizes: Sequence[int] = (1, 3, 2)
) -> list[Party]:
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [
        Party(model, REQUESTS[start : start + size], config)
        for start, size in zip(starts, sizes, strict=True)
    ]


def coordinator_of(config: RoundConfig, method: str) -> Coordinator:
    covariance = covariance_of(config) if config.rules.has_statistics else None
    return Coordinator(config, static_priors(config, covariance), resolve_method(method))


def edited_by(method: str, parties: Sequence[Party]) -> Delta:
    return run_in_process(parties, coordinator_of(parties[0].config, method))


def dense_update(
    config: RoundConfig, keys: Tensor, residuals: Tensor, past: Tensor | None = None
) -> Tensor:
    """The editors' formulas as their papers give them, with dense inverses."""
    moment = covariance_of(config).second_moments[config.weight_names[0]]
    earlier = torch.zeros_like(moment) if past is None else past @ past.T
    identity = torch.eye(len(moment), dtype=torch.float64)
    if config.editor == "AlphaEdit":
        values, vectors = torch.linalg.eigh(moment)
        chosen = vectors[:, values < 0.8]
        assert 0 < chosen.shape[1] < len(moment)
        projection = chosen @ chosen.T
        system = projection @ (keys @ keys.T + earlier) + 0.5 * identity
        return torch.linalg.solve(system, projection @ keys @ residuals.T).T
    prior = 5.0 * moment + earlier
    if config.editor in ("EMMET", "ROME"):
        weighted = torch.linalg.solve(prior, keys)
        return residuals @ torch.linalg.inv(keys.T @ weighted) @ weighted.T
    return residuals @ keys.T @ torch.linalg.inv(prior + keys @ keys.T)


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("editor", AT_ONCE)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.usefixtures("exact_arithmetic")
def test_collab_edit_equals_the_pooled_edit(family: str, editor: str, schedule: Schedule) -> None:
    model = make_model(family)
    parties = parties_of(model, round_of(model, editor, schedule))
    merged = edited_by("CollabEdit", parties)
    everything = edited_by("GLOBAL", [Party.pooled(parties)])
    shuffled = edited_by("CollabEdit", parties[::-1])
    assert merged.metadata.editor == editor
    for name, expected in everything.changes.items():
        assert expected.dense().norm() > 0.05
        assert relative_distance(merged.changes[name], expected) < 1e-10
        assert relative_distance(shuffled.changes[name], expected) < 1e-10


@pytest.mark.parametrize("editor", AT_ONCE)
def test_a_layerwise_round_matches_the_papers_formula(
    tiny_llama: LanguageModel, editor: str
) -> None:
    config = round_of(tiny_llama, editor)
    (party,) = parties_of(tiny_llama, config, [6])
    delta = edited_by("GLOBAL", [party])
    changes: dict[str, LowRankUpdate] = {}
    for layer, share in ((1, 0.5**0.5 if editor == "PMET" else 0.5), (2, 1.0)):
        with tiny_llama.edited(changes):
            now = measure(tiny_llama, REQUESTS, CONTEXTS, [layer], 2)
        residuals = share * (party.targets.double() - now.hidden)
        dense = dense_update(config, now.keys[layer], residuals)
        changes = {**changes, config.weight_of(layer): LowRankUpdate.from_dense(dense)}
    for name, expected in changes.items():
        assert relative_distance(delta.changes[name], expected) < 1e-9


def test_alpha_edit_accumulates_the_keys_of_earlier_rounds(tiny_llama: LanguageModel) -> None:
    config = round_of(tiny_llama, "AlphaEdit", Schedule.ONE_SHOT)
    static = static_priors(config, covariance_of(config))
    state = RoundState()
    past = {name: torch.zeros(config.d_in, 0, dtype=torch.float64) for name in config.weight_names}
    for requests in (REQUESTS[:2], REQUESTS[2:4], REQUESTS[4:]):
        with tiny_llama.starting_from(state.changes):
            party = Party(tiny_llama, requests, round_on(config, tiny_llama))
            coordinator = Coordinator(
                party.config, dynamic_priors(static, state.keys, 1.0), resolve_method("GLOBAL")
            )
            delta = run_in_process([party], coordinator)
            now = measure(tiny_llama, requests, CONTEXTS, config.layers, 2)
        for layer, name in zip(config.layers, config.weight_names, strict=True):
            residuals = config.residual_share(layer) * (party.targets.double() - now.hidden)
            expected = dense_update(config, now.keys[layer], residuals, past[name])
            found = delta.changes[name]
            assert relative_distance(found, LowRankUpdate.from_dense(expected)) < 1e-9
            past[name] = torch.cat([past[name], now.keys[layer]], dim=1)
        state = state.after(delta.changes, coordinator.keys)


@pytest.mark.parametrize("editor", AT_ONCE)
def test_several_rounds_of_several_parties_match_those_of_one(
    tiny_llama: LanguageModel, editor: str
) -> None:
    """Keys of earlier rounds accumulate the same way, whoever held them."""
    config = round_of(tiny_llama, editor, Schedule.ONE_SHOT)  # float32 weights round 1e-15 apart
    static = static_priors(config, covariance_of(config))
    many, one = RoundState(), RoundState()
    for requests in (REQUESTS[:3], REQUESTS[3:5], REQUESTS[4:]):
        with tiny_llama.starting_from(many.changes):
            now = round_on(config, tiny_llama)
            parties = [Party(tiny_llama, [request], now) for request in requests]
            merging = Coordinator(
                now, dynamic_priors(static, many.keys, 1.0), resolve_method("CollabEdit")
            )
            pooling = Coordinator(
                now, dynamic_priors(static, one.keys, 1.0), resolve_method("GLOBAL")
            )
            merged = run_in_process(parties, merging)
            pooled = run_in_process([Party.pooled(parties)], pooling)
        for name, expected in pooled.changes.items():
            assert relative_distance(merged.changes[name], expected) < 1e-10
        many = many.after(merged.changes, merging.keys)
        one = one.after(pooled.changes, pooling.keys)
    for name in config.weight_names:
        assert many.keys[name].shape[1] >= 6
        ours, theirs = (state.keys[name] @ state.keys[name].T for state in (many, one))
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-10


# The same edit from several parties, and conflicting ones


def other_answer(request: EditRequest) -> EditRequest:
    """The same question with the object of another request."""
    objects = [other.target_new for other in REQUESTS if other.target_new != request.target_new]
    return replace(request, target_new=objects[0])


@pytest.mark.parametrize("editor", AT_ONCE)
@pytest.mark.parametrize("again", ["agrees", "conflicts"])
def test_questions_that_parties_share_merge_exactly(
    tiny_llama: LanguageModel, editor: str, again: str
) -> None:
    config = round_of(tiny_llama, editor)
    first = REQUESTS[0]
    shared = first if again == "agrees" else other_answer(first)
    parties = [
        Party(tiny_llama, share, config)
        for share in (REQUESTS[:2], [shared], [shared, REQUESTS[3]])
    ]
    merged = edited_by("CollabEdit", parties)
    pooled = edited_by("GLOBAL", [Party.pooled(parties)])
    for name, expected in pooled.changes.items():
        assert torch.isfinite(merged.changes[name].dense()).all()
        assert relative_distance(merged.changes[name], expected) < 1e-10


def test_emmet_gives_conflicting_answers_their_mean(tiny_llama: LanguageModel) -> None:
    """One key with three residuals of one answer and one of another: three to one."""
    config = round_of(tiny_llama, "EMMET", Schedule.ONE_SHOT)
    ours, theirs = REQUESTS[0], other_answer(REQUESTS[0])
    parties = [Party(tiny_llama, [request], config) for request in (ours, ours, theirs, ours)]
    delta = edited_by("CollabEdit", parties)
    now = measure(tiny_llama, [ours], CONTEXTS, config.layers, 2)
    targets = (3 * parties[0].targets.double() + parties[2].targets.double()) / 4
    for layer, name in zip(config.layers, config.weight_names, strict=True):
        wanted = config.residual_share(layer) * (targets - now.hidden)
        found = delta.changes[name].dense() @ now.keys[layer]
        assert float((found - wanted).norm() / wanted.norm()) < 1e-9


def test_emmet_counts_a_repeated_edit_once(tiny_llama: LanguageModel) -> None:
    config = round_of(tiny_llama, "EMMET")
    once = edited_by("GLOBAL", parties_of(tiny_llama, config, [2]))
    parties = [Party(tiny_llama, share, config) for share in (REQUESTS[:1], REQUESTS[:2])]
    twice = edited_by("CollabEdit", parties)
    for name, expected in once.changes.items():
        assert relative_distance(twice.changes[name], expected) < EXACT


def test_rome_keeps_the_later_of_two_answers(tiny_llama: LanguageModel) -> None:
    """Each constraint holds when it is made; the next one at the same key replaces it."""
    settings, contexts = SETTINGS.with_changes(layers=(2,), target_steps=20), (("{}",),)
    config = new_round(tiny_llama, editor="ROME", hyperparameters=settings, contexts=contexts)
    ours, theirs = REQUESTS[0], other_answer(REQUESTS[0])
    for earlier, later in ((ours, theirs), (theirs, ours)):
        parties = [Party(tiny_llama, [request], config) for request in (earlier, later)]
        wanted = []
        for request, done in ((earlier, []), (later, parties[:1])):
            changes = edited_by("CollabEdit", done).changes if done else {}
            with tiny_llama.edited(changes):
                wanted.append(optimise_targets(tiny_llama, [request], contexts, settings))
        with tiny_llama.edited(edited_by("CollabEdit", parties).changes):
            found = measure(tiny_llama, [later], contexts, [2], 2).hidden
        assert (found - wanted[1]).norm() < EXACT * found.norm()
        assert (found - wanted[0]).norm() > 0.1 * found.norm()


# One edit at a time


def test_rome_edits_in_the_order_of_parties_and_requests(tiny_llama: LanguageModel) -> None:
    """Each edit's target and key are found on the model that the previous one left."""
    config = round_of(tiny_llama, "ROME")
    parties = parties_of(tiny_llama, config)
    before = tiny_llama.state_fingerprint()
    merged = edited_by("CollabEdit", parties)
    pooled = edited_by("GLOBAL", [Party.pooled(parties)])
    assert tiny_llama.state_fingerprint() == before
    (name,) = config.weight_names
    assert relative_distance(merged.changes[name], pooled.changes[name]) < 1e-10
    assert (merged.metadata.parties, merged.metadata.edits) == (3, 6)
    assert (pooled.metadata.parties, pooled.metadata.edits) == (1, 6)

    total = torch.zeros(config.d_out, config.d_in, dtype=torch.float64)
    for request in REQUESTS:
        with tiny_llama.starting_from({name: LowRankUpdate.from_dense(total)}):
            target = optimise_targets(tiny_llama, [request], CONTEXTS, config.hyperparameters)
            now = measure(tiny_llama, [request], CONTEXTS, [2], 2)
            total = total + dense_update(config, now.keys[2], target.double() - now.hidden)
    assert relative_distance(pooled.changes[name], LowRankUpdate.from_dense(total)) < EXACT


def test_rome_records_all_its_edits(tiny_llama: LanguageModel) -> None:
    config = round_of(tiny_llama, "ROME")
    coordinator = coordinator_of(config, "CollabEdit")
    run_in_process(parties_of(tiny_llama, config, [2, 1]), coordinator)
    (name,) = config.weight_names
    assert coordinator.keys[name].shape == (config.d_in, 3)
    assert coordinator.residual_norms[name] > 0
    assert coordinator.delta.metadata.complete


def test_rome_refuses_several_edits_at_once(tiny_llama: LanguageModel) -> None:
    config = round_of(tiny_llama, "ROME")
    party = Party(tiny_llama, REQUESTS[:2], config)
    with pytest.raises(RoundError, match="one edit at a time, but this party has 2"):
        party.contribute(Delta.empty(config))


# No closed form


def test_fine_tuning_is_pooled_and_its_deltas_merge(tiny_llama: LanguageModel) -> None:
    config = round_of(tiny_llama, "FT-L")
    parties = parties_of(tiny_llama, config)
    pooled = edited_by("GLOBAL", [Party.pooled(parties)])
    expected = fine_tune(tiny_llama, REQUESTS, config.hyperparameters)
    (name,) = config.weight_names
    assert torch.equal(pooled.changes[name].dense(), expected[name].dense())
    assert (pooled.metadata.editor, pooled.metadata.edits) == ("FT-L", 6)
    own = {str(index): edited_by("GLOBAL", [party]) for index, party in enumerate(parties)}
    for method in ("SA", "TA", "TIES", "DARE", "WSA"):
        merged = merge_deltas(own, resolve_method(method))
        assert merged.metadata.method == method
        assert float(merged.changes[name].dense().abs().max()) > 0


def test_collab_edit_of_fine_tuning_is_refused(tiny_llama: LanguageModel) -> None:
    config = round_of(tiny_llama, "FT-L")
    with pytest.raises(RoundError, match="CollabEdit merges statistics, and FT-L has none"):
        Coordinator(config, {}, resolve_method("CollabEdit"))
    with pytest.raises(RoundError, match="merge the deltas"):
        Coordinator(config, {}, resolve_method("SA"))
    with pytest.raises(RoundError, match="FT-L has no statistics to merge"):
        edited_by("GLOBAL", parties_of(tiny_llama, config))
    with pytest.raises(RoundError, match="FT-L has no statistics to send"):
        Party(tiny_llama, REQUESTS, config).contribute(Delta.empty(config))


# Configurations


def test_a_weighted_average_uses_the_parties_edit_counts(tiny_llama: LanguageModel) -> None:
    config = round_of(tiny_llama, "MEMIT", Schedule.ONE_SHOT)
    parties = parties_of(tiny_llama, config)
    own = [edited_by("GLOBAL", [party]) for party in parties]
    from_updates = edited_by("WSA", parties)
    from_deltas = merge_deltas({str(i): d for i, d in enumerate(own)}, resolve_method("WSA"))
    for name in config.weight_names:
        dense = [delta.changes[name].dense() for delta in own]
        expected = LowRankUpdate.from_dense((dense[0] + 3 * dense[1] + 2 * dense[2]) / 6)
        assert relative_distance(from_updates.changes[name], expected) < 1e-10
        assert relative_distance(from_deltas.changes[name], expected) < 1e-10


@pytest.mark.parametrize("weights", [(3.0, 1.0, 2.0), (0.1, 0.1, 7.5)])
def test_a_weighted_average_uses_the_users_weights(
    tiny_llama: LanguageModel, weights: tuple[float, ...]
) -> None:
    """In the order of the parties, from updates and from finished deltas alike."""
    config = round_of(tiny_llama, "MEMIT", Schedule.ONE_SHOT)
    parties = parties_of(tiny_llama, config)
    own = {str(i): edited_by("GLOBAL", [party]) for i, party in enumerate(parties)}
    coordinator = coordinator_of(config, "WSA")
    updates = {str(i): p.contribute(coordinator.delta) for i, p in enumerate(parties)}
    from_updates = coordinator.merge(updates, weights)
    from_deltas = merge_deltas(own, resolve_method("WSA"), party_weights=weights)
    for name in config.weight_names:
        parts = [w * own[str(i)].changes[name].dense() for i, w in enumerate(weights)]
        expected = LowRankUpdate.from_dense(torch.stack(parts).sum(dim=0) / sum(weights))
        assert relative_distance(from_updates.changes[name], expected) < 1e-10
        assert relative_distance(from_deltas.changes[name], expected) < 1e-10
    assert from_updates.metadata.party_weights == from_deltas.metadata.party_weights == weights
    by_edits = merge_deltas(own, resolve_method("WSA")).metadata.party_weights
    assert by_edits == (1.0, 3.0, 2.0)
    assert merge_deltas(own, resolve_method("SA")).metadata.party_weights == ()


def test_weights_that_do_not_fit_leave_the_round_unchanged(tiny_llama: LanguageModel) -> None:
    config = round_of(tiny_llama, "MEMIT", Schedule.ONE_SHOT)
    for method, message in (("WSA", "parties: 3, weights: 2"), ("SA", "does not weigh")):
        coordinator = coordinator_of(config, method)
        parties = parties_of(tiny_llama, config)
        updates = {str(i): p.contribute(coordinator.delta) for i, p in enumerate(parties)}
        with pytest.raises(InputError, match=message):
            coordinator.merge(updates, [1.0, 2.0])
        assert coordinator.pending_layers == config.layers


def test_a_round_file_stores_the_editors_name(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    config = round_of(tiny_llama, "alphaedit")
    assert config.editor == "AlphaEdit"
    config.save(tmp_path / "round.json")
    assert RoundConfig.load(tmp_path / "round.json") == config
    text = (tmp_path / "round.json").read_text("utf-8")
    (tmp_path / "other.json").write_text(text.replace('"AlphaEdit"', '"MEND"'), "utf-8")
    with pytest.raises(RoundError, match=r"other\.json: editor: unknown editor 'MEND'"):
        RoundConfig.load(tmp_path / "other.json")
    (tmp_path / "rome.json").write_text(text.replace('"AlphaEdit"', '"ROME"'), "utf-8")
    with pytest.raises(RoundError, match=r"rome\.json: ROME edits a single layer"):
        RoundConfig.load(tmp_path / "rome.json")


def test_several_layers_are_refused_before_any_work(tiny_llama: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"ROME edits a single layer.*\[1, 2\]"):
        new_round(tiny_llama, editor="rome", hyperparameters=SETTINGS)


def test_priors_need_a_covariance_of_the_model(tiny_llama: LanguageModel) -> None:
    config = round_of(tiny_llama, "EMMET")
    with pytest.raises(CovarianceError, match="EMMET needs a covariance"):
        static_priors(config, None)
    other = make_model("llama")
    other.apply_({config.weight_names[0]: change(other)})
    with pytest.raises(CovarianceError, match="another model"):
        static_priors(config, covariance_of(round_of(other, "EMMET")))
    assert static_priors(round_of(tiny_llama, "FT-L"), None) == {}


def test_a_null_space_without_directions_is_refused(tiny_llama: LanguageModel) -> None:
    settings = SETTINGS.with_changes(null_space_threshold=1e-6)
    config = new_round(tiny_llama, editor="AlphaEdit", hyperparameters=settings, contexts=CONTEXTS)
    with pytest.raises(CovarianceError, match="raise null_space_threshold above that") as caught:
        static_priors(config, covariance_of(config))
    assert config.weight_names[0] in str(caught.value)
