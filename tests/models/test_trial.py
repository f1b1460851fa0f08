"""What follows a down-projection is measured, not read off the structure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from collabedit.editors import Hyperparameters
from collabedit.errors import ModelError
from collabedit.models import LanguageModel
from collabedit.models.hooks import added, hidden_states, seen_outputs
from collabedit.models.trial import Tail, reaches_later_tokens
from collabedit.parties import new_round
from tests.conftest import EXACT, make_model
from tests.models.architectures import gemma4, gemma4_shared, granite, post_norm

NORMED = {"tiny-gemma2", "tiny-gemma3", "tiny-olmo2"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_is_found(family_model: LanguageModel, dtype: torch.dtype) -> None:
    model = make_model(family_model.name.removeprefix("tiny-"), dtype=dtype)
    before = model.state_fingerprint()
    for layer in range(model.structure.n_layers):
        assert model.tail(layer) == Tail(direct=model.name not in NORMED, scale=1.0)
    assert model.state_fingerprint() == before


@pytest.mark.parametrize(
    ("make", "scale"), [(granite, 0.25), (gemma4, 0.25), (lambda: gemma4(1.0), 1.0)]
)
def test_factors_are_measured(make: Callable[[], LanguageModel], scale: float) -> None:
    tail = make().tail(1)
    assert not tail.direct
    assert tail.scale == pytest.approx(scale, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", [1, 3])
def test_refuses_weights_that_are_not_numbers(value: float, layer: int) -> None:
    """Also above the edited layer, which would turn every target into NaN."""
    model = make_model("llama")
    with torch.no_grad():
        model.projection(layer).weight[0].fill_(value)
    with pytest.raises(ModelError, match=r"are not numbers \(NaN\), so its weights are damaged"):
        model.tail(1)


@pytest.mark.usefixtures("exact_arithmetic")
@pytest.mark.parametrize("make", [granite, gemma4, lambda: make_model("gemma2")])
def test_the_effect_is_the_real_move(make: Callable[[], LanguageModel]) -> None:
    model = make()

    @torch.no_grad()
    def run() -> tuple[Tensor, Tensor]:
        parts = {"layer": model.layer(1), "site": model.site(1)}
        with seen_outputs(parts, lambda output: hidden_states(output).clone()) as seen:
            model.hf(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
        return seen["layer"], seen["site"]

    before, site = run()
    change = torch.randn(32, generator=torch.Generator().manual_seed(1))
    with added(model.projection(1), change):
        after, _ = run()
    moved = model.effect(1, site, change).expand(1, 3, 32)
    torch.testing.assert_close(moved, after - before, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("make", [post_norm, lambda: gemma4(hidden_size_per_layer_input=8)])
def test_recognises_layers_without_a_closed_form(make: Callable[[], LanguageModel]) -> None:
    model = make()
    assert model.tail(1) == Tail(direct=False)
    assert model.site(1) is model.projection(1)
    with pytest.raises(ModelError, match="not known in closed form"):
        model.effect(1, torch.zeros(32), torch.ones(32))


@pytest.mark.parametrize("make", [granite, post_norm])
def test_one_layer_of_such_models_can_be_edited(make: Callable[[], LanguageModel]) -> None:
    model = make()
    assert new_round(model, hyperparameters=Hyperparameters(layers=[1])).layers == (1,)
    with pytest.raises(ModelError, match=r"single layer can be edited; give one of \[1, 2\]"):
        new_round(model, hyperparameters=Hyperparameters(layers=[1, 2]))


def test_the_default_settings_fit_a_scaled_model() -> None:
    assert len(new_round(granite()).layers) == 1


def replaced(model: LanguageModel, layer: int, make: Callable[[nn.Module], nn.Module]) -> None:
    """Replace a layer's down-projection by another module."""
    parent, _, own = model.structure.projection_path(layer).rpartition(".")
    setattr(model.module(parent), own, make(model.projection(layer)))


class Signs(nn.Linear):
    """Multiplies by the signs of its weight, as ternary models do."""

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states, self.weight.sign())


def with_signs() -> LanguageModel:
    model = make_model("llama")
    linear = Signs(48, 32, bias=False)
    linear.weight = model.projection(1).weight
    replaced(model, 1, lambda _: linear)
    return model


def unused() -> LanguageModel:
    model = make_model("llama")
    model.layer(1).mlp.register_forward_hook(lambda *args: torch.zeros_like(args[2]))
    return model


def run_twice() -> LanguageModel:
    model = make_model("llama")
    model.hf.model.layers[2] = model.hf.model.layers[1]
    return model


def looking_ahead() -> LanguageModel:
    model = make_model("llama")
    model.layer(0).register_forward_hook(
        lambda _m, _a, output: output + output.mean(dim=1, keepdim=True)
    )
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (with_signs, "does not act as its weight says"),
        (unused, "does not depend on that of"),
        (run_twice, "runs 2 times in one pass"),
        (looking_ahead, "not a left-to-right language model"),
    ],
)
def test_refuses_layers_that_edits_cannot_reach(
    make: Callable[[], LanguageModel], reason: str
) -> None:
    model = make()
    weights = {name: p.clone() for name, p in model.hf.named_parameters()}
    with pytest.raises(ModelError, match=reason) as caught:
        new_round(model, hyperparameters=Hyperparameters(layers=[1]))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(p, weights[name]) for name, p in model.hf.named_parameters())


def test_refuses_a_layer_that_reaches_no_later_token() -> None:
    model = gemma4_shared()
    new_round(model, hyperparameters=Hyperparameters(layers=[0]))
    with pytest.raises(ModelError, match="the output of layer 1 reaches no later token"):
        new_round(model, hyperparameters=Hyperparameters(layers=[1]))


def test_all_layers_but_the_last_reach_later_tokens(family_model: LanguageModel) -> None:
    found = [reaches_later_tokens(family_model, layer) for layer in range(4)]
    assert found == [True, True, True, False]
