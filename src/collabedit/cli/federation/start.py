"""``collabedit federation coordinator start``: the coordinator's server."""

from __future__ import annotations

from pathlib import Path

from collabedit.cli.federation.options import CoordinatorOption


def start(kit: CoordinatorOption = Path("coordinator")) -> None:
    """Run the server that parties connect to, until Ctrl-C. Start rounds with 'run'."""
    import os

    from collabedit.transports.flare import require_flare
    from collabedit.transports.flare.jobs import Site
    from collabedit.transports.flare.kits import Kit

    require_flare()
    server = Kit.of(kit / "server", "fed_server.json")
    print(f"{server.folder}: the server is starting; its log is log.txt there", flush=True)
    site = Site.server(server.folder, os.environ, server.folder / "output.txt")
    site.wait()
