"""Ways to minimise the losses of many targets at once, each over its own change."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from collabedit.editors import Hyperparameters

__all__ = ["Adam", "QuasiNewton", "Search", "search_of"]

#: Pairs of steps and gradient changes from which the curvature is estimated.
_PAIRS = 10
#: Length of the first step as a share of the hidden state's, and the factors on the bound on steps
#: after a step that lowered the loss, and after one that did not.
_FIRST_STEP, _LONGER, _SHORTER = 0.15, 1.7, 0.35
#: How near the ball's surface a change counts as lying on it, as a share of the radius.
_SURFACE = 1e-4
#: Least cosine between a step and the change of the gradient over it, for the pair to be kept.
_LEAST_COSINE = 1e-10


class Search(Protocol):
    """A search by evaluations of losses and gradients.

    Attributes:
        point: ``[edits, d_out]``, the changes to evaluate next; gradients gather in its ``grad``.
    """

    point: Tensor

    def move(self, loss: Tensor) -> None:
        """Choose the next ``point``, given the ``loss [edits]`` and ``grad`` of this one."""

    def best(self, loss: Tensor) -> Tensor:
        """The changes ``[edits, d_out]`` to end with, given the ``loss [edits]`` of ``point``."""


def search_of(initial: Tensor, settings: Hyperparameters) -> Search:
    """The search that the settings ask for, from the unedited hidden states ``[edits, d_out]``."""
    kind = QuasiNewton if settings.target_search == "lbfgs" else Adam
    return kind(initial, settings)


class Adam:
    """Adam, as in ROME and MEMIT, within a ball around the unedited states.

    Args:
        initial: ``[edits, d_out]``, the unedited hidden states.
        settings: the rate, the momentum, and the ball's radius.
    """

    def __init__(self, initial: Tensor, settings: Hyperparameters) -> None:
        self.point = torch.zeros_like(initial, requires_grad=True)
        self._limit = settings.clamp_factor * initial.norm(dim=1, keepdim=True)
        self._optimizer = torch.optim.Adam(
            [self.point],
            lr=settings.target_learning_rate,
            betas=(settings.target_momentum, 0.999),
        )

    @torch.no_grad()
    def move(self, loss: Tensor) -> None:
        """One step."""
        self._optimizer.step()
        self._optimizer.zero_grad()
        _clamp(self.point, self._limit)

    def best(self, loss: Tensor) -> Tensor:
        """The current point: the papers take the last change."""
        return self.point.detach()


class QuasiNewton:
    """L-BFGS with a bound on each edit's steps, within the same ball.

    The direction is that of the two-loop recursion (Nocedal and Wright, *Numerical Optimization*,
    2nd ed., algorithm 7.4) at the best change so far. There is no line search, since an evaluation
    costs as much as a step: a step that does not lower the loss is undone, the curvature that it
    revealed is kept, and the next one is shorter. So the loss never grows from one best change to
    the next. Steps that leave the ball end on its surface, and continue along it from there.

    Args:
        initial: ``[edits, d_out]``, the unedited hidden states.
        settings: the ball's radius.
    """

    def __init__(self, initial: Tensor, settings: Hyperparameters) -> None:
        edits, size = initial.shape
        norm = initial.norm(dim=1, keepdim=True)
        self.point = torch.zeros_like(initial, requires_grad=True)
        self._limit = settings.clamp_factor * norm
        self._bound = _FIRST_STEP * norm
        self._at, self._slope = torch.zeros_like(initial), torch.zeros_like(initial)
        self._lowest = torch.full_like(norm, torch.inf)
        # The latest pair is the last one; those that are not kept are empty and change nothing.
        self._steps = initial.new_zeros(_PAIRS, edits, size)
        self._turns = initial.new_zeros(_PAIRS, edits, size)
        self._kept = torch.zeros_like(self._steps[:, :, :1], dtype=torch.bool)

    @torch.no_grad()
    def move(self, loss: Tensor) -> None:
        """Record the point's loss and gradient, and choose the next point."""
        point, slope = self.point.detach().clone(), self._taken_slope()
        first = self._lowest.isinf()
        lower = loss[:, None] < self._lowest
        self._remember(torch.where(first, 0, point - self._at), slope - self._slope)
        grown = torch.where(lower, _LONGER * self._bound, _SHORTER * self._bound)
        self._bound = torch.where(first, self._bound, grown)
        self._at = torch.where(lower, point, self._at)
        self._slope = torch.where(lower, slope, self._slope)
        self._lowest = torch.where(lower, loss[:, None], self._lowest)
        step = self._direction()
        length = step.norm(dim=1, keepdim=True).clamp(min=1e-12)
        known = self._kept.any(dim=0)
        share = torch.where(known, (self._bound / length).clamp(max=1.0), self._bound / length)
        self.point.copy_(self._at + share * step)
        _clamp(self.point, self._limit)

    @torch.no_grad()
    def best(self, loss: Tensor) -> Tensor:
        """The change with the lowest loss."""
        return torch.where(loss[:, None] < self._lowest, self.point.detach(), self._at)

    def _direction(self) -> Tensor:
        """Where to go from the best change, along the ball's surface if the slope leads out of it.

        On the surface the slope that counts is that of the Lagrangian ``loss + m/2 |x|^2``, with
        the multiplier ``m`` that cancels its component across the surface; its curvature is that of
        the loss plus ``m``.
        """
        at, slope = self._at, self._slope
        outward = -(slope * at).sum(dim=1, keepdim=True)
        norm = at.norm(dim=1, keepdim=True)
        outside = (outward > 0) & (norm > (1 - _SURFACE) * self._limit)
        multiplier = torch.where(outside, outward / norm.clamp(min=1e-12) ** 2, 0)
        step = -self._towards(slope + multiplier * at, multiplier)
        across = (step * at).sum(dim=1, keepdim=True) / norm.clamp(min=1e-12) ** 2
        return step - torch.where(outside, across, 0) * at

    def _taken_slope(self) -> Tensor:
        slope, self.point.grad = self.point.grad, None
        assert slope is not None
        return slope

    def _remember(self, step: Tensor, turn: Tensor) -> None:
        """Keep a pair ``[edits, d_out]`` each where the loss curves upwards along the step."""
        product = (step * turn).sum(dim=1, keepdim=True)
        scale = step.norm(dim=1, keepdim=True) * turn.norm(dim=1, keepdim=True)
        upwards = product > _LEAST_COSINE * scale
        self._steps, self._turns, self._kept = (
            torch.where(upwards, torch.cat([pairs[1:], new[None]]), pairs)
            for pairs, new in (
                (self._steps, step),
                (self._turns, turn),
                (self._kept, upwards),
            )
        )

    def _towards(self, slope: Tensor, bend: Tensor) -> Tensor:
        """The inverse of the pairs' curvature plus ``bend``, times the slope."""
        direction = slope.clone()
        turns = self._turns + bend * self._steps
        products = (self._steps * turns).sum(dim=2, keepdim=True)
        weights = torch.where(self._kept, 1 / products, 0)
        pairs = list(zip(self._steps, turns, weights, strict=True))
        shares = []
        for step, turn, weight in reversed(pairs):
            share = weight * (step * direction).sum(dim=1, keepdim=True)
            direction -= share * turn
            shares.append(share)
        curvature = weights[-1] * (turns[-1] ** 2).sum(dim=1, keepdim=True)
        direction = torch.where(self._kept[-1], direction / curvature, direction)
        for (step, turn, weight), share in zip(pairs, reversed(shares), strict=True):
            back = weight * (turn * direction).sum(dim=1, keepdim=True)
            direction += (share - back) * step
        return direction


def _clamp(change: Tensor, limit: Tensor) -> None:
    """Shorten changes ``[edits, d_out]`` to at most ``limit [edits, 1]``."""
    norm = change.norm(dim=1, keepdim=True)
    change.mul_((limit / norm.clamp(min=1e-12)).clamp(max=1.0))
