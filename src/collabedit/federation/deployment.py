"""A federation on one machine: a server and clients, each in a separate process."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import Self

from collabedit.federation.instructions import write_instructions
from collabedit.federation.joining import start_client
from collabedit.federation.settings import MemberSettings
from collabedit.files import write_text
from collabedit.requests import Record
from collabedit.transports.flare.jobs import Site, open_session
from collabedit.transports.flare.kits import Kit, provision

__all__ = ["Deployment"]


class Deployment:
    """Kits, a server, and a client for each party; a context manager that ends all of them.

    Args:
        folder: where the kits go; each party's folder also gets ``private.jsonl``.
        shares: each party's records.
        models: the model that each party loads: one for all, or one per party.
    """

    def __init__(
        self,
        folder: Path,
        shares: Mapping[str, Sequence[Record]],
        models: str | Mapping[str, str],
    ) -> None:
        self.folder = folder.resolve()
        self.sites: dict[str, Site] = {}
        self._models = dict.fromkeys(shares, models) if isinstance(models, str) else dict(models)
        port = _free_port()
        provision(self.folder, "demo", "localhost", port, list(shares))
        write_instructions(self.folder, "localhost", port, list(shares))
        for party, records in shares.items():
            lines = [json.dumps(_as_json(record), ensure_ascii=False) for record in records]
            write_text(self.folder / party / "private.jsonl", "\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        self.start_server()
        for party in self._models:
            self.start_party(party)
        return self

    def __exit__(self, *_: object) -> None:
        for site in reversed(self.sites.values()):
            site.stop()

    @property
    def server(self) -> Path:
        """The server's kit."""
        return self.folder / "coordinator" / "server"

    def start_server(self) -> None:
        """Start the coordinator's server."""
        self.sites["server"] = Site.server(self.server, os.environ, self.server / "output.txt")

    def start_party(self, party: str, **settings: Any) -> None:
        """Start a party's client.

        Args:
            party: its name.
            settings: fields of :class:`collabedit.federation.settings.MemberSettings` that
                override the deployment's.
        """
        folder = self.folder / party
        defaults = {
            "requests": folder / "private.jsonl",
            "model": self._models[party],
            "out": folder / "deltas",
        }
        chosen = MemberSettings(**{**defaults, **settings})
        self.sites[party] = start_client(Kit.of(folder / "kit"), chosen)

    @contextmanager
    def session(self, seconds: float = 90) -> Iterator[Any]:
        """The coordinator's session with the server."""
        with open_session(self.folder / "coordinator" / "admin", seconds) as session:
            yield session


def _as_json(record: Record) -> dict[str, Any]:
    """A record in CounterFact's form."""
    request = record.request
    rewrite = {
        "prompt": request.prompt,
        "subject": request.subject,
        "target_new": {"str": request.target_new},
        "target_true": {"str": request.target_true},
        "relation_id": request.relation_id,
    }
    return {
        "case_id": request.case_id,
        "requested_rewrite": rewrite,
        "paraphrase_prompts": list(record.paraphrase_prompts),
        "neighborhood_prompts": list(record.neighborhood_prompts),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
