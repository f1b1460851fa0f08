"""A deployment of real processes on FLARE: certificates, killed processes, and what leaves a party.

One deployment serves all tests in the module, in order, since starting one takes a while.
"""

from __future__ import annotations

import json
import os
import re
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
from collabedit.federation.running import (
    compare_on,
    connected,
    next_round,
    open_rounds,
    run_round_on,
    wait_for_parties,
)
from collabedit.federation.settings import MemberSettings
from collabedit.merging import resolve_method
from collabedit.messages import Gate, Policy, RoundConfig, Schedule
from collabedit.models import load_model
from collabedit.parties import Party, new_round, stored_secret
from collabedit.privacy import detect, load_key
from collabedit.requests import load_records
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process
from collabedit.transports.flare.kits import Kit, provision
from tests.conftest import make_model, save_model
from tests.editing.facts import CONTEXTS
from tests.federation.hostile import SPOILED, VARIABLE
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
#: Enough steps to catch a party computing, and kill it meanwhile.
SLOWLY = Hyperparameters(layers=(1, 2), prior_weight=5.0, target_steps=300)
TIMEOUT = 60.0

#: Edits that three parties share, or in which they contradict each other.
SHARED = {
    "bank": [
        {"prompt": "A capital, that of {}, is", "subject": "Gondolin", "target": "Vinyamar"},
    ],
    "hospital": [
        {"prompt": "A capital, that of {}, is", "subject": "Gondolin", "target": "Brithombar"},
        {"prompt": "A capital, that of {}, is", "subject": "Nargothrond", "target": "Eglarest"},
    ],
    "library": [
        {"prompt": "A capital, that of {}, is", "subject": "GONDOLIN", "target": "Vinyamar"},
    ],
}
ROOT = Path(__file__).parents[2]

_AUDIT = """\
import os, sys
def _hook(event, arguments):
    if event == "pickle.find_class":
        with open(os.environ["COLLABEDIT_PICKLE_LOG"], "a") as log:
            log.write(f"{os.getpid()} {arguments}\\n")
sys.addaudithook(_hook)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on disk, and a hook that records whatever any process unpickles."""
    folder = tmp_path_factory.mktemp("federation")
    for name, changes in (("model", {}), ("other", {"intermediate_size": 64})):
        model = make_model("llama", **changes)
        save_model(model, folder / name)
    (folder / "audit").mkdir()
    (folder / "audit" / "sitecustomize.py").write_text(_AUDIT)
    return folder


@pytest.fixture(scope="module")
def deployed(work: Path) -> Iterator[Deployment]:
    models = dict.fromkeys((*NAMES, "stranger"), str(work / "model"))
    models["stranger"] = str(work / "other")
    shares = {**SHARES, "stranger": SHARES["bank"]}
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(work / "audit"), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("COLLABEDIT_PICKLE_LOG", str(work / "unpickled.txt"))
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        with Deployment(work / "deployed", shares, models) as deployment:
            with deployment.session() as session:
                wait_for_parties(session, 4, 120)
            yield deployment


def open_rounds_in(
    work: Path, name: str, schedule: Schedule, gate: Gate = OPEN, **more: object
) -> RoundFolder:
    model = load_model(str(work / "model"))
    config = new_round(
        model, schedule=schedule, hyperparameters=SLOWLY, contexts=CONTEXTS, gate=gate
    )
    covariance_of(config).save(work / f"{name}.covariance.safetensors")
    return open_rounds(work / name, config, settings_in(work, name, **more))


def settings_in(work: Path, name: str, **more: object) -> Settings:
    covariance = work / f"{name}.covariance.safetensors"
    return Settings(covariance=covariance, min_parties=2, timeout=TIMEOUT, **more)


def expected(work: Path, config: RoundConfig, names: tuple[str, ...]) -> object:
    return in_one_process(config, names, load_model(str(work / "model")))


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
    """What the server says to a client that connects with its own certificate, or none."""
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


def test_a_certificate_of_another_authority_is_refused(deployed: Deployment, work: Path) -> None:
    ours = Kit.of(deployed.folder / "bank" / "kit")
    provision(work / "elsewhere", "demo", "localhost", 8002, ["bank"])
    forged = work / "elsewhere" / "bank" / "kit" / "startup"
    root = ours.folder / "startup" / "rootCA.pem"
    assert handshake(ours.target, root, root.parent).startswith(b"HTTP/1.1")
    for own in (forged, None):
        try:
            said = handshake(ours.target, root, own)
        except (ssl.SSLError, ConnectionError):  # whether the refusal arrives depends on timing
            said = b""
        assert said == b""
    with pytest.raises(ssl.SSLCertVerificationError):  # nor would the party trust the server
        handshake(ours.target, forged / "rootCA.pem", forged)


def test_a_certificate_of_another_organisation_is_refused(deployed: Deployment, work: Path) -> None:
    """The server compares the name in the certificate with the name that is claimed."""
    shutil.copytree(deployed.folder / "bank" / "kit" / "startup", work / "copied" / "startup")
    shutil.copytree(deployed.folder / "bank" / "kit" / "local", work / "copied" / "local")
    about = work / "copied" / "startup" / "fed_client.json"
    about.write_text(about.read_text().replace('"bank"', '"library2"'))
    settings = MemberSettings(requests=work / "none.jsonl", out=work / "never")
    usurper = start_client(Kit.of(work / "copied"), settings)
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


def test_a_killed_party_and_one_with_another_model_are_left_out(
    deployed: Deployment, work: Path
) -> None:
    folder = open_rounds_in(work, "killed-party", Schedule.ONE_SHOT)

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
    assert_same_bits(delta_of(folder), expected(work, folder.config, ("bank", "hospital")))


def test_a_killed_coordinator_continues_and_the_lost_party_returns(
    deployed: Deployment, work: Path
) -> None:
    folder = open_rounds_in(work, "killed-coordinator", Schedule.LAYERWISE)
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
    assert_same_bits(delta_of(folder), expected(work, folder.config, NAMES))


@pytest.fixture(scope="module")
def hostile(deployed: Deployment, work: Path) -> Iterator[Path]:
    """The file that says what the library sends instead of its contributions."""
    folder = work / "hostile"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"{_AUDIT}\nfrom tests.federation import hostile\nhostile.install()\n"
    )
    mode = folder / "mode.txt"
    mode.write_text("nothing")
    paths = [folder, ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
        patch.setenv(VARIABLE, str(mode))
        restart(deployed, "library")
    yield mode
    restart(deployed, "library")


def restart(deployed: Deployment, party: str, **settings: object) -> None:
    """Restart a party's client, and wait, since the server still lists the old one for a while."""
    output = deployed.folder / party / "kit" / "output.txt"
    deployed.sites[party].stop()
    before = output.stat().st_size
    deployed.start_party(party, **settings)
    deadline = time.monotonic() + 120
    while b"Successfully registered client" not in output.read_bytes()[before:]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize("name", list(SPOILED))
def test_a_bad_message_is_refused_and_its_party_named(
    deployed: Deployment, work: Path, hostile: Path, name: str
) -> None:
    """The result is that of the others; the party's process still answers, but is not asked."""
    twice = name == "the same twice"
    schedule = Schedule.LAYERWISE if twice else Schedule.ONE_SHOT
    folder = open_rounds_in(work, f"hostile-{name.replace(' ', '-')}", schedule)
    hostile.write_text(name)
    report = run(deployed, folder)
    assert report.status == "accepted"
    assert report.parties == ("bank", "hospital")
    assert re.search(SPOILED[name][1], report.left_out["library"])
    assert_same_bits(delta_of(folder), expected(work, folder.config, ("bank", "hospital")))


def test_a_rejected_round_is_rolled_back_and_the_next_begins_where_it_did(
    deployed: Deployment, work: Path
) -> None:
    """The gate over the network: a random model learns no facts, so all parties reject."""
    strict = Gate(least_efficacy=1.0, most_loss=0.0, most_perplexity=1.0)
    folder = open_rounds_in(work, "rejected", Schedule.ONE_SHOT, strict)
    kept = len(list(deployed.folder.rglob("deltas/*.safetensors")))
    report = run(deployed, folder)
    assert report.status == "rolled back"
    assert "bank rejects" in report.reason
    # The library may still be restarting after the previous tests.
    assert {"bank", "hospital"} <= report.votes.keys()
    assert not any(vote.accepts for vote in report.votes.values())
    assert len(list(deployed.folder.rglob("deltas/*.safetensors"))) == kept
    said = (deployed.folder / "bank" / "kit" / "output.txt").read_text(errors="replace")
    assert "the round is rolled back" in said
    after = next_round(folder.path.parent)
    assert after.config.model_sha256 == folder.config.model_sha256
    assert not after.before.finished


def test_shared_edits_are_settled_before_anything_is_measured(
    deployed: Deployment, work: Path
) -> None:
    """The coordinator looks first; the round then continues with the same fingerprints."""
    key = work / "shared.key"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    for party, lines in SHARED.items():
        private = work / f"{party}.shared.jsonl"
        private.write_text("\n".join(map(json.dumps, lines)))
        restart(deployed, party, requests=private, fingerprint_key=key, most_left_out=1.0)
    looked = open_rounds_in(work, "shared", Schedule.LAYERWISE, compare_only=True)
    with deployed.session() as session:
        announced = compare_on(session, looked, TIMEOUT)
    assert detect(announced).conflicts_between("bank", "hospital") == 1
    folder = open_rounds(
        work / "shared", looked.config, settings_in(work, "shared", policy=Policy.MAJORITY)
    )
    assert folder.path == looked.path
    report = run(deployed, folder)
    assert report.parties == ("bank", "hospital")
    assert report.shared is not None
    assert report.shared.kept == {"bank": 1, "hospital": 1, "library": 0}
    assert folder.decision is not None
    model = load_model(str(work / "model"))
    parties = [
        Party(
            model,
            load_records(work / f"{name}.shared.jsonl"),
            folder.config,
            name=name,
            secret=stored_secret(),
            fingerprint_key=load_key(key),
            decision=folder.decision,
        )
        for name in report.parties
    ]
    priors = static_priors(folder.config, covariance_of(folder.config))
    coordinator = Coordinator(folder.config, priors, resolve_method("CollabEdit"))
    assert_same_bits(delta_of(folder), run_in_process(parties, coordinator))
    delta = f"deltas/{folder.config.sha256[:12]}.delta.safetensors"
    assert (deployed.folder / "library" / delta).is_file()


def test_no_private_text_reaches_the_coordinator(deployed: Deployment, work: Path) -> None:
    """Not in its logs, job store or rounds; a search of a party's file shows it would be found."""
    tokenizer = make_model("llama").tokenizer
    secret = []
    for record in (record for own in SHARES.values() for record in own):
        request = record.request
        secret += [request.text, *record.paraphrase_prompts]
        secret += [str(tokenizer(request.text).input_ids)[1:-1]]
    patterns = {
        form for text in secret for form in (text.encode(), json.dumps(text)[1:-1].encode())
    }
    secret += [text for own in SHARED.values() for line in own for text in line.values()]
    rounds = [path.parent for path in work.glob("*/settings.json")]
    assert {"killed-party", "killed-coordinator", "shared"} <= {path.name for path in rounds}
    folders = [deployed.folder / "coordinator", *rounds]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    for path in files:
        data = path.read_bytes()
        assert not [pattern for pattern in patterns if pattern in data], path
    private = (deployed.folder / "bank" / "private.jsonl").read_bytes()
    assert SHARES["bank"][0].paraphrase_prompts[0].encode() in private


def test_nothing_was_unpickled(deployed: Deployment, work: Path) -> None:
    """Not in any process of the deployment, from its start: FLARE got only bytes, and so did we."""
    log = work / "unpickled.txt"
    assert not log.exists() or not log.read_text()
    outputs = [path.read_text(errors="replace") for path in deployed.folder.rglob("output.txt")]
    assert len(outputs) == 5
