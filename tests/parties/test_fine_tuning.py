"""Fine-tuning: it learns, stays within its bound, and leaves the model unchanged."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from collabedit.editors import Hyperparameters
from collabedit.evaluation import score
from collabedit.models import LanguageModel
from collabedit.parties import fine_tune
from collabedit.requests import EditRequest
from tests.conftest import EXACT, make_model
from tests.editing.facts import REQUESTS

SETTINGS = Hyperparameters(
    layers=(2,), ft_steps=8, ft_learning_rate=0.02, ft_norm_bound=0.05, loss_threshold=0.0
)
PAIRS = [(request.text, request.target_new) for request in REQUESTS]


def loss_of(model: LanguageModel) -> float:
    return sum(each.nll for each in score(model, PAIRS)) / len(PAIRS)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj"])
def test_the_loss_falls_and_no_entry_leaves_its_bound(family: str) -> None:
    model = make_model(family)
    before, start = model.state_fingerprint(), loss_of(model)
    changes = fine_tune(model, REQUESTS, SETTINGS)
    assert model.state_fingerprint() == before
    (name,) = model.weight_names([2])
    dense = changes[name].dense()
    assert dense.shape == model.weight(name).shape
    assert float(dense.abs().max()) == pytest.approx(0.05)  # float32's nearest
    with model.edited(changes):
        assert loss_of(model) < 0.9 * start


def test_the_first_step_follows_the_gradient_of_the_loss() -> None:
    """Adam's first step is the learning rate times the sign; by central differences."""
    model = make_model("gpt2", dtype=torch.float64)
    (name,) = model.weight_names([2])
    step = SETTINGS.with_changes(ft_steps=1, ft_learning_rate=1e-4)
    dense = fine_tune(model, REQUESTS, step)[name].dense()
    weight = model.weight(name)
    for row, column in [(0, 0), (3, 17), (31, 47), (12, 5)]:
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[row, column] += sign * 1e-4
                losses.append(loss_of(model))
                weight[row, column] -= sign * 1e-4
        slope = (losses[0] - losses[1]) / 2e-4
        assert abs(slope) > 1e-6
        assert float(dense[row, column]) == pytest.approx(-1e-4 * slope / abs(slope), rel=1e-2)


def test_the_order_of_the_edits_does_not_matter(exact_llama: LanguageModel) -> None:
    (name,) = exact_llama.weight_names([2])
    step = SETTINGS.with_changes(ft_steps=2)
    first = fine_tune(exact_llama, REQUESTS, step)[name].dense()
    second = fine_tune(exact_llama, REQUESTS[::-1], step)[name].dense()
    assert (first - second).norm() < EXACT * first.norm()


def test_it_stops_when_the_edits_are_learnt(tiny_llama: LanguageModel) -> None:
    learnt = SETTINGS.with_changes(loss_threshold=1e6)
    changes = fine_tune(tiny_llama, REQUESTS, learnt)
    assert all(float(change.dense().norm()) == 0.0 for change in changes.values())


def test_half_precision_is_trained_in_float32() -> None:
    model = make_model("llama", dtype=torch.bfloat16)
    start = loss_of(model)
    with model.edited(fine_tune(model, REQUESTS, SETTINGS)):
        assert loss_of(model) < 0.9 * start


def test_mini_batches_follow_a_plain_training_loop() -> None:
    """LocFT-BF's loop, one text at a time, with the optimiser on the weight itself.

    Adam divides a gradient by its own size, so only rounding in float32 may differ: an entry with
    a gradient near zero may go either way, hence the norm over all of them.
    """
    settings = Hyperparameters(
        layers=(2,), ft_steps=3, ft_learning_rate=1e-3, ft_norm_bound=None, ft_batch_size=2,
        ft_end_token=True, loss_threshold=1e-2,
    )  # fmt: skip
    model = make_model("llama")
    (found,) = fine_tune(model, REQUESTS, settings).values()
    (name,) = model.weight_names([2])
    original = model.stored(name).detach()
    weight = original.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    ordered = sorted(REQUESTS, key=lambda r: (r.prompt, r.subject, r.target_new))
    shuffling = torch.Generator().manual_seed(0)
    for _ in range(3):
        order = torch.randperm(len(ordered), generator=shuffling).tolist()
        for start in range(0, len(order), 2):
            batch = [ordered[index] for index in order[start : start + 2]]
            optimizer.zero_grad()
            torch.stack(
                [_loss_to_the_end(model, {name: weight}, r) for r in batch]
            ).mean().backward()
            optimizer.step()
    expected = (weight - original).detach().double()
    assert (found.dense() - expected).norm() < 1e-2 * expected.norm()


def _loss_to_the_end(
    model: LanguageModel, weights: dict[str, torch.Tensor], request: EditRequest
) -> torch.Tensor:
    tokenizer = model.tokenizer
    start = len(tokenizer(request.text).input_ids)
    ids = [*tokenizer(f"{request.text} {request.target_new}").input_ids, tokenizer.eos_token_id]
    output = functional_call(model.hf, weights, (torch.tensor([ids]),))
    return cross_entropy(output.logits[0, start - 1 : -1], torch.tensor(ids[start:]))


@pytest.mark.slow
def test_the_end_token_is_learnt_only_if_it_is_taught(tiny_llama: LanguageModel) -> None:
    taught = Hyperparameters(
        layers=(2,), ft_steps=40, ft_learning_rate=5e-3, ft_norm_bound=None, ft_batch_size=3,
        ft_end_token=True, loss_threshold=1e-2,
    )  # fmt: skip
    texts = [f"{request.text} {request.target_new}" for request in REQUESTS]

    def surprise(settings: Hyperparameters) -> float:
        with tiny_llama.edited(fine_tune(tiny_llama, REQUESTS, settings)):
            logits = [
                tiny_llama.hf(torch.tensor([tiny_llama.tokenizer(text).input_ids])).logits[0, -1]
                for text in texts
            ]
        token = tiny_llama.tokenizer.eos_token_id
        return float(-torch.stack([each.log_softmax(-1)[token] for each in logits]).mean())

    untaught = taught.with_changes(ft_end_token=False)
    assert surprise(taught) < surprise(untaught) - 1  # nats
