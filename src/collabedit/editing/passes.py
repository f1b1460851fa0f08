"""Chooses how a model runs texts: in the short way if it allows that, or in the plain one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from collabedit.editing.suffixes import SuffixModel
from collabedit.editing.text_groups import Passes, Text, WholeModel
from collabedit.models.language_model import LanguageModel
from collabedit.progress import say

__all__ = ["quickest_passes"]

logger = logging.getLogger(__name__)

#: How far logits may be off, relative to their spread, where products keep 24 bits (10 in
#: TF32), or 8.
_EXACT_TOLERANCE, _ROUNDED_TOLERANCE = 1e-2, 0.4


def quickest_passes(
    model: LanguageModel,
    quick: LanguageModel,
    layer: int,
    sample: Sequence[Text],
    sizes: Tensor,
    max_tokens: int,
) -> Passes[Any]:
    """The fastest way to run texts that reproduces the logits of plain passes on the model.

    Each way is tried on a few texts, unchanged and changed. A line says so if it is not the usual
    one.

    Args:
        model: the model.
        quick: a quick copy of it, or the model itself.
        layer: the changed layer.
        sample: texts of edits ``0, 1, ...``.
        sizes: ``[edits]``, lengths of the changes to try.
        max_tokens: tokens of one pass.
    """
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(len(sizes), model.structure.hidden_size, generator=generator)
    change *= (sizes.cpu() / change.norm(dim=1))[:, None]
    change = change.to(sizes.device)

    def tried(passes: Passes[Any]) -> tuple[Tensor, Tensor]:
        return _tried(passes, sample, change, max_tokens)

    expected = tried(WholeModel(model, layer))
    exact = model.dtype in (torch.float32, torch.float64)
    tolerance = _EXACT_TOLERANCE if exact else _ROUNDED_TOLERANCE
    kind: type[SuffixModel | WholeModel] = SuffixModel
    if not _agrees(lambda: tried(SuffixModel(model, layer)), expected, tolerance):
        kind = WholeModel
        say(
            f"{model.name}: targets take longer than usual because this architecture cannot be "
            "entered at the subject; every step runs whole texts."
        )
    if quick is not model:
        if _agrees(lambda: tried(kind(quick, layer)), expected, _ROUNDED_TOLERANCE):
            return kind(quick, layer)
        say(f"{model.name}: targets take longer than usual because its quick copy differs.")
    return kind(model, layer)


@torch.no_grad()
def _tried(
    passes: Passes[Any], texts: Sequence[Text], change: Tensor, max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Logits and how a change moves them, ``[n, vocabulary]``, in an order set by the texts."""
    results: list[tuple[tuple[int, tuple[int, ...]], Tensor, Tensor]] = []
    for group in passes.start(texts, max_tokens):
        usual = passes.logits(group).double()
        moved = passes.logits(group, change[group.edit]).double() - usual
        keys = [(group.texts[row].edit, group.texts[row].ids) for row in group.rows.tolist()]
        results += zip(keys, usual, moved, strict=True)
    results.sort(key=lambda item: item[0])  # stable: positions of one text stay in order
    return torch.stack([item[1] for item in results]), torch.stack([item[2] for item in results])


def _agrees(
    run: Callable[[], tuple[Tensor, Tensor]], expected: tuple[Tensor, Tensor], tolerance: float
) -> bool:
    """Whether logits, and what a change does to them, are as expected."""
    try:
        results = run()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever an architecture does with a state that is not its own
        logger.debug("the shorter way fails", exc_info=True)
        return False
    errors = [
        float((a - b).norm() / (b - b.mean(dim=1, keepdim=True)).norm())
        for a, b in zip(results, expected, strict=True)
    ]
    logger.debug("the shorter way differs by %s of the logits and their moves", errors)
    return all(error <= tolerance for error in errors)
