"""A deployment of real processes on FLARE: certificates, killed processes, and what leaves a party.

One deployment serves all tests of the module, in their order, since starting one takes a while.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from collabedit.editors import Hyperparameters
from collabedit.errors import RoundError
from collabedit.federation.deployment import Deployment
from collabedit.federation.folder import Report, RoundFolder, Settings
from collabedit.federation.joining import start_client
from collabedit.federation.running import connected, open_rounds, run_round_on, wait_for_parties
from collabedit.federation.settings import MemberSettings
from collabedit.messages import RoundConfig, Schedule
from collabedit.models import load_model
from collabedit.parties import new_round
from collabedit.transports.flare.kits import Kit, provision
from tests.conftest import make_model, save_model
from tests.editing.facts import CONTEXTS
from tests.federation.settings import (
    NAMES,
    OPEN,
    SHARES,
    assert_same_bits,
    delta_of,
    in_one_process,
)
from tests.rounds.covariances import covariance_of

pytest.importorskip("nvflare")
pytestmark = pytest.mark.slow

#: Enough steps that a party is seen computing, and killed while it does.
SLOWLY = Hyperparameters(layers=(1, 2), prior_weight=5.0, target_steps=300)
TIMEOUT = 60.0

_AUDIT = """\
import os, sys
def _hook(event, arguments):
    if event == "pickle.find_class":
        with open(os.environ["COLLABEDIT_PICKLE_LOG"], "a") as log:
            log.write(f"{os.getpid()} {arguments}\\n")
sys.addaudithook(_hook)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on disk, and a hook that notes whatever any process unpickles."""
    folder = tmp_path_factory.mktemp("federation")
    for name, changes in (("model", {}), ("other", {"intermediate_size": 64})):
        model = make_model("llama", **changes)
        save_model(model, folder / name)
    (folder / "audit").mkdir()
    (folder / "audit" / "sitecustomize.py").write_text(_AUDIT)
    return folder


@pytest.fixture(scope="module")
def deployed(place: Path) -> Iterator[Deployment]:
    models = dict.fromkeys((*NAMES, "stranger"), str(place / "model"))
    models["stranger"] = str(place / "other")
    shares = {**SHARES, "stranger": SHARES["bank"]}
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(place / "audit"), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("COLLABEDIT_PICKLE_LOG", str(place / "unpickled.txt"))
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        with Deployment(place / "deployed", shares, models) as deployment:
            with deployment.session() as session:
                wait_for_parties(session, 4, 120)
            yield deployment


def open_rounds_in(place: Path, name: str, schedule: Schedule) -> RoundFolder:
    model = load_model(str(place / "model"))
    config = new_round(
        model, schedule=schedule, hyperparameters=SLOWLY, contexts=CONTEXTS, gate=OPEN
    )
    covariance = place / f"{name}.covariance.safetensors"
    covariance_of(config).save(covariance)
    settings = Settings(covariance=covariance, min_parties=2, timeout=TIMEOUT)
    return open_rounds(place / name, config, settings)


def expected(place: Path, config: RoundConfig, names: tuple[str, ...]) -> object:
    return in_one_process(config, names, load_model(str(place / "model")))


@contextmanager
def meanwhile(folder: RoundFolder, event: Callable[[dict], bool], then: Callable[[], None]):
    """Do something once the round's log has an event."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            if any(map(event, folder.events())):
                then()
                return

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()


def run(deployed: Deployment, folder: RoundFolder, seconds: float = TIMEOUT) -> Report:
    with deployed.session() as session:
        return run_round_on(session, folder, seconds)


def handshake(target: str, root: Path, own: Path | None) -> bytes:
    """What the server says to a client that connects with a certificate of its own, or none."""
    context = ssl.create_default_context(cafile=root)
    if own is not None:
        context.load_cert_chain(own / "client.crt", own / "client.key")
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return secure.recv(100)


def test_a_certificate_of_another_authority_is_refused(deployed: Deployment, place: Path) -> None:
    ours = Kit.of(deployed.folder / "bank" / "kit")
    provision(place / "elsewhere", "demo", "localhost", 8002, ["bank"])
    forged = place / "elsewhere" / "bank" / "kit" / "startup"
    root = ours.folder / "startup" / "rootCA.pem"
    assert handshake(ours.target, root, root.parent).startswith(b"HTTP/1.1")
    for own in (forged, None):
        try:
            said = handshake(ours.target, root, own)
        except (ssl.SSLError, ConnectionError):  # whether the refusal arrives depends on timing
            said = b""
        assert said == b""
    with pytest.raises(ssl.SSLCertVerificationError):  # and the party would not trust the server
        handshake(ours.target, forged / "rootCA.pem", forged)


def test_a_certificate_of_another_organisation_is_refused(
    deployed: Deployment, place: Path
) -> None:
    """The server compares the name in the certificate with the name that is claimed."""
    shutil.copytree(deployed.folder / "bank" / "kit" / "startup", place / "copied" / "startup")
    shutil.copytree(deployed.folder / "bank" / "kit" / "local", place / "copied" / "local")
    about = place / "copied" / "startup" / "fed_client.json"
    about.write_text(about.read_text().replace('"bank"', '"library2"'))
    settings = MemberSettings(requests=place / "none.jsonl", out=place / "never")
    usurper = start_client(Kit.of(place / "copied"), settings)
    refusal = "authenticated as 'bank' but claimed endpoint 'library2'"
    try:
        with deployed.session() as session:
            deadline = time.monotonic() + 60
            while refusal not in (deployed.server / "output.txt").read_text(errors="replace"):
                assert time.monotonic() < deadline
                time.sleep(0.5)
            assert set(connected(session)) == {*NAMES, "stranger"}
    finally:
        usurper.stop()


def test_a_killed_party_is_left_out_and_one_of_another_model(
    deployed: Deployment, place: Path
) -> None:
    folder = open_rounds_in(place, "killed-party", Schedule.ONE_SHOT)

    def kill() -> None:
        time.sleep(0.3)  # it is computing its targets now
        for process in deployed.sites["library"].family()[1:]:
            process.kill()

    with meanwhile(folder, lambda e: e.get("stage") == "prepare", kill):
        report = run(deployed, folder)
    assert report.status == "accepted"
    assert report.parties == ("bank", "hospital")
    assert report.left_out.keys() == {"library", "stranger"}
    assert "its model is not the round's" in report.left_out["stranger"]
    assert "did not answer within" in report.left_out["library"]
    assert_same_bits(delta_of(folder), expected(place, folder.config, ("bank", "hospital")))


def test_a_killed_coordinator_continues_and_the_lost_party_is_back(
    deployed: Deployment, place: Path
) -> None:
    folder = open_rounds_in(place, "killed-coordinator", Schedule.LAYERWISE)
    merged = lambda event: event["event"] == "merged"  # noqa: E731
    with (
        meanwhile(folder, merged, lambda: deployed.sites["server"].kill()),
        pytest.raises(RoundError, match="server is gone; start it and run the same command again"),
    ):
        run(deployed, folder)
    assert folder.report is None
    deployed.start_server()
    with deployed.session() as session:
        wait_for_parties(session, 4, 120)
    report = run(deployed, folder)
    assert [e["exchanges"] for e in folder.events() if e["event"] == "continued"] == [1]
    assert report.parties == NAMES
    assert_same_bits(delta_of(folder), expected(place, folder.config, NAMES))


def test_no_private_text_is_at_the_coordinator(deployed: Deployment, place: Path) -> None:
    """Not in its logs, job store or rounds; a party's file shows that it would be found."""
    tokenizer = make_model("llama").tokenizer
    secret = []
    for record in (record for own in SHARES.values() for record in own):
        request = record.request
        secret += [request.text, *record.paraphrase_prompts]
        secret += [str(tokenizer(request.text).input_ids)[1:-1]]
    patterns = {
        form for text in secret for form in (text.encode(), json.dumps(text)[1:-1].encode())
    }
    folders = [
        deployed.folder / "coordinator",
        place / "killed-party",
        place / "killed-coordinator",
    ]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    for path in files:
        data = path.read_bytes()
        assert not [pattern for pattern in patterns if pattern in data], path
    private = (deployed.folder / "bank" / "private.jsonl").read_bytes()
    assert SHARES["bank"][0].paraphrase_prompts[0].encode() in private


def test_nothing_was_unpickled(deployed: Deployment, place: Path) -> None:
    """In no process of the deployment, from its start on: FLARE got bytes only, and so did we."""
    log = place / "unpickled.txt"
    assert not log.exists() or not log.read_text()
    outputs = [path.read_text(errors="replace") for path in deployed.folder.rglob("output.txt")]
    assert len(outputs) == 5
