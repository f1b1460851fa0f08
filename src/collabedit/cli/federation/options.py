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
LeastPartiesOption = Annotated[
    int, typer.Option("--min-parties", min=1, help="With fewer, a round stops, nothing merged.")
]
WaitOption = Annotated[
    float, typer.Option(help="Seconds to wait until so many parties are connected.")
]
TimeoutOption = Annotated[
    float, typer.Option(min=1, help="Seconds that an exchange waits for answers.")
]
