"""``collabedit federation coordinator status``: connected parties and running rounds."""

from __future__ import annotations

from pathlib import Path

from collabedit.cli.federation.options import CoordinatorOption


def status(kit: CoordinatorOption = Path("coordinator")) -> None:
    """Show which parties are connected, and whether a round is running."""
    from collabedit.federation.running import connected
    from collabedit.transports.flare import require_flare
    from collabedit.transports.flare.jobs import open_session
    from collabedit.transports.flare.kits import Kit

    require_flare()
    admin = Kit.of(kit / "admin", "fed_admin.json")
    with open_session(admin.folder) as session:
        here = connected(session)
        jobs = session.get_system_info().job_info
    print(f"connected: {', '.join(here) or 'no party'}")
    print(f"rounds running: {len(jobs)}")
