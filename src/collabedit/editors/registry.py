"""The editors: one row each; nothing else in the package refers to an editor by name.

The closed-form editors are one least-squares problem. With keys ``K``, residuals ``R`` and a prior
``A0``, in the notation of :mod:`collabedit.algebra`, an editor chooses

- the prior: ``lambda C``, or ``lambda_2 I`` on the near-null space of ``C``;
- the ridge ``e``: 1 balances the edits against the prior, 0 satisfies them exactly;
- the share of the residual that each layer takes.

The statistics of edits are the same for all editors, so all of them merge without loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from collabedit.editors.priors import CovariancePrior, IdentityPrior, NullSpacePrior, PriorSpec
from collabedit.errors import InputError
from collabedit.names import Registry

if TYPE_CHECKING:
    from collabedit.editors.hyperparameters import Hyperparameters

__all__ = [
    "DEFAULT_EDITOR",
    "Editor",
    "Procedure",
    "editors",
    "register_editor",
    "resolve_editor",
]


class Procedure(Enum):
    """How an editor processes the edits of a round."""

    TOGETHER = "together"
    """All at once, in closed form, with targets found on the unedited model."""

    GRADIENTS = "gradients"
    """All at once, in closed form, from one backward pass on the unedited model; the parties first
    agree on a normaliser of their features."""

    ONE_BY_ONE = "one by one"
    """In closed form, each edit on the model after the previous one."""

    FINE_TUNING = "fine-tuning"
    """By gradient descent; there are no statistics to merge."""


def _covariance_prior(settings: Hyperparameters) -> PriorSpec:
    return CovariancePrior(settings.prior_weight, settings.norm_weight)


def _rome_prior(settings: Hyperparameters) -> PriorSpec:
    """ROME's ``u = C^-1 k``, or ``u = k`` without the adjustment (its ``compute_u.py``)."""
    if settings.covariance_adjustment:
        return _covariance_prior(settings)
    return IdentityPrior(settings.prior_weight)


def _null_space_prior(settings: Hyperparameters) -> PriorSpec:
    return NullSpacePrior(settings.null_space_threshold, settings.null_space_weight)


def _identity_prior(_: Hyperparameters) -> PriorSpec:
    return IdentityPrior()


@dataclass(frozen=True)
class Editor:
    """A way to turn edits into a change of the weights.

    Attributes:
        name: as written in results.
        summary: what it does, in a line, and where it is published.
        reference: address of the paper.
        procedure: how it processes the edits of a round.
        prior_spec: derives from the settings what it protects; unused in fine-tuning.
        weight_setting: the setting that weighs what is protected against the edits.
        ridge: ``e`` in ``Delta = G (e I + F^T A0^-1 F)^+ F^T A0^-1``: 1 weighs the edits against
            the prior, 0 satisfies them exactly.
        spread: ``s`` in the share ``1 / (L - i)^s`` that layer ``i`` of ``L`` takes of the residual
            left by the layers below.
        single_layer: whether it edits one layer only.
        beta: weight of the keys of finished rounds in the prior, unless the user says otherwise.
    """

    name: str
    summary: str
    reference: str = ""
    procedure: Procedure = Procedure.TOGETHER
    prior_spec: Callable[[Hyperparameters], PriorSpec] = _covariance_prior
    weight_setting: str = "prior_weight"
    ridge: float = 1.0
    spread: float = 1.0
    single_layer: bool = False
    beta: float = 10.0

    @property
    def has_statistics(self) -> bool:
        """Whether it has a closed form in statistics that parties can send."""
        return self.procedure is not Procedure.FINE_TUNING

    @property
    def at_once(self) -> bool:
        """Whether all edits of a round are one problem, with targets on the unedited model."""
        return self.procedure is Procedure.TOGETHER

    @property
    def normalises(self) -> bool:
        """Whether the parties first agree on a normaliser of their features."""
        return self.procedure is Procedure.GRADIENTS

    @property
    def has_targets(self) -> bool:
        """Whether it searches for targets."""
        return self.procedure in (Procedure.TOGETHER, Procedure.ONE_BY_ONE)

    def needs_covariance(self, settings: Hyperparameters) -> bool:
        """Whether its prior depends on ordinary text."""
        return self.has_statistics and self.prior_spec(settings).needs_covariance

    def share(self, index: int, count: int) -> float:
        """Share of the residual that the ``index``-th of ``count`` layers takes, from 0."""
        return 1 / math.pow(count - index, self.spread)

    def ridge_of(self, settings: Hyperparameters) -> float:
        """``e`` under these settings, which may relax the equality of edits made together."""
        soft = settings.equality_ridge if self.ridge == 0 and self.at_once else None
        return self.ridge if soft is None else soft

    def check(self, settings: Hyperparameters) -> None:
        """Check that it can edit with these settings.

        Raises:
            InputError: when they give several layers but it edits only one, or a norm anchor
                although it searches for no targets.
        """
        if self.single_layer and len(settings.layers) > 1:
            raise InputError(
                f"{self.name} edits a single layer, and the hyper-parameters give "
                f"{list(settings.layers)}; give one of them"
            )
        if settings.norm_anchor is not None and not self.has_targets:
            raise InputError(
                f"{self.name} searches for no targets, so norm_anchor has nothing to scale; "
                "remove it from the hyper-parameters"
            )


#: The default editor.
DEFAULT_EDITOR = "MEMIT"

_EDITORS: Registry[Editor] = Registry("editor")


def register_editor(editor: Editor) -> Editor:
    """Add an editor to the registry; names are case-insensitive."""
    _EDITORS.add(editor.name, editor)
    return editor


for _editor in (
    Editor(
        "MEMIT",
        "Least squares over all edits and ordinary text (Meng et al., 2023).",
        "https://arxiv.org/abs/2210.07229",
    ),
    Editor(
        "PMET",
        "MEMIT with shares of the residual by the square root (Li et al., 2024).",
        "https://arxiv.org/abs/2308.08742",
        spread=0.5,
    ),
    Editor(
        "EMMET",
        "Every edit satisfied exactly, at the least cost to ordinary text (Gupta et al., 2024).",
        "https://arxiv.org/abs/2403.14236",
        ridge=0.0,
    ),
    Editor(
        "ROME",
        "One edit at a time, satisfied exactly, in one layer (Meng et al., 2022).",
        "https://arxiv.org/abs/2202.05262",
        procedure=Procedure.ONE_BY_ONE,
        prior_spec=_rome_prior,
        ridge=0.0,
        single_layer=True,
    ),
    Editor(
        "AlphaEdit",
        "No change in the directions of ordinary text: null-space projection (Fang et al., 2025).",
        "https://arxiv.org/abs/2410.02355",
        prior_spec=_null_space_prior,
        weight_setting="null_space_weight",
        beta=1.0,  # the paper and its code add past keys unweighted
    ),
    Editor(
        "UltraEdit",
        "Least squares from normalised gradients, with no search for targets (Gu et al., 2025).",
        "https://arxiv.org/abs/2505.14679",
        procedure=Procedure.GRADIENTS,
        prior_spec=_identity_prior,
        beta=0.0,  # the paper keeps only the normaliser from earlier rounds
    ),
    Editor(
        "FT-L",
        "Fine-tuning of one layer, each weight within a bound (Zhu et al., 2020).",
        "https://arxiv.org/abs/2012.00363",
        procedure=Procedure.FINE_TUNING,
        single_layer=True,
    ),
    Editor(
        "LocFT-BF",
        "Fine-tuning of one layer in mini-batches, to the end token (Yang et al., 2025).",
        "https://arxiv.org/abs/2509.22072",
        procedure=Procedure.FINE_TUNING,
        single_layer=True,
    ),
):
    register_editor(_editor)


def editors() -> list[Editor]:
    """All editors."""
    return list(_EDITORS)


def resolve_editor(name: str) -> Editor:
    """The editor with a name, case-insensitive.

    Raises:
        UnknownNameError: when there is none; the message lists the known ones.
    """
    return _EDITORS.find(name)
