"""A party's process: FLARE's client, which starts a process of ours for each round."""

from __future__ import annotations

import os
from pathlib import Path

from collabedit.federation.settings import SETTINGS, MemberSettings
from collabedit.files import write_json
from collabedit.transports.flare.jobs import Site
from collabedit.transports.flare.kits import Kit

__all__ = ["run_client", "start_client"]


def start_client(kit: Kit, settings: MemberSettings) -> Site:
    """Start a party's client in the background.

    Args:
        kit: the party's.
        settings: the party's own, which go to a file in its kit that only it can read.
    """
    path = kit.folder / "local" / "collabedit.json"
    write_json(path, settings.model_dump(mode="json"))
    path.chmod(0o600)
    environment = {**os.environ, SETTINGS: str(path)}
    return Site.client(kit.folder, kit.name, environment, _output(kit))


def run_client(kit: Kit, settings: MemberSettings) -> int:
    """Run a party's client until it ends or is interrupted; returns its exit status."""
    return start_client(kit, settings).wait()


def _output(kit: Kit) -> Path:
    return kit.folder / "output.txt"
