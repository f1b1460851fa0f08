"""``collabedit run augmentation``: conflicts resolved by augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.run.study import study

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from collabedit.experiments import Run

__all__ = ["augmentation"]


@study("augmentation", "AugmentationSettings")
def augmentation(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    wordings: Annotated[
        Path | None,
        typer.Option(help="JSON file of other prompts by relation id, for round-edit records."),
    ],
    augment_objects: Annotated[
        bool,
        typer.Option(
            "--objects/--no-objects",
            help="Augment with the further true objects of round-edit records.",
        ),
    ],
    augment_prompts: Annotated[
        bool,
        typer.Option("--prompts/--no-prompts", help="Augment with other wordings of the prompt."),
    ],
    beta: Annotated[float, typer.Option(help="Weight of earlier rounds' keys in the prior.")],
) -> Run:
    """Resolve conflicts by augmentation: edit the preferred answer in many forms.

    There are three rounds: an edit; its reversal, while as many other parties make a conflicting
    edit; and the preferred answer with further true objects and other wordings. --dataset takes
    round-edit records or any CounterFact records.
    """
    from collabedit.experiments import AugmentationSettings, augmentation

    settings = AugmentationSettings.checked(
        **common,
        wordings=wordings,
        augment_objects=augment_objects,
        augment_prompts=augment_prompts,
        beta=beta,
    )
    return augmentation(settings, results, fresh=fresh, executor=executor)
