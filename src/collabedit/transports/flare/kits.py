"""Identities: FLARE's project file, and a start-up kit for each organisation."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collabedit.errors import InputError
from collabedit.files import read_json, read_text, write_json, write_text
from collabedit.transports.flare.extra import require_flare

__all__ = ["ADMIN", "Kit", "provision"]

#: The coordinator's own identity, which starts rounds.
ADMIN = "coordinator@collabedit.local"

_PROJECT = "project.yml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_BUILDERS = [
    {"path": "nvflare.lighter.impl.workspace.WorkspaceBuilder"},
    {
        "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
        "args": {"config_folder": "config"},
    },
    {"path": "nvflare.lighter.impl.cert.CertBuilder"},
]
#: The only classes that a job may name: ours. FLARE refuses a job with others, or with code.
_ALLOWED = ["collabedit.transports.flare", "collabedit.federation"]
#: What the coordinator may do at a site: run its own jobs; no shell command, code or log.
_PERMISSIONS = {
    "lead": {
        "submit_job": "any",
        "manage_job": "n:submitter",
        "clone_job": "none",
        "download_job": "n:submitter",
        "view": "any",
        "operate": "o:site",
        "shell_commands": "none",
        "byoc": "none",
        "server-predeployed-flwr": "none",
    }
}


@dataclass(frozen=True)
class Kit:
    """One organisation's start-up kit: its certificate, its key, and whom it connects to.

    Attributes:
        folder: holds ``startup/`` and ``local/``.
    """

    folder: Path

    @classmethod
    def of(cls, folder: Path, file: str = "fed_client.json") -> Kit:
        """The kit in a folder.

        Args:
            folder: as ``collabedit federation init`` wrote it.
            file: a file that such a kit must have.

        Raises:
            InputError: when the folder is not such a kit.
        """
        if not (folder / "startup" / file).is_file():
            raise InputError(
                f"{folder}: not the right start-up kit, since startup/{file} is missing; give the "
                "folder that 'collabedit federation init' made for you"
            )
        return cls(folder.resolve())

    @property
    def name(self) -> str:
        """The party's name, as in its certificate."""
        about = self._read("fed_client.json")
        return str(about["client"]["fqsn"])

    @property
    def target(self) -> str:
        """Host and port of the coordinator."""
        about = self._read("fed_client.json")
        return str(about["servers"][0]["service"]["target"])

    def _read(self, file: str) -> Any:
        return read_json(self.folder / "startup" / file, "start-up kit")


def provision(folder: Path, name: str, host: str, port: int, parties: Sequence[str]) -> None:
    """Make the identities of a federation, or add parties to an existing one.

    The folder gets FLARE's ``project.yml``, ``coordinator/server``, ``coordinator/admin``, and a
    folder for each party with ``kit``. ``identities/`` holds the key that signs all certificates:
    whoever has it can let others in.

    Args:
        folder: the federation's folder.
        name: the federation's name.
        host: where parties reach the coordinator: a name that DNS or ``/etc/hosts`` resolves.
        port: the coordinator's port, the only one that must be open.
        parties: names of all parties, including those that already exist.

    Raises:
        InputError: when a name is invalid, or a folder can't be written.
        MissingExtraError: when FLARE is not installed.
    """
    require_flare()
    _check_names(name, parties)
    project = _project(name, host, port, parties)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _PROJECT, _as_yaml(project))
    made = _build(folder / "identities", project)
    _place_server(made / host, folder / "coordinator" / "server")
    _replace(made / ADMIN, folder / "coordinator" / "admin")
    for party in parties:
        if not (folder / party / "kit").is_dir():
            _place_party(made / party, folder / party / "kit")
    shutil.rmtree(made)


def _check_names(name: str, parties: Sequence[str]) -> None:
    for given in (name, *parties):
        if not _NAME.fullmatch(given):
            raise InputError(f"{given!r}: names are made of at most 63 letters, digits and hyphens")
    if len(set(parties)) < len(parties) or "coordinator" in parties or "identities" in parties:
        raise InputError(
            "each party needs a unique name, other than 'coordinator' and 'identities'"
        )


def _project(name: str, host: str, port: int, parties: Sequence[str]) -> dict[str, Any]:
    clients = [{"name": party, "type": "client", "org": _org(party)} for party in parties]
    return {
        "api_version": 3,
        "name": name,
        "description": "A federation of collabedit",
        "connection_security": "mtls",
        "participants": [
            {"name": host, "type": "server", "org": "coordinator", "fed_learn_port": port},
            *clients,
            {"name": ADMIN, "type": "admin", "org": "coordinator", "role": "lead"},
        ],
        "builders": _BUILDERS,
    }


def _org(party: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", party)


def _as_yaml(project: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(project, sort_keys=False))


def _build(workspace: Path, project: dict[str, Any]) -> Path:
    """Let FLARE make all kits; existing parties keep their certificates."""
    from nvflare.lighter.prov_utils import prepare_builders
    from nvflare.lighter.provision import prepare_project
    from nvflare.lighter.provisioner import Provisioner

    workspace.mkdir(mode=0o700, exist_ok=True)
    copied = json.loads(json.dumps(project))
    log = _Quiet()
    done = Provisioner(str(workspace.resolve()), prepare_builders(copied), None).provision(
        prepare_project(copied), logger=log
    )
    if log.errors or done.get("build_error"):
        raise InputError(f"FLARE could not make the start-up kits: {'; '.join(log.errors)}")
    return Path(done["current_prod_dir"])


class _Quiet:
    """A logger that keeps FLARE's errors and drops the rest."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def debug(self, message: str) -> None:
        """Drop it."""

    def info(self, message: str) -> None:
        """Drop it."""

    def warning(self, message: str) -> None:
        """Drop it."""

    def error(self, message: str) -> None:
        """Keep it."""
        self.errors.append(message)


def _replace(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target)
    for key in (target / "startup").glob("*.key"):
        key.chmod(0o600)


def _place_party(source: Path, target: Path) -> None:
    """Install a party's kit, which takes only our jobs and streams no log to the coordinator."""
    _replace(source, target)
    resources = _resources(target)
    resources["class_allow_list"] = _ALLOWED
    resources["allow_log_streaming"] = False
    _without(resources, "site_log_streamer")
    for component in resources["components"]:
        if component["id"] == "process_launcher":
            component["path"] = "collabedit.transports.flare.launcher.PartyLauncher"
    _write_local(target, resources)


def _place_server(source: Path, target: Path) -> None:
    """Install the coordinator's server, which takes only our jobs, and no logs."""
    if target.is_dir():
        return
    _replace(source, target)
    resources = _resources(target)
    resources["class_allow_list"] = _ALLOWED
    _without(resources, "log_receiver")
    # A party that is silent for a minute is gone; FLARE's ten minutes would keep a round waiting.
    resources["servers"][0]["heart_beat_timeout"] = 60
    _write_local(target, resources)


def _resources(kit: Path) -> dict[str, Any]:
    resources: dict[str, Any] = json.loads(read_text(kit / "local" / "resources.json.default"))
    return resources


def _without(resources: dict[str, Any], component: str) -> None:
    resources["components"] = [c for c in resources["components"] if c["id"] != component]


def _write_local(kit: Path, resources: dict[str, Any]) -> None:
    write_json(kit / "local" / "resources.json", resources)
    policy = {"format_version": "1.0", "permissions": _PERMISSIONS}
    write_json(kit / "local" / "authorization.json", policy)
