"""Norm-Anchor Scaling (NAS): values with the norm of the unedited model's (Liu et al., 2026).

A target ``z`` is the hidden state that an edit is to reach. For that, the edited projections have
to output the *value* ``v = v0 + (z - h)``, where ``v0`` is the last projection's current output and
``h`` the current hidden state. In long runs values and weights drive each other's norms up; NAS
breaks that by giving each value the anchor's norm, and drops an edit whose value is more than twice
as long.

The anchor is one number for all parties and rounds, kept in the round's settings: if each party
took the mean over its own edits, the merged edit would depend on how the edits are split.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from collabedit.editing.keys import measure
from collabedit.editing.targets import Solve, TargetCache, optimise_targets
from collabedit.editors import Contexts, Hyperparameters, bare_contexts
from collabedit.errors import InputError
from collabedit.models.language_model import LanguageModel
from collabedit.requests import EditRequest

__all__ = ["anchored", "find_targets", "measured_anchor"]

logger = logging.getLogger(__name__)

#: A value longer than this many anchors is not a solution worth writing.
_MOST_ANCHORS = 2.0
#: Share of the longest values that the anchor's mean leaves out.
_LEFT_OUT = 0.05


def find_targets(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    settings: Hyperparameters,
    *,
    cache: TargetCache | None = None,
    solve: Solve | None = None,
    owners: Sequence[int] | None = None,
) -> Tensor:
    """The targets of an editor that searches for them, scaled where the settings have an anchor.

    Args:
        model: the model in its current state.
        requests: ``n`` edits.
        contexts: template groups.
        settings: of the search, and the anchor.
        cache: where targets are looked up and stored.
        solve: computes the targets elsewhere, such as on workers.
        owners: the number of each edit's party, ``n`` of them; one party by default.

    Returns:
        ``Z [d_out, n]``, float32, on the CPU.

    Raises:
        RequestError: when a text is too long for the model, or has a token that it does not know.
        InputError: when the anchor has not been measured yet.
    """
    targets = optimise_targets(
        model, requests, contexts, settings, cache=cache, solve=solve, owners=owners
    )
    if settings.norm_anchor is None:
        return targets
    if settings.norm_anchor == 0:
        raise InputError(
            "norm_anchor has not been measured; open the round with new_round (collabedit round "
            "new), which measures it"
        )
    hidden, output = _states(model, requests, settings)
    return anchored(targets.double(), hidden, output, settings.norm_anchor).to(targets.dtype)


def anchored(targets: Tensor, hidden: Tensor, output: Tensor, anchor: float) -> Tensor:
    """Targets whose values have the anchor's norm; an edit with too long a value is dropped.

    Args:
        targets: ``Z [d_out, n]`` as the search found them.
        hidden: ``[d_out, n]``, the current hidden states, which become the targets of dropped
            edits.
        output: ``[d_out, n]``, the current output of the last edited projection.
        anchor: the norm.
    """
    values = output + (targets - hidden)
    norms = values.norm(dim=0)
    dropped = norms > _MOST_ANCHORS * anchor
    if count := int(dropped.sum()):
        logger.warning(
            "%d of %d edits are dropped because their values are more than %g times as long "
            "as norm_anchor (%.4g); lower clamp_factor",
            count,
            len(norms),
            _MOST_ANCHORS,
            anchor,
        )
    scaled = values * (anchor / norms.clamp(min=1e-10))  # a value of zero stays as it is
    moved = hidden + (scaled - output)
    return torch.where(dropped, hidden, moved)


def measured_anchor(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    settings: Hyperparameters,
    cache: TargetCache | None = None,
) -> float:
    """The mean norm of the values that the search finds for some edits, without the longest.

    Args:
        model: the unedited model.
        requests: edits that need not stay private.
        contexts: template groups.
        settings: of the search.
        cache: where targets are looked up and stored.
    """
    targets = optimise_targets(model, requests, contexts, settings, cache=cache).double()
    hidden, output = _states(model, requests, settings)
    norms = (output + (targets - hidden)).norm(dim=0).sort().values
    return float(norms[: len(norms) - int(_LEFT_OUT * len(norms))].mean())


def _states(
    model: LanguageModel, requests: Sequence[EditRequest], settings: Hyperparameters
) -> tuple[Tensor, Tensor]:
    """Hidden states and outputs of the last edited projection at the subjects' last tokens."""
    layer = settings.layers[-1]
    measured = measure(model, requests, bare_contexts(), [layer], layer)
    output = model.weight(model.structure.weight_name(layer)).detach().cpu().double()
    output = output @ measured.keys[layer]
    bias: Tensor | None = getattr(model.projection(layer), "bias", None)
    if bias is not None:
        output = output + bias.detach().cpu().double().unsqueeze(1)
    return measured.hidden, output
