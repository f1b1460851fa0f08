"""``collabedit federation party join``: take part in rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli.options import (
    DeviceOption,
    NoCacheOption,
    RosterOption,
    SkipBadOption,
    SkipKnownOption,
    TrustOption,
)


def join(
    requests: Annotated[
        Path,
        typer.Option("--requests", "-r", help="Your edits, in any common format; they stay here."),
    ],
    kit: Annotated[Path, typer.Option(help="Your start-up kit from the coordinator.")] = Path(
        "kit"
    ),
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Path of the model here, if not as the round says."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the deltas of accepted rounds.")
    ] = Path("deltas"),
    skip_known: SkipKnownOption = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            help="Secure aggregation: your key, from 'collabedit round key'. With it, you also "
            "take part in rounds in which the coordinator learns only sums."
        ),
    ] = None,
    roster: RosterOption = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    skip_bad: SkipBadOption = False,
    no_cache: NoCacheOption = False,
) -> None:
    """Connect to the coordinator and take part in every round until Ctrl-C.

    Only statistics of the edits and votes on merged deltas leave this machine, no text.
    """
    from collabedit.federation.joining import run_client
    from collabedit.federation.settings import MemberSettings
    from collabedit.parties import checked_threshold
    from collabedit.requests import load_records
    from collabedit.transports.flare import require_flare
    from collabedit.transports.flare.kits import Kit

    require_flare()
    own = Kit.of(kit)
    records = load_records(requests, skip_bad=skip_bad)  # fail now, not during a round
    settings = MemberSettings(
        requests=requests.resolve(),
        model=str(Path(model).resolve()) if model and Path(model).exists() else model,
        out=out.resolve(),
        device=device,
        skip_known=checked_threshold(skip_known),
        skip_bad=skip_bad,
        trust_remote_code=trust_remote_code,
        cache=not no_cache,
        identity=None if identity is None else identity.resolve(),
        roster=None if roster is None else roster.resolve(),
    )
    print(f"{own.name}: {len(records)} edits; connecting to {own.target}", flush=True)
    raise typer.Exit(run_client(own, settings))
