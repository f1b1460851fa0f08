"""The searches on functions with known minima, and on a model against the plain way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks.plain import plain_loss
from collabedit.editing import optimise_targets
from collabedit.editing.target_searches import Adam, QuasiNewton, Search, search_of
from collabedit.editors import Hyperparameters
from collabedit.models import LanguageModel
from tests.editing.facts import CONTEXTS, REQUESTS

SETTINGS = Hyperparameters(layers=(1,), clamp_factor=1.0)
EDITS, SIZE = 5, 12

Loss = Callable[[Tensor], Tensor]


def states(scale: float = 10.0) -> Tensor:
    """Hidden states ``[edits, size]``; only their norms matter."""
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(EDITS, SIZE, generator=generator, dtype=torch.float64)


def quadratic(condition: float = 100.0) -> tuple[Loss, Tensor]:
    """A different quadratic for each edit, and their minima, well within the ball."""
    generator = torch.Generator().manual_seed(2)
    minima = torch.randn(EDITS, SIZE, generator=generator, dtype=torch.float64)
    mixed = torch.randn(EDITS, SIZE, SIZE, generator=generator, dtype=torch.float64)
    axes, _ = torch.linalg.qr(mixed)
    curvature = torch.logspace(0, torch.tensor(condition).log10(), SIZE, dtype=torch.float64)

    def loss(point: Tensor) -> Tensor:
        along = torch.einsum("esd,ed->es", axes, point - minima)
        return (curvature * along**2).sum(dim=1) / 2

    return loss, minima


def run(search: Search, loss: Loss, steps: int) -> tuple[Tensor, list[Tensor]]:
    """The best point, and the losses ``[edits]`` of all evaluations."""
    history = []
    for _ in range(steps):
        value = loss(search.point)
        value.sum().backward()
        history.append(value.detach())
        search.move(value.detach())
    with torch.no_grad():
        value = loss(search.point)
    return search.best(value), [*history, value]


def test_quadratics_are_solved_to_the_bottom() -> None:
    loss, minima = quadratic()
    found, _ = run(QuasiNewton(states(), SETTINGS), loss, 60)
    torch.testing.assert_close(found, minima, rtol=0, atol=1e-6)


def test_the_best_is_the_lowest_that_was_evaluated() -> None:
    loss, _ = quadratic(1e4)
    for steps in (0, 1, 2, 5, 9):
        found, history = run(QuasiNewton(states(), SETTINGS), loss, steps)
        assert torch.equal(loss(found), torch.stack(history).min(dim=0).values)


def test_needs_far_fewer_evaluations_than_adam() -> None:
    loss, _ = quadratic()
    wanted = 1e-2 * loss(torch.zeros(EDITS, SIZE, dtype=torch.float64))

    def evaluations(search: Search) -> int:
        _, history = run(search, loss, 200)
        return next(n for n, value in enumerate(history, 1) if bool((value < wanted).all()))

    rates = [SETTINGS.with_changes(target_learning_rate=rate) for rate in (0.05, 0.1, 0.2, 0.5)]
    best_of_adam = min(evaluations(Adam(states(), each)) for each in rates)
    assert evaluations(QuasiNewton(states(), SETTINGS)) < best_of_adam / 1.5


def test_minima_outside_the_ball_are_approached_on_its_surface() -> None:
    limits = 0.3 * (norms := states(0.1).norm(dim=1))
    settings = SETTINGS.with_changes(clamp_factor=0.3)
    loss, minima = quadratic(1.0)  # round, so that the nearest point is the one in its direction
    assert bool((minima.norm(dim=1) > norms).all())
    found, _ = run(QuasiNewton(states(0.1), settings), loss, 40)
    nearest = minima * (limits / minima.norm(dim=1))[:, None]
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-4)


def test_the_surface_is_followed_to_its_lowest_point() -> None:
    settings = SETTINGS.with_changes(clamp_factor=0.3)
    loss, minima = quadratic(30.0)
    found, _ = run(QuasiNewton(states(0.1), settings), loss, 60)
    limits = 0.3 * states(0.1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.norm(dim=1, keepdim=True), limits)
    point = found.clone().requires_grad_()
    loss(point).sum().backward()
    assert point.grad is not None
    # The slope points straight inwards, and the loss is nowhere lower on the surface.
    cosine = torch.cosine_similarity(-point.grad, found)
    torch.testing.assert_close(cosine, torch.ones(EDITS, dtype=cosine.dtype), rtol=0, atol=1e-6)
    others = limits * torch.nn.functional.normalize(minima + found, dim=1)
    assert bool((loss(found) <= loss(others) + 1e-12).all())


def test_edits_do_not_affect_each_other() -> None:
    loss, _ = quadratic()
    together, _ = run(QuasiNewton(states(), SETTINGS), loss, 7)

    def alone(edit: int) -> Tensor:
        def own(point: Tensor) -> Tensor:
            rest = torch.zeros(EDITS, SIZE, dtype=torch.float64)
            return loss(torch.cat([rest[:edit], point, rest[edit + 1 :]]))[edit : edit + 1]

        return run(QuasiNewton(states()[edit : edit + 1], SETTINGS), own, 7)[0][0]

    for edit in range(EDITS):
        torch.testing.assert_close(alone(edit), together[edit], rtol=1e-9, atol=1e-9)


def test_a_loss_without_slope_stays_where_it_is() -> None:
    found, _ = run(QuasiNewton(states(), SETTINGS), lambda point: 0 * point.sum(dim=1) + 1, 3)
    assert torch.equal(found, torch.zeros(EDITS, SIZE, dtype=torch.float64))


def test_settings_choose_the_search() -> None:
    assert isinstance(search_of(states(), SETTINGS), Adam)
    chosen = SETTINGS.with_changes(target_search="lbfgs")
    assert isinstance(search_of(states(), chosen), QuasiNewton)
    assert "target_search" not in SETTINGS.model_dump()  # so that older rounds keep their digest
    assert chosen.model_dump()["target_search"] == "lbfgs"


def test_adam_steps_as_published_with_any_momentum() -> None:
    settings = SETTINGS.with_changes(target_momentum=0.6, target_learning_rate=0.1)
    loss, _ = quadratic()
    found, _ = run(Adam(states(), settings), loss, 4)
    point = torch.zeros(EDITS, SIZE, dtype=torch.float64, requires_grad=True)
    mean, square = torch.zeros(2, EDITS, SIZE, dtype=torch.float64)
    for step in range(1, 5):  # Kingma and Ba, algorithm 1
        (slope,) = torch.autograd.grad(loss(point).sum(), point)
        mean = 0.6 * mean + 0.4 * slope
        square = 0.999 * square + 0.001 * slope**2
        change = (mean / (1 - 0.6**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        point = (point - 0.1 * change).detach().requires_grad_()
    torch.testing.assert_close(found, point.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("exact_arithmetic")
def test_reaches_a_models_losses_in_fewer_evaluations(exact_llama: LanguageModel) -> None:
    settings = Hyperparameters(layers=(1, 2), target_steps=25, clamp_factor=4.0, loss_threshold=0.0)
    find = partial(optimise_targets, exact_llama, REQUESTS, CONTEXTS, quick=False)
    usual = find(settings)
    short = find(settings.with_changes(target_search="lbfgs", target_steps=12))
    for request, before, after in zip(REQUESTS, usual.T, short.T, strict=True):
        lower = plain_loss(exact_llama, request, CONTEXTS, settings, after)
        assert lower < 1.02 * plain_loss(exact_llama, request, CONTEXTS, settings, before)
