"""The experts of a layer as one weight: its key, its form, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from collabedit.errors import ModelError
from collabedit.models import LanguageModel, infer_structure
from collabedit.models.experts import Routed, keys_at, tokens_at
from collabedit.models.hooks import captured_inputs, seen_outputs
from collabedit.models.trial import Tail
from tests.conftest import EXACT, MIXTURES, make_model

IDS = torch.tensor([[7, 11, 5, 9, 30], [40, 41, 42, 43, 44]])


def run(model: LanguageModel, layer: int) -> tuple[Any, Tensor, Tensor]:
    """The experts' arguments, the states after the norm, and the experts' output."""
    experts = {layer: model.projection(layer)}
    block = {layer: model.layer(layer).mlp}
    with (
        torch.no_grad(),
        captured_inputs(experts) as inputs,
        captured_inputs(block) as states,
        seen_outputs(experts) as outputs,
    ):
        model.hf(IDS, use_cache=False)
    return inputs[layer], tokens_at(states[layer]), outputs[layer].reshape(-1, 32)


def plain_keys(model: LanguageModel, layer: int, states: Tensor) -> Tensor:
    """``[tokens, n d_e]`` by definition: one token and one expert at a time."""
    block = model.layer(layer).mlp
    gates = (states @ block.gate.weight.T).softmax(dim=-1)
    best, chosen = gates.topk(2)
    if getattr(model.hf.config, "norm_topk_prob", True):
        best = best / best.sum(dim=-1, keepdim=True)
    keys = states.new_zeros(len(states), 4, 12)
    for token, (state, own, weights) in enumerate(zip(states, chosen, best, strict=True)):
        for expert, weight in zip(own.tolist(), weights, strict=True):
            gate, up = (block.experts.gate_up_proj[expert] @ state).split(12)
            keys[token, expert] = weight * nn.functional.silu(gate) * up
    return keys.flatten(1)


def test_keys_match_the_definition(exact_mixture: LanguageModel) -> None:
    for layer in range(4):
        inputs, states, given = run(exact_mixture, layer)
        expected = plain_keys(exact_mixture, layer, states)
        keys = keys_at(inputs)
        torch.testing.assert_close(keys, expected, rtol=EXACT, atol=EXACT)
        weight = exact_mixture.weight(exact_mixture.structure.weight_name(layer))
        torch.testing.assert_close(keys @ weight.T, given, rtol=EXACT, atol=EXACT)


def test_keys_of_some_tokens(exact_mixture: LanguageModel) -> None:
    inputs, _, _ = run(exact_mixture, 2)
    every = keys_at(inputs)
    chosen = torch.tensor([8, 1, 1])
    assert torch.allclose(keys_at(inputs, chosen), every[chosen], rtol=EXACT, atol=EXACT)
    mask = torch.arange(10) % 3 == 0
    assert torch.allclose(keys_at(inputs, mask), every[mask], rtol=EXACT, atol=EXACT)
    seen = {expert: len(keys) for expert, _, keys in inputs.by_expert()}
    assert sum(seen.values()) == 2 * IDS.numel()


@pytest.mark.parametrize("family", sorted(MIXTURES))
def test_the_structure_names_the_experts(family: str) -> None:
    model = make_model(family)
    structure = model.structure
    assert (structure.experts, structure.routed, structure.blocks) == (4, 2, 4)
    assert (structure.hidden_size, structure.mlp_size, structure.active_size) == (32, 48, 24)
    assert structure.moment_size == 4 * 12**2
    assert structure.weight_name(1) == "model.layers.1.mlp.experts.down_proj"
    assert structure.projection_path(1) == "model.layers.1.mlp.experts"
    assert all(model.tail(layer) == Tail(direct=True, scale=1.0) for layer in range(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(MIXTURES))
def test_layers_are_edited_together_in_every_type(family: str, dtype: torch.dtype) -> None:
    model = make_model(family, dtype=dtype)
    before = model.state_fingerprint()
    model.check_layers([1, 2])
    assert model.state_fingerprint() == before


def test_the_matrix_and_what_is_stored() -> None:
    model = make_model("olmoe")
    name = model.structure.weight_name(0)
    stored, weight = model.stored(name), model.weight(name)
    assert stored.shape == (4, 32, 12)
    assert weight.shape == (32, 48)
    for expert in range(4):
        assert torch.equal(weight[:, 12 * expert :][:, :12], stored[expert])
    assert torch.equal(model.structure.stored(weight), stored)


@pytest.mark.parametrize("what", ["gate", "activation"])
def test_wrong_keys_are_detected(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """By the sum of the experts' outputs, since a change along a wrong key may look right."""
    model = make_model("olmoe")
    if what == "gate":
        taken = Routed.of

        def without_the_second(experts: nn.Module, args: tuple[Any, ...]) -> Routed:
            routed = taken(experts, args)
            return Routed(experts, routed.hidden, routed.index[:, :1], routed.gates[:, :1])

        monkeypatch.setattr(Routed, "of", without_the_second)
    else:
        model.hf.set_experts_implementation("eager")  # which does not call what is changed here
        kind = type(model.projection(1))
        monkeypatch.setattr(kind, "_apply_gate", lambda _, inner: inner[:, :12])
    with pytest.raises(ModelError, match="is not the sum of its experts"):
        model.tail(1)


def test_refuses_experts_called_with_other_arguments() -> None:
    with pytest.raises(ModelError, match="not called with states, experts and gates"):
        Routed.of(nn.Identity(), (torch.zeros(3, 2), torch.zeros(3, 2)))


def test_one_expert_at_a_time_equals_transformers(
    exact_mixture: LanguageModel,
) -> None:
    ours = exact_mixture.hf(IDS).logits
    exact_mixture.hf.set_experts_implementation("eager")
    assert torch.allclose(exact_mixture.hf(IDS).logits, ours, rtol=EXACT, atol=EXACT)


def test_a_texts_logits_do_not_depend_on_the_others() -> None:
    """Beyond rounding: some processors sum small products in a different order.

    A token whose experts another text changed would move by far more: the logits are about 1, and
    1e-5 is a hundred roundings of float32.
    """
    model = make_model("olmoe")
    ids = torch.randint(2, 300, (12, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = model.hf(ids).logits
        for some in ([0, 1, 2, 3, 4, 5], [11, 3, 7, 9, 5, 1, 2]):
            alone = model.hf(ids[some]).logits
            torch.testing.assert_close(alone, together[some], rtol=1e-5, atol=1e-5)


def test_gradients_pass_through_the_experts(exact_mixture: LanguageModel) -> None:
    embedded = exact_mixture.hf.get_input_embeddings()(IDS[:1])

    def loss(states: Tensor) -> Tensor:
        total: Tensor = exact_mixture.hf(inputs_embeds=states).logits.sin().sum()
        return total

    states = embedded.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(states), states)
    step = 1e-6 * torch.randn(embedded.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved = (loss(embedded + step) - loss(embedded - step)) / 2
    assert float((gradient * step).sum()) == pytest.approx(float(moved), rel=1e-6)


@pytest.mark.parametrize("family", sorted(MIXTURES))
def test_the_quick_copy_rounds_the_experts(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    monkeypatch.setattr(LanguageModel, "can_be_quick", True)
    model = make_model(family)
    quick = model.quick_copy()
    name = model.structure.weight_name(1)
    assert quick.stored(name).dtype == torch.bfloat16
    assert model.stored(name).dtype == torch.float32
    assert model.quick_copy_bytes >= 2 * 4 * 3 * 4 * 32 * 12  # layers, matrices, experts
    with torch.no_grad():
        ours, rounded = model.hf(IDS).logits, quick.hf(IDS).logits
    assert 0 < (rounded - ours).norm() < 0.1 * ours.norm()


def on_meta(kind: str, **options: Any) -> nn.Module:
    config = transformers.AutoConfig.for_model(kind, **options)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("kind", ["gpt_oss", "llama4_text"])
def test_other_forms_are_refused(kind: str) -> None:
    with pytest.raises(ModelError, match=r"mixture-of-experts layers \(model.layers.*dense MLPs"):
        infer_structure(on_meta(kind, num_hidden_layers=4))


@pytest.mark.parametrize("dense", [0, 2])
def test_dense_layers_among_sparse_ones_are_refused(dense: int) -> None:
    model = on_meta("qwen3_moe", num_hidden_layers=4, mlp_only_layers=[dense])
    with pytest.raises(
        ModelError, match="models that mix dense and sparse layers cannot be edited"
    ):
        infer_structure(model)


def test_accepts_a_mixture_model_without_sparse_layers() -> None:
    """A Qwen3-MoE whose layers are all dense is a dense model."""
    model = on_meta("qwen3_moe", num_hidden_layers=4, mlp_only_layers=[0, 1, 2, 3])
    assert infer_structure(model).experts is None
