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
    SumAgainOption,
    TrustOption,
)
from collabedit.cli.secure import require_roster


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
        typer.Option("--model", "-m", help="The model on this machine, if not as the round says."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the deltas of accepted rounds.")
    ] = Path("deltas"),
    skip_known: SkipKnownOption = None,
    fingerprint_key: Annotated[
        Path | None,
        typer.Option(
            help="The key that all parties share and the coordinator does not have. With it, you "
            "also take part in rounds that compare fingerprints of the parties' edits."
        ),
    ] = None,
    most_left_out: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Refuse a coordinator's decision that leaves out more than this share of your "
            "edits, unless it is all of them.",
        ),
    ] = 0.5,
    identity: Annotated[
        Path | None,
        typer.Option(
            help="Secure aggregation: your key, from 'collabedit round key'. With it, you take "
            "part only in rounds in which the coordinator learns nothing but sums; needs --roster."
        ),
    ] = None,
    roster: RosterOption = None,
    sum_again: SumAgainOption = False,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    skip_bad: SkipBadOption = False,
    no_cache: NoCacheOption = False,
) -> None:
    """Connect to the coordinator and take part in every round until Ctrl-C.

    Only statistics of the edits and votes on merged deltas leave this machine, never any text.
    """
    from collabedit.federation.joining import run_client
    from collabedit.federation.settings import MemberSettings
    from collabedit.parties import checked_threshold
    from collabedit.privacy import load_key
    from collabedit.requests import load_records
    from collabedit.transports.flare import require_flare
    from collabedit.transports.flare.kits import Kit

    require_flare()
    require_roster(identity, roster)
    start_up_kit = Kit.of(kit)
    records = load_records(requests, skip_bad=skip_bad)  # complain now rather than in a round
    if fingerprint_key is not None:
        load_key(fingerprint_key)
    settings = MemberSettings(
        requests=requests.resolve(),
        model=str(Path(model).resolve()) if model and Path(model).exists() else model,
        out=out.resolve(),
        device=device,
        skip_known=checked_threshold(skip_known),
        skip_bad=skip_bad,
        trust_remote_code=trust_remote_code,
        cache=not no_cache,
        fingerprint_key=None if fingerprint_key is None else fingerprint_key.resolve(),
        most_left_out=most_left_out,
        identity=None if identity is None else identity.resolve(),
        roster=None if roster is None else roster.resolve(),
        sum_again=sum_again,
    )
    name, target = start_up_kit.name, start_up_kit.target
    print(f"{name}: {len(records)} edits; connecting to {target}", flush=True)
    raise typer.Exit(run_client(start_up_kit, settings))
