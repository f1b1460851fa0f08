"""A party's process: FLARE's client, which starts one of our processes for each round."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

from collabedit.federation.settings import SETTINGS, MemberSettings
from collabedit.files import write_json
from collabedit.transports.flare.jobs import Site
from collabedit.transports.flare.kits import Kit

__all__ = ["run_client", "start_client"]


def start_client(kit: Kit, settings: MemberSettings) -> Site:
    """Start a party's client in the background.

    Args:
        kit: the party's start-up kit.
        settings: the party's settings, written to a file in its kit that only it can read.
    """
    path = kit.folder / "local" / "collabedit.json"
    write_json(path, settings.model_dump(mode="json"))
    path.chmod(0o600)
    environment = {**os.environ, SETTINGS: str(path)}
    return Site.client(kit.folder, kit.name, environment, _output(kit))


def run_client(kit: Kit, settings: MemberSettings) -> int:
    """Run a party's client until it ends or is interrupted, and print what happens.

    Returns:
        Its exit status.
    """
    output = _output(kit)
    start = output.stat().st_size if output.is_file() else 0
    site = start_client(kit, settings)
    threading.Thread(target=_say_what_happens, args=(output, start), daemon=True).start()
    return site.wait()


#: What FLARE writes, and what it means to a party.
_MEANINGS = (
    (r"Successfully registered client", "connected; waiting for a round"),
    (r"UNKNOWN_CA|unknown ca", "the coordinator does not know who signed this kit's certificate"),
    (r"SSLCertVerificationError", "the server that answers has no certificate of this federation"),
    (r"Cannot connect to host (?!.*SSLCert)", "the coordinator cannot be reached; trying again"),
    (r"client runner started", "a round has begun"),
    (r"(the round is (?:accepted|rolled back).*)", ""),
    (r"(the decision leaves out \d+ of \d+ edits)$", ""),
    (r"PartyExecutor - ERROR - (?:\[[^]]*\] - )?(.*)", ""),
    (r"UnsafeComponent|not in allow_list", "a job was refused: it is not one of collabedit's"),
)


def _say_what_happens(output: Path, start: int) -> None:
    """Print what matters to people, once each time it changes; the file has everything."""
    last = ""
    with output.open(errors="replace") as stream:
        stream.seek(start)
        while True:
            line = stream.readline()
            if not line:
                time.sleep(0.5)
            elif (meaning := _meaning(line)) and meaning != last:
                last = meaning
                print(meaning, flush=True)


def _meaning(line: str) -> str:
    for pattern, meaning in _MEANINGS:
        if match := re.search(pattern, line):
            return meaning or match.group(1)
    return ""


def _output(kit: Kit) -> Path:
    return kit.folder / "output.txt"
