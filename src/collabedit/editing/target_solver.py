"""The search for the targets of one batch of edits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from collabedit.editing.target_searches import search_of
from collabedit.editing.text_groups import Passes, Text, TextGroup, regrouped
from collabedit.editors import Hyperparameters
from collabedit.progress import Progress

__all__ = ["TargetSolver"]


class TargetSolver:
    """Optimises the targets of a batch of edits together; edits that begin alike share a target.

    Args:
        model: how the model runs texts with changes at the subjects.
        contexts: for each context, the edits' texts in it; the weights of an edit's texts sum to 1.
        kept: likewise, the texts in which the next token must not change.
        initial: ``[edits, d_out]``, the unedited hidden states, float32.
        settings: steps, rates and factors.
        max_tokens: tokens in one forward and backward pass.
    """

    def __init__(
        self,
        model: Passes[Any],
        contexts: Sequence[Sequence[Text]],
        kept: Sequence[Sequence[Text]],
        initial: Tensor,
        settings: Hyperparameters,
        max_tokens: int,
    ) -> None:
        self.model = model
        self.initial = initial
        self.settings = settings
        self.stops_early = settings.target_stop == "argmax"
        self.max_tokens = max_tokens
        kept_groups = [group for texts in kept for group in model.start(texts, max_tokens)]
        self.kept_rows = _rows_of([text for texts in kept for text in texts])
        self.unchanged = self._distributions(kept_groups)
        changing = [group for texts in contexts for group in model.start(texts, max_tokens)]
        self.groups = regrouped([*kept_groups, *changing], range(len(initial)), max_tokens)

    def run(self, bar: Progress, sizes: Sequence[int]) -> Tensor:
        """Optimise all edits; returns the changes ``[edits, d_out]`` of their hidden states.

        Args:
            bar: advances with every step by a fraction of each edit, and by the rest of finished
                ones.
            sizes: how many edits each of them stands for.
        """
        settings = self.settings
        search = search_of(self.initial, settings)
        changes = torch.zeros_like(self.initial)
        active = set(range(len(changes)))
        for step in range(settings.target_steps):
            last = step == settings.target_steps - 1
            loss = self._loss(search.point, backward=not last)
            reached = self._reached(loss).tolist()
            finished = [edit for edit in sorted(active) if last or reached[edit]]
            left = (settings.target_steps - step) * sum(sizes[edit] for edit in finished)
            going = sum(sizes[edit] for edit in active.difference(finished))
            bar.advance((going + left) / settings.target_steps)
            if finished:
                points = search.best(loss) if last else search.point.detach()
                changes[finished] = points[finished]
                active.difference_update(finished)
            if not active:
                break
            search.move(loss)
            if finished:
                self.groups = regrouped(self.groups, active, self.max_tokens)
        return changes

    def _reached(self, loss: Tensor) -> Tensor:
        """Which edits need no more steps ``[edits]``, given their ``loss [edits]`` after a pass."""
        below = loss < self.settings.loss_threshold
        return below | (self.unmet == 0) if self.stops_early else below

    def _loss(self, delta: Tensor, *, backward: bool) -> Tensor:
        """Loss of each edit ``[edits]``; its gradient accumulates in ``delta``."""
        self.unmet = torch.zeros_like(self.initial[:, 0], dtype=torch.long)
        size = delta.norm(dim=1) / self.initial.norm(dim=1) ** 2
        decay = self.settings.target_weight_decay * size
        if backward:
            decay.sum().backward()
        total: Tensor = decay.detach()
        for group in self.groups:
            with torch.set_grad_enabled(backward):
                part = self._group_loss(group, delta)
                if backward:
                    part.sum().backward()
            total = total + part.detach()
        return total

    def _group_loss(self, group: TextGroup, delta: Tensor) -> Tensor:
        """What a group's texts add to each edit's loss ``[edits]``."""
        logits = self.model.logits(group, delta[group.edit])
        sizes = [len(group.target_ids), len(logits) - len(group.target_ids)]
        edit, kept_edit = group.edit[group.rows].split(sizes)
        predicted, kept = logits.split(sizes)
        if self.stops_early:
            unlikely = predicted.argmax(dim=-1) != group.target_ids
            self.unmet.index_add_(0, edit, unlikely.long())
        missing = cross_entropy(predicted.float(), group.target_ids, reduction="none")
        now = kept.float().log_softmax(dim=-1)
        before = self.unchanged[self._rows(group)]
        moved = kl_div(before, now, log_target=True, reduction="none")
        return (
            torch.zeros_like(self.initial[:, 0])
            .index_add(0, edit, missing * group.shares)
            .index_add(0, kept_edit, moved.sum(dim=1), alpha=self.settings.kl_factor)
        )

    @torch.no_grad()
    def _distributions(self, groups: Sequence[TextGroup]) -> Tensor:
        """Log-probabilities ``[n, vocabulary]`` where texts must not change, row by row."""
        logits = torch.cat([self.model.logits(group) for group in groups])
        rows = [row for group in groups for row in self._rows(group)]
        ordered = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
        ordered[rows] = logits.float().log_softmax(dim=-1)
        return ordered

    def _rows(self, group: TextGroup) -> list[int]:
        """The rows of a group's kept texts in the distributions, in the order of its logits."""
        kept = [text for text in group.texts if not text.target_ids]
        return [row for text in kept for row in self.kept_rows[text]]


def _rows_of(kept: Sequence[Text]) -> dict[Text, range]:
    """For each text, as many rows as it has positions that must not change."""
    ends = list(accumulate((text.keeps for text in kept), initial=0))
    return {text: range(*ends[index : index + 2]) for index, text in enumerate(kept)}
