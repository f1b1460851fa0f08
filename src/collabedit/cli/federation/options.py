"""Options that the commands of a federation share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CoordinatorOption = Annotated[
    Path,
    typer.Option("--kit", help="The folder 'coordinator' that 'federation init' made."),
]
RoundsOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the rounds: ledgers, deltas, reports.")
]
