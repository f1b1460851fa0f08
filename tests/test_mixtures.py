"""The whole way of an edit in mixtures of experts, against a dense solve of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from collabedit.algebra import BlockPrior, LowRankUpdate, relative_distance
from collabedit.editing import measure
from collabedit.editors import Hyperparameters, bare_contexts
from collabedit.errors import CovarianceError, InputError, ModelError
from collabedit.export import Base, ExportJob, resolve_format, revert_model, save_edited_model
from collabedit.merging import resolve_method
from collabedit.messages import Covariance, Delta, RoundConfig, Schedule
from collabedit.models import LanguageModel, load_model
from collabedit.models.experts import keys_at
from collabedit.models.hooks import captured_inputs
from collabedit.parties import Party, fine_tune, new_round
from collabedit.rounds import Coordinator, dynamic_priors, static_priors
from collabedit.transports import run_in_process
from tests.conftest import EXACT, MIXTURES, float64_throughout, make_model, save_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.rounds.test_secure_rounds import secure_parties, secure_round
from tests.test_families import (
    SHARES,
    check_merging,
    covariance_of,
    logits,
    merged,
    parties_of,
    round_on,
)


def dense_solve(
    config: RoundConfig, covariance: Covariance, keys: Tensor, residuals: Tensor, name: str
) -> Tensor:
    """``R K^T (A0 + K K^T)^-1`` with ``A0 = lambda C`` in one matrix, zero between experts."""
    prior = torch.block_diag(*(config.prior_weight * covariance.second_moments[name]))
    return torch.linalg.solve(prior + keys @ keys.T, keys @ residuals.T).T


def stacked_keys(model: LanguageModel, config: RoundConfig, layer: int) -> Tensor:
    """The mean keys of all requests, by the plainest way: a text at a time."""
    found = []
    for request in [r for share in SHARES for r in share]:
        mean = torch.zeros(48, dtype=torch.float64)
        start = request.prompt.partition("{}")[0]
        groups = [[template.format(start) for template in group] for group in CONTEXTS]
        for group in groups:
            for front in group:
                text = front + request.subject
                ids = model.tokenizer(text, return_tensors="pt").input_ids
                with torch.no_grad(), captured_inputs({0: model.projection(layer)}) as inputs:
                    model.hf(ids, use_cache=False)
                mean += keys_at(inputs[0])[-1] / len(group) / len(groups)
        found.append(mean)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_merged_parties_are_the_pooled_edit(
    exact_mixture: LanguageModel, schedule: Schedule
) -> None:
    check_merging(exact_mixture, schedule)


def test_the_delta_is_the_dense_block_solve(exact_mixture: LanguageModel) -> None:
    model, config = exact_mixture, round_on(exact_mixture, schedule=Schedule.ONE_SHOT)
    covariance, parties = covariance_of(model, config), parties_of(model, config)
    delta = merged(config, parties, covariance, "CollabEdit")
    pooled = Party.pooled(parties)
    requests = [request for share in SHARES for request in share]
    found = measure(model, requests, config.contexts, config.layers, config.layers[-1])
    for layer in config.layers:
        name = config.weight_of(layer)
        residuals = config.residual_share(layer) * (pooled.targets.double() - found.hidden)
        expected = dense_solve(config, covariance, found.keys[layer], residuals, name)
        change = delta.changes[name]
        assert relative_distance(change, LowRankUpdate.from_dense(expected)) < EXACT
        plain = stacked_keys(model, config, layer)
        assert (plain - found.keys[layer]).norm() < EXACT * plain.norm()


def test_no_prior_is_a_matrix_of_all_experts(exact_mixture: LanguageModel) -> None:
    config = round_on(exact_mixture)
    assert (config.experts, config.d_in, config.d_out) == (4, 48, 32)
    priors = static_priors(config, covariance_of(exact_mixture, config))
    for prior in priors.values():
        assert isinstance(prior, BlockPrior)
        assert [block.size for block in prior.blocks] == [12] * 4


def test_an_edit_without_slack_reaches_its_target(exact_mixture: LanguageModel) -> None:
    """So the change acts on the running model, gates and all, as the algebra says.

    The prompt's own routing is that of the key, since it is settled below the edited weight.
    """
    model = exact_mixture
    settings = Hyperparameters(layers=(2,), target_steps=3, target_learning_rate=0.1)
    config = new_round(model, editor="EMMET", hyperparameters=settings, contexts=bare_contexts())
    party = Party(model, REQUESTS[:2], config)
    delta = merged(config, [party], covariance_of(model, config), "GLOBAL")

    def hidden() -> Tensor:
        return measure(model, party.requests, bare_contexts(), (), 2).hidden

    wanted, before = party.targets.double(), hidden()
    with model.edited(delta.changes):
        assert (hidden() - wanted).norm() < EXACT * (wanted - before).norm()


@pytest.mark.parametrize("editor", ["MEMIT", "PMET", "EMMET", "ROME", "AlphaEdit"])
def test_editors_in_closed_form_merge_exactly(editor: str) -> None:
    with float64_throughout():
        model = make_model("olmoe")
        settings = Hyperparameters(
            layers=(1,), target_steps=2, target_learning_rate=0.1, null_space_threshold=0.01
        )
        config = new_round(model, editor=editor, hyperparameters=settings, contexts=CONTEXTS)
        covariance = covariance_of(model, config)
        shares = (REQUESTS[:1],) if editor == "ROME" else SHARES
        parties = [Party(model, share, config) for share in shares]
        delta = merged(config, parties, covariance, "CollabEdit")
        pooled = merged(config, [Party.pooled(parties)], covariance, "GLOBAL")
        (name,) = config.weight_names
        assert relative_distance(delta.changes[name], pooled.changes[name]) < EXACT
        assert pooled.changes[name].dense().norm() > 1e-3


@pytest.mark.parametrize("method", ["SA", "WSA", "TA", "TIES", "DARE"])
def test_every_merge_method_takes_them(method: str) -> None:
    model = make_model("qwen3_moe")
    config = round_on(model, schedule=Schedule.ONE_SHOT)
    delta = merged(config, parties_of(model, config), covariance_of(model, config), method)
    assert all(change.shape == (32, 48) for change in delta.changes.values())


def test_fine_tuning_moves_the_experts_that_are_used() -> None:
    model = make_model("mixtral")
    before, state = loss_of(model), model.state_fingerprint()
    settings = Hyperparameters(layers=(1,), ft_steps=2, ft_learning_rate=0.01)
    (change,) = fine_tune(model, REQUESTS[:1], settings).values()
    assert model.state_fingerprint() == state
    assert change.shape == (32, 48)
    with model.edited({model.structure.weight_name(1): change}):
        assert loss_of(model) < before


@torch.no_grad()
def loss_of(model: LanguageModel) -> float:
    request = REQUESTS[0]
    ids = model.tokenizer(f"{request.text} {request.target_new}", return_tensors="pt").input_ids
    return float(model.hf(ids, labels=ids).loss)


def test_ultraedit_is_refused_by_name() -> None:
    model = make_model("olmoe")
    settings = Hyperparameters(layers=(1,))
    with pytest.raises(InputError, match=r"tiny-olmoe is a mixture of experts, and UltraEdit"):
        new_round(model, editor="UltraEdit", hyperparameters=settings, contexts=CONTEXTS)


def test_later_rounds_protect_earlier_keys(exact_mixture: LanguageModel) -> None:
    """The dynamic covariance ties experts together; the update is the dense one."""
    model = exact_mixture
    config = round_on(model, schedule=Schedule.ONE_SHOT)
    covariance, parties = covariance_of(model, config), parties_of(model, config)
    keys = {name: torch.randn(48, 3).double() for name in config.weight_names}
    static = static_priors(config, covariance)
    priors = dynamic_priors(static, keys, 2.0)
    for name, own in keys.items():
        expected = static[name].dense() + 2 * own @ own.T
        assert torch.allclose(priors[name].dense(), expected, rtol=EXACT)
    assert parties[0].contribute(Delta.empty(config)).statistics


def test_a_covariance_of_another_form_is_refused() -> None:
    model = make_model("olmoe")
    config = round_on(model)
    covariance = covariance_of(model, config)
    for name, moment in covariance.second_moments.items():
        covariance.second_moments[name] = torch.block_diag(*moment)  # type: ignore[index]
    with pytest.raises(CovarianceError, match=r"is \[48, 48\], the round needs \[4, 12, 12\]"):
        static_priors(config, covariance)


def test_an_expert_without_text_stays_as_it_is() -> None:
    model = make_model("olmoe")
    config = round_on(model, schedule=Schedule.ONE_SHOT)
    covariance = covariance_of(model, config)
    for moment in covariance.second_moments.values():
        moment[3] = 0
    delta = merged(config, parties_of(model, config), covariance, "CollabEdit")
    for change in delta.changes.values():
        first, last = change.dense().split([36, 12], dim=1)
        assert first.norm() > 0.01
        assert not last.any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(MIXTURES))
def test_saved_reloaded_and_reverted(family: str, dtype: str, tmp_path: Path) -> None:
    """The files hold experts one by one, under the names that they had, and nothing else moves."""
    folder = save_model(make_model(family, dtype=getattr(torch, dtype)), tmp_path / "model")
    model = load_model(str(folder), dtype=dtype, device="cpu")
    config = round_on(model)
    covariance = covariance_of(model, config)
    delta = merged(config, parties_of(model, config), covariance, "CollabEdit")
    unedited = logits(model.hf)
    save_edited_model(model, delta, tmp_path / "edited")
    edited = logits(model.hf)
    assert not torch.allclose(edited, unedited)
    again = load_model(str(tmp_path / "edited"), dtype=dtype, device="cpu")
    assert torch.equal(logits(again.hf), edited)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "edited", dtype="auto")
    plain.set_experts_implementation("eager")
    # rounding once a layer, in the type's own units, of products that are summed in other orders
    tolerance = 100 * torch.finfo(plain.dtype).eps
    assert torch.allclose(logits(plain.eval()), edited, rtol=tolerance, atol=tolerance)

    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "edited"))
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    kind = "w2" if family == "mixtral" else "down_proj"
    assert moved
    assert all(f".experts.{key.split('.experts.')[1][0]}.{kind}.weight" in key for key in moved)
    assert {int(key.split(".")[2]) for key in moved} == {1, 2}

    assert revert_model(tmp_path / "edited", tmp_path / "back") == 8
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(before[key], back[key]) for key in before)


def exported(delta: Delta, to: str, out: Path) -> list[str]:
    return resolve_format(to, out).export(ExportJob(Base.of(delta), out))


def test_a_model_directory_without_loading_the_model(tmp_path: Path) -> None:
    folder = save_model(make_model("mixtral"), tmp_path / "model")
    model = load_model(str(folder), device="cpu")
    config = round_on(model)
    delta = merged(config, parties_of(model, config), covariance_of(model, config), "CollabEdit")
    said = exported(delta, "model", tmp_path / "edited")
    assert said[0].startswith("Copied from the base's files")
    save_edited_model(model, delta, tmp_path / "usual")
    usual, copied = (load_file(tmp_path / f / "model.safetensors") for f in ("usual", "edited"))
    assert all(torch.equal(usual[key], copied[key]) for key in usual)


@pytest.mark.parametrize(("to", "name"), [("lora", "adapter"), ("gguf", "model.gguf")])
def test_other_formats_are_refused_by_name(tmp_path: Path, to: str, name: str) -> None:
    folder = save_model(make_model("mixtral"), tmp_path / "model")
    model = load_model(str(folder), device="cpu")
    config = round_on(model)
    delta = merged(config, parties_of(model, config), covariance_of(model, config), "CollabEdit")
    with pytest.raises(ModelError, match="is a mixture of experts, whose edits cannot be written"):
        exported(delta, to, tmp_path / name)


@pytest.mark.parametrize("form", ["dense", "sketched"])
def test_sums_alone_are_enough(form: str) -> None:
    """Secure aggregation: the coordinator sees no party's own statistics."""
    with float64_throughout():
        model = make_model("olmoe")
        config = secure_round(model, form=form)
        covariance, parties = covariance_of(model, config), secure_parties(model, config)
        priors = static_priors(config, covariance)
        coordinator = Coordinator(config, priors, resolve_method("CollabEdit"))
        delta = run_in_process(parties, coordinator)
        plain = round_like(config, model)
        apart = [Party(model, party.requests, plain) for party in parties]
        expected = merged(plain, apart, covariance, "CollabEdit")
        for name, change in expected.changes.items():
            assert relative_distance(delta.changes[name], change) < 1e-9


def round_like(config: RoundConfig, model: LanguageModel) -> RoundConfig:
    """The same round in the open."""
    return new_round(
        model,
        schedule=config.schedule,
        hyperparameters=config.hyperparameters,
        contexts=config.contexts,
    )
