"""``collabedit federation``: its commands, and the files that come with the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from collabedit.federation.folder import Report, RoundFolder, SharedEdits
from collabedit.messages import Hits, Policy
from collabedit.transports.flare import extra
from tests.cli.commands import collabedit, fails
from tests.federation.settings import make_config
from tests.rounds.covariances import covariance_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    pytest.importorskip("nvflare")
    collabedit("federation", "init", "hospital", "bank", "-o", tmp_path / "federation")
    return tmp_path / "federation"


def test_init_writes_a_folder_for_each_member(federation: Path) -> None:
    assert {path.name for path in federation.iterdir()} == {
        *("coordinator", "hospital", "bank", "identities", "project.yml")
    }
    ours = (federation / "hospital" / "README.md").read_text()
    assert "collabedit federation party join --kit kit --requests private.jsonl" in ours
    theirs = (federation / "coordinator" / "README.md").read_text()
    assert "collabedit federation coordinator start --kit ." in theirs
    assert "Port 8002 of localhost" in theirs


def test_a_party_learns_at_once_what_is_wrong_with_its_file(
    federation: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "private.jsonl"
    bad.write_text('{"prompt": "no place for the subject", "subject": "France", "target": "x"}\n')
    kit = federation / "hospital" / "kit"
    assert "private.jsonl" in fails("federation", "party", "join", "--kit", kit, "-r", bad)
    line = fails("federation", "party", "join", "--kit", tmp_path, "-r", bad)
    assert "not the right start-up kit" in line
    good, short = tmp_path / "good.jsonl", tmp_path / "short.key"
    good.write_text('{"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}\n')
    short.write_text("secret")
    joins = ("federation", "party", "join", "--kit", kit, "-r", good)
    assert "openssl rand -hex 32" in fails(*joins, "--fingerprint-key", short)


def test_a_coordinator_learns_at_once_what_is_wrong(federation: Path, tmp_path: Path) -> None:
    config = make_config()
    config.save(tmp_path / "round.json")
    run = ("federation", "coordinator", "run", "--kit", federation / "coordinator")
    files = ("--round", tmp_path / "round.json", "-C", tmp_path / "covariance.safetensors")
    assert "no such file" in fails(*run, *files, "-o", tmp_path / "rounds")
    other = config.model_copy(update={"model_sha256": dict.fromkeys(config.weight_names, "0" * 64)})
    covariance_of(other).save(tmp_path / "covariance.safetensors")
    assert fails(*run, *files, "-o", tmp_path / "rounds")
    assert "choose one of: stop, restart, continue" in fails(*run, *files, "--on-dropout", "wait")
    assert "unknown policy 'last'" in fails(*run, *files, "--policy", "last")
    assert "needs the party to prefer" in fails(*run, *files, "--policy", "prefer")
    assert "and no other" in fails(*run, *files, "--prefer", "bank")
    assert not (tmp_path / "rounds").exists()
    line = fails("federation", "coordinator", "start", "--kit", tmp_path)
    assert "startup/fed_server.json is missing" in line


def test_results_show_the_outcome_of_each_round(tmp_path: Path) -> None:
    assert "contains no rounds" in fails("federation", "coordinator", "results", "-o", tmp_path)
    folder = RoundFolder.begin(tmp_path, make_config())
    assert "unfinished" in collabedit("federation", "coordinator", "results", "-o", tmp_path)
    report = Report(
        status="accepted",
        round_sha256=folder.config.sha256,
        schedule="layerwise",
        parties=("bank", "hospital"),
        left_out={"library": "it did not answer within 25 s"},
        edits=4,
        shared=SharedEdits(
            policy=Policy.FIRST,
            overlaps=1,
            conflicts=0,
            subjects=0,
            edits={"bank": 2, "hospital": 3},
            kept={"bank": 2, "hospital": 2},
        ),
        hits={"rewrite": Hits(before=1, after=4, of=4)},
        sent=1_234_567,
        received=2_345_678,
        seconds=12.3,
    )
    folder.finish(report)
    shown = collabedit("federation", "coordinator", "results", "-o", tmp_path)
    for part in ("accepted", "bank, hospital", "1 → 4 of 4", "1.2 / 2.3 MB", "12"):
        assert part in shown
    assert "1 overlap, 0 conflict; settled by 'first'" in shown
    assert "hospital keeps 2 of 3 edits" in shown
    assert "without library: it did not answer within 25 s" in shown


@pytest.mark.parametrize(
    "words",
    [
        ("init", "hospital"),
        ("coordinator", "start"),
        ("coordinator", "status"),
        ("demo",),
    ],
)
def test_without_flare_commands_say_what_to_install(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extra, "find_spec", lambda _: None)
    assert 'pip install "collabedit[flare]"' in fails("federation", *words)


def test_the_compose_file_runs_a_coordinator_and_parties() -> None:
    """Each service runs a command that exists, with files that ``init`` makes."""
    compose = yaml.safe_load((ROOT / "docs" / "how-to" / "federation" / "compose.yaml").read_text())
    services = compose["services"]
    assert len(services) == 3
    for name, service in services.items():
        assert service["command"].startswith("collabedit federation ")
        assert "FROM python" in service["build"]["dockerfile_inline"]
        assert service["volumes"][0] == f"${{FEDERATION:-./federation}}/{name}:/organisation"
        for volume in service["volumes"][1:]:
            assert volume.partition(":")[0] in compose["volumes"]
    caches = [service["volumes"][1] for name, service in services.items() if name != "coordinator"]
    assert len(set(caches)) == len(caches)  # a cache holds private targets
