"""``collabedit federation demo``: a whole deployment on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import ModelOption, SeedOption


def demo(
    parties: Annotated[int, typer.Option("--parties", "-p", min=2, help="Number of parties.")] = 3,
    edits_per_party: Annotated[
        int, typer.Option("--edits-per-party", "-n", min=1, help="Number of facts of each party.")
    ] = 4,
    model: ModelOption = default_of("model"),
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the deployment; must not exist yet.")
    ] = Path("results/federation-demo"),
    schedule: Annotated[
        str, typer.Option(help="layerwise, one-shot, or both, with one round in each.")
    ] = "both",
    seed: SeedOption = default_of("seed"),
) -> None:
    """Run a federation on this machine: separate processes, certificates, mutual TLS, real rounds.

    Compares its deltas bit for bit with those of the same parties in one process.
    """
    from collabedit.federation.demo import DemoSettings, run_demo
    from collabedit.messages import Schedule, parse_schedule
    from collabedit.transports.flare import require_flare

    require_flare()
    schedules = list(Schedule) if schedule == "both" else [parse_schedule(schedule)]
    settings = DemoSettings(
        model=model, parties=parties, edits_per_party=edits_per_party, seed=seed
    )
    raise typer.Exit(run_demo(out, settings, schedules))
