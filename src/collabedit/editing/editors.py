"""The editors: one row each, and nothing else in the package asks for an editor by its name.

In closed form they are one least-squares problem. With keys ``K``, residuals ``R`` and a prior
``A0``, and the notation of :mod:`collabedit.algebra`, an editor chooses

- the prior: ``lambda C``, or ``lambda_2 I`` on the near-null space of ``C``;
- the ridge ``e``: 1 weighs the edits against the prior, 0 makes them hold exactly;
- the share of the residual that each layer takes.

The statistics of edits are the same for all of them, so that all merge without loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from collabedit.editing.hyperparameters import Hyperparameters
from collabedit.errors import InputError, UnknownNameError

__all__ = ["DEFAULT_EDITOR", "Editor", "PriorKind", "editors", "resolve_editor"]


class PriorKind(Enum):
    """What an editor keeps of what the model knows."""

    COVARIANCE = "covariance"
    """``lambda C``: a change costs as much as it moves the outputs on ordinary text."""

    NULL_SPACE = "null space"
    """``lambda_2 I`` on the directions that ordinary text hardly uses; no change in the others."""


@dataclass(frozen=True)
class Editor:
    """A way to turn edits into a change of the weights.

    Attributes:
        name: as it is written in results.
        summary: what it does, in a line, and where it is published.
        prior: what it keeps; ``None`` for an editor without a closed form.
        ridge: ``e`` in ``Delta = G (e I + F^T A0^-1 F)^+ F^T A0^-1``.
        spread: ``s`` in the share ``1 / (L - i)^s`` of the residual that layer ``i`` of ``L`` takes
            of what the layers below have left.
        single_layer: whether it edits one layer only.
        one_at_a_time: whether each edit is made on the model that the one before it left.
    """

    name: str
    summary: str
    prior: PriorKind | None = PriorKind.COVARIANCE
    ridge: float = 1.0
    spread: float = 1.0
    single_layer: bool = False
    one_at_a_time: bool = False

    @property
    def has_statistics(self) -> bool:
        """Whether it is a closed form, of statistics that parties can send."""
        return self.prior is not None

    @property
    def at_once(self) -> bool:
        """Whether all edits of a round are one problem, with targets on the unedited model."""
        return self.has_statistics and not self.one_at_a_time

    def share(self, index: int, count: int) -> float:
        """Share of the residual that the ``index``-th of ``count`` layers takes, from 0."""
        return 1 / math.pow(count - index, self.spread)

    def ridge_of(self, settings: Hyperparameters) -> float:
        """``e`` under these settings, which may soften the equality of edits made together."""
        soft = settings.equality_ridge if self.ridge == 0 and self.at_once else None
        return self.ridge if soft is None else soft

    def check(self, settings: Hyperparameters) -> None:
        """Check that the settings are some that it can edit with.

        Raises:
            InputError: when they give several layers and it edits one.
        """
        if self.single_layer and len(settings.layers) > 1:
            raise InputError(
                f"{self.name} edits a single layer, and the hyper-parameters give "
                f"{list(settings.layers)}; give one of them"
            )


DEFAULT_EDITOR = "MEMIT"

_EDITORS = {
    editor.name.lower(): editor
    for editor in (
        Editor("MEMIT", "Least squares over all edits and ordinary text (Meng et al., 2023)."),
        Editor(
            "PMET",
            "MEMIT with shares of the residual by the square root (Li et al., 2024).",
            spread=0.5,
        ),
        Editor(
            "EMMET",
            "All edits hold exactly, at the least change for ordinary text (Gupta et al., 2024).",
            ridge=0.0,
        ),
        Editor(
            "ROME",
            "One edit at a time, held exactly, in one layer (Meng et al., 2022).",
            ridge=0.0,
            single_layer=True,
            one_at_a_time=True,
        ),
        Editor(
            "AlphaEdit",
            "No change where ordinary text is: null-space projection (Fang et al., 2025).",
            prior=PriorKind.NULL_SPACE,
        ),
        Editor(
            "FT-L",
            "Fine-tuning of one layer, each weight within a bound (Zhu et al., 2020).",
            prior=None,
            single_layer=True,
        ),
    )
}


def editors() -> list[Editor]:
    """All editors."""
    return list(_EDITORS.values())


def resolve_editor(name: str) -> Editor:
    """The editor of a name, in any case of letters.

    Raises:
        UnknownNameError: when there is none; the message lists those that are.
    """
    editor = _EDITORS.get(name.strip().lower())
    if editor is None:
        raise UnknownNameError("editor", name, [editor.name for editor in editors()])
    return editor
