"""FLARE as a carrier of bytes: envelopes, kits and jobs."""

from __future__ import annotations

import json
import pickle
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import InputError, MissingExtraError
from collabedit.rounds import Failure
from collabedit.transports.flare import extra

pytest.importorskip("nvflare")

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.fuel.utils import fobs
from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize

from collabedit.transports.flare import jobs
from collabedit.transports.flare.envelope import failed, opened, sealed
from collabedit.transports.flare.jobs import write_job
from collabedit.transports.flare.kits import Kit, provision


def carried(envelope: Shareable) -> Shareable:
    """Through FLARE's serialiser, as on the wire."""
    nvflare_fobs_initialize()
    received: Shareable = fobs.loads(fobs.dumps(envelope))
    return received


@pytest.mark.parametrize("payload", [b"", b"\x80\x04\x95 looks like a pickle.", bytes(11 << 20)])
def test_bytes_come_out_as_they_went_in(payload: bytes) -> None:
    """Empty ones, ones that look like a pickle, and more than FLARE keeps in one piece."""
    assert opened(sealed(payload)) == payload
    if len(payload) < 10 << 20:  # beyond that FLARE sends them as a stream beside the message
        assert opened(carried(sealed(payload))) == payload


def test_only_containers_and_bytes_are_deserialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLARE's serialiser sees its own envelope, in which ours are bytes; nothing is unpickled."""
    used: list[str] = []
    nvflare_fobs_initialize()
    envelope = fobs.dumps(sealed(pickle.dumps({"not": "for you"})))
    for decomposer in fobs.fobs._decomposers.values():
        original = decomposer.recompose

        def spy(
            *given: Any, _original: Any = original, _kind: Any = decomposer, **more: Any
        ) -> Any:
            used.append(_kind.supported_type().__name__)
            return _original(*given, **more)

        monkeypatch.setattr(decomposer, "recompose", spy)
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("something was unpickled"))
    monkeypatch.setattr(pickle, "Unpickler", lambda *_: pytest.fail("something was unpickled"))
    assert isinstance(opened(fobs.loads(envelope)), bytes)
    assert set(used) == {"Shareable"}


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (failed("its model differs"), "its model differs"),
        (failed("two\nlines\x1b[31m"), "two lines [31m"),
        (make_reply(ReturnCode.EXECUTION_EXCEPTION), "EXECUTION_EXCEPTION"),
        (Shareable({"collabedit_bytes": "text"}), "str instead of bytes"),
        (Shareable({"collabedit_bytes": {"a": 1}}), "dict instead of bytes"),
        (Shareable(), "its process failed"),
    ],
)
def test_anything_but_bytes_is_a_failure(envelope: Shareable, reason: str) -> None:
    found = opened(envelope)
    assert isinstance(found, Failure)
    assert reason in found.reason
    assert "\n" not in found.reason


def test_a_long_reason_is_cut() -> None:
    found = opened(failed("x" * 10_000))
    assert isinstance(found, Failure)
    assert len(found.reason) == 500


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits")
    provision(folder, "trial", "localhost", 18123, ["hospital", "st-anna"])
    return folder


def test_each_member_has_its_own_kit(kits: Path) -> None:
    kit = Kit.of(kits / "hospital" / "kit")
    assert (kit.name, kit.target) == ("hospital", "localhost:18123")
    keys = list(kits.rglob("*.key"))
    assert len(keys) == 4
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE((kits / "identities").stat().st_mode) == 0o700
    for about in kits.rglob("startup/fed_*.json"):
        assert '"connection_security": "mtls"' in about.read_text()


def test_a_party_accepts_only_our_jobs(kits: Path) -> None:
    local = kits / "hospital" / "kit" / "local"
    resources = json.loads((local / "resources.json").read_text())
    assert resources["class_list_enforcement_mode"] == "enforce"
    assert all(path.startswith("collabedit.") for path in resources["class_allow_list"])
    assert resources["allow_log_streaming"] is False
    assert "log_streamer" not in json.dumps(resources["components"])
    (policy,) = json.loads((local / "authorization.json").read_text())["permissions"].values()
    assert policy["byoc"] == policy["shell_commands"] == "none"


def test_adding_a_party_keeps_the_others(kits: Path) -> None:
    before = (kits / "hospital" / "kit" / "startup" / "client.crt").read_bytes()
    root = (kits / "hospital" / "kit" / "startup" / "rootCA.pem").read_bytes()
    provision(kits, "trial", "localhost", 18123, ["hospital", "st-anna", "bank"])
    assert (kits / "hospital" / "kit" / "startup" / "client.crt").read_bytes() == before
    assert (kits / "bank" / "kit" / "startup" / "rootCA.pem").read_bytes() == root


@pytest.mark.parametrize("name", ["a b", "", "coordinator", "../bank", "x" * 64, "bank"])
def test_invalid_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        provision(tmp_path, "trial", "localhost", 18123, ["bank", name])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_a_kit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"startup/fed_client.json is missing"):
        Kit.of(tmp_path)


def test_a_job_ships_no_code(tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        ["bank", "hospital"],
        conductor="collabedit.federation.conductor.RoundConductor",
        folder_of_round=tmp_path / "round",
        answering="collabedit.federation.member.Member",
        timeout=60,
    )
    files = {path.relative_to(job).as_posix() for path in job.rglob("*") if path.is_file()}
    assert files == {
        "meta.json",
        "coordinator/config/config_fed_server.json",
        "party/config/config_fed_client.json",
    }
    party = (job / "party/config/config_fed_client.json").read_text()
    assert str(tmp_path) not in party
    assert json.loads((job / "meta.json").read_text())["deploy_map"] == {
        "coordinator": ["server"],
        "party": ["bank", "hospital"],
    }


def test_the_server_does_not_hoard_freed_memory(
    kits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its threads do, and it grows with every round; users may set it themselves."""
    given: list[dict[str, str]] = []
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda *_, env, **__: given.append(env))
    for own in ({}, {"MALLOC_ARENA_MAX": "8"}):
        jobs.Site.server(kits / "coordinator" / "server", own)
    assert [environment["MALLOC_ARENA_MAX"] for environment in given] == ["2", "8"]


def test_without_flare_the_commands_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r'pip install "collabedit\[flare\]"'):
        extra.require_flare()


def test_the_base_install_needs_no_flare() -> None:
    """The commands load neither FLARE nor a model; the coordinator's half loads no transformers."""
    code = (
        "import sys; import collabedit.cli; import collabedit.federation.conductor; "
        "import collabedit.federation.folder; "
        "print([m for m in ('nvflare', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
