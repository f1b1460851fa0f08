"""ROC curves of an audit."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from collabedit.errors import MissingExtraError
from collabedit.files import atomic_path
from collabedit.privacy.audit import Curve

__all__ = ["Plotted", "save_roc"]


class Plotted(Protocol):
    """The parts of a finding that are drawn."""

    @property
    def attack(self) -> str:
        """Its name."""

    @property
    def question(self) -> str:
        """The attack's question."""

    @property
    def source(self) -> str:
        """The attacked files."""

    @property
    def curve(self) -> Curve:
        """Its ROC curve."""


def save_roc(findings: Sequence[Plotted], path: Path) -> None:
    """Draw the curves as a PNG, false positives on a logarithmic scale.

    Raises:
        MissingExtraError: without matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot", "a plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained", dpi=120)
    axes = figure.subplots()
    for finding in findings:
        label = f"{finding.attack}, {finding.question}, {finding.source}"
        curve = finding.curve
        axes.step(curve.false_positives, curve.true_positives, where="post", label=label)
    axes.plot([1e-3, 1], [1e-3, 1], color="grey", linestyle=":", label="guessing")
    axes.set_xscale("symlog", linthresh=1e-3)
    axes.set_xlabel("false-positive rate")
    axes.set_ylabel("true-positive rate")
    figure.legend(loc="outside lower center", fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    path.chmod(0o644)
