"""``collabedit federation init``: identities and start-up kits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    parties: Annotated[
        list[str], typer.Argument(help="Names of the parties, such as hospital bank university.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the federation.")] = Path(
        "federation"
    ),
    host: Annotated[
        str,
        typer.Option(help="Host name at which parties reach the coordinator, not an IP address."),
    ] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The coordinator's port.")] = 8002,
    name: Annotated[str, typer.Option(help="Name of the federation.")] = "collabedit",
) -> None:
    """Create the identities of a federation: a certificate, a key and instructions per member.

    To add parties, run it again with the names of all; existing kits stay as they are.
    """
    from collabedit.federation.instructions import write_instructions
    from collabedit.transports.flare.kits import provision

    provision(out, name, host, port, parties)
    write_instructions(out, host, port, parties)
    print(f"{out}/coordinator: yours; start with its README.md")
    for party in parties:
        print(f"{out}/{party}: send it to {party} over a channel that you trust")
    print(f"{out}/identities: the key that signs certificates; keep it offline and private")
