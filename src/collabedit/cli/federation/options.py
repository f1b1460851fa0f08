"""Options that the commands of a federation share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CoordinatorOption = Annotated[
    Path,
    typer.Option("--kit", help="The 'coordinator' folder that 'federation init' made."),
]
RoundsOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the rounds: ledgers, deltas, reports.")
]
LeastPartiesOption = Annotated[
    int,
    typer.Option(
        "--min-parties", min=1, help="With fewer parties, a round stops and nothing is merged."
    ),
]
WaitOption = Annotated[
    float, typer.Option(help="How long to wait for that many parties to connect, in seconds.")
]
TimeoutOption = Annotated[
    float, typer.Option(min=1, help="How long an exchange waits for answers, in seconds.")
]
