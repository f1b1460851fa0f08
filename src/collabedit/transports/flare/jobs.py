"""A round as a FLARE job, which ships no code and only names installed classes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from collabedit.errors import RoundError
from collabedit.files import read_json, write_json
from collabedit.transports.flare.kits import ADMIN

__all__ = ["Site", "open_session", "submit", "write_job"]

_HERE = "collabedit.transports.flare"


class Site:
    """A FLARE process on this machine: the coordinator's server, or a party's client.

    Args:
        kit: its start-up kit.
        module: the FLARE module to run.
        config: name of its configuration file in the kit.
        values: further FLARE settings.
        environment: its environment variables, which its job processes inherit.
        output: file that its output is appended to; by default, it shares ours.
    """

    def __init__(
        self,
        kit: Path,
        module: str,
        config: str,
        values: Mapping[str, str],
        environment: Mapping[str, str],
        output: Path | None = None,
    ) -> None:
        settings = {"secure_train": "true", "config_folder": "config", **values}
        command = [sys.executable, "-m", module, "-m", str(kit), "-s", config, "--set"]
        command += [f"{name}={value}" for name, value in settings.items()]
        stream = None if output is None else output.open("ab")
        self.process = subprocess.Popen(
            command,
            cwd=kit,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=None if stream is None else subprocess.STDOUT,
            start_new_session=True,
        )
        if stream is not None:
            stream.close()

    @classmethod
    def server(cls, kit: Path, environment: Mapping[str, str], output: Path | None = None) -> Site:
        """The coordinator's server."""
        _keep_within(kit)
        module = "nvflare.private.fed.app.server.server_train"
        values = {"org": "coordinator"}
        # By default, each of its twenty threads holds on to freed memory: 2 MB more per round.
        variables = {"MALLOC_ARENA_MAX": "2", **environment}
        return cls(kit, module, "fed_server.json", values, variables, output)

    @classmethod
    def client(
        cls, kit: Path, name: str, environment: Mapping[str, str], output: Path | None = None
    ) -> Site:
        """A party's client."""
        module = "nvflare.private.fed.app.client.client_train"
        values = {"uid": name, "org": name.replace("-", "_")}
        return cls(kit, module, "fed_client.json", values, environment, output)

    def wait(self) -> int:
        """Wait until it ends; on Ctrl-C or SIGTERM, stop it and everything that it started."""
        import signal

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, interrupt)
        try:
            return self.process.wait()
        except KeyboardInterrupt:
            self.stop()
            return 0

    def family(self) -> list[Any]:
        """The process and its descendants (``psutil``); empty once it has ended."""
        import psutil

        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kill it and its job processes, as when a machine loses power."""
        import psutil

        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def stop(self, seconds: float = 10.0) -> None:
        """End it and its job processes, which run in separate sessions."""
        import psutil

        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(family, timeout=seconds)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def _keep_within(kit: Path) -> None:
    """Make the server keep jobs in its own folder, even after the folder was moved."""
    path = kit / "local" / "resources.json"
    resources = read_json(path, "start-up kit")
    storage = resources["snapshot_persistor"]["args"]["storage"]["args"]
    storage["root_dir"] = str(kit / "snapshots")
    for component in resources["components"]:
        if component["id"] == "job_manager":
            component["args"]["uri_root"] = str(kit / "jobs")
    write_json(path, resources)


def write_job(
    folder: Path,
    parties: Sequence[str],
    *,
    conductor: str,
    folder_of_round: Path,
    answering: str,
    timeout: float,
) -> Path:
    """Write a job's files.

    Args:
        folder: where to write them.
        parties: names of the parties that take part.
        conductor: class that runs the round at the coordinator.
        folder_of_round: that class's only argument.
        answering: class that answers at each party; it takes no argument.
        timeout: how long an exchange waits for answers, in seconds.

    Returns:
        The job's folder.
    """
    job = folder / "collabedit-round"
    server = {
        "format_version": 2,
        "workflows": [
            _component(
                "round",
                f"{_HERE}.controller.RoundController",
                conductor="conductor",
                timeout=timeout,
            )
        ],
        "components": [_component("conductor", conductor, folder=str(folder_of_round))],
    }
    executor = _component("", f"{_HERE}.executor.PartyExecutor", answering="answering")
    client = {
        "format_version": 2,
        "executors": [{"tasks": ["*"], "executor": executor}],
        "components": [_component("answering", answering)],
    }
    meta = {
        "name": "collabedit-round",
        "min_clients": 1,  # the round decides how many are enough
        "resource_spec": {},
        "deploy_map": {"coordinator": ["server"], "party": list(parties)},
    }
    write_json(_made(job) / "meta.json", meta)
    write_json(_made(job / "coordinator" / "config") / "config_fed_server.json", server)
    write_json(_made(job / "party" / "config") / "config_fed_client.json", client)
    return job


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _component(identifier: str, path: str, **arguments: Any) -> dict[str, Any]:
    named = {"id": identifier} if identifier else {}
    return {**named, "path": path, "args": arguments}


@contextmanager
def open_session(kit: Path, seconds: float = 30.0) -> Iterator[Any]:
    """A session with the coordinator's server.

    Args:
        kit: the coordinator's ``admin`` folder.
        seconds: how long to wait for the server.

    Raises:
        RoundError: when the server does not answer, or does not let this identity in.
    """
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    (kit / "transfer").mkdir(exist_ok=True)
    try:
        with redirect_stdout(StringIO()):  # it prints that it is connecting
            session = new_secure_session(ADMIN, str(kit), timeout=seconds)
    except Exception as error:  # FLARE raises many kinds
        raise RoundError(
            f"the coordinator's server does not answer ({_line(error)}); start it with "
            "'collabedit federation coordinator start'"
        ) from None
    try:
        yield session
    finally:
        session.close()


def submit(session: Any, parties: Sequence[str], **job: Any) -> str:
    """Submit a round; returns FLARE's name for the job.

    Args:
        session: a session with the coordinator's server.
        parties: names of the parties that take part.
        job: further arguments of :func:`write_job`.

    Raises:
        RoundError: when FLARE refuses it.
    """
    with TemporaryDirectory() as folder:
        path = write_job(Path(folder), parties, **job)
        try:
            return str(session.submit_job(str(path)))
        except Exception as error:
            raise RoundError(f"FLARE refused the round: {_line(error)}") from None


def _line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return json.dumps(text.splitlines()[0][:200], ensure_ascii=False)
