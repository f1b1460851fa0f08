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
        str, typer.Option(help="The coordinator's host name for the parties, not an IP address.")
    ] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The only open port.")] = 8002,
    name: Annotated[str, typer.Option(help="Name of the federation.")] = "collabedit",
) -> None:
    """Make the identities of a federation: a certificate, a key and instructions for each member.

    Run it again with all names to add parties: existing kits stay as they are.
    """
    from collabedit.federation.instructions import write_instructions
    from collabedit.transports.flare.kits import provision

    provision(out, name, host, port, parties)
    write_instructions(out, host, port, parties)
    print(f"{out}/coordinator: yours; start with its README.md")
    for party in parties:
        print(f"{out}/{party}: send it to {party} over a channel that you trust")
    print(f"{out}/identities: signs certificates; keep it offline and private")
