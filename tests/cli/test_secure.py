"""Secure aggregation by files: five steps per exchange, and the delta of the plain round."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from collabedit.algebra import relative_distance
from collabedit.files import cache_directory
from collabedit.messages import Delta
from tests.cli.commands import collabedit, fails
from tests.cli.test_by_files import work, write_requests  # noqa: F401

PARTIES = {"hospital": (0, 2), "bank": (2, 3), "newsroom": (3, 6)}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with the parties' identities, requests and the roster."""
    roster = {}
    for party, (first, last) in PARTIES.items():
        out = collabedit("round", "key", party, "-o", tmp_path / f"{party}.key")
        roster |= json.loads("{" + out.strip() + "}")
        write_requests(tmp_path / f"{party}.jsonl", first, last)
    (tmp_path / "roster.json").write_text(json.dumps(roster))
    return tmp_path


def open_round(work: Path, folder: Path, schedule: str, *more: object) -> Path:  # noqa: F811
    out = folder / f"round-{schedule}-{len(more)}.json"
    collabedit(
        *("round", "new", "--model", work / "model", "--schedule", schedule, "-o", out),
        *("--hparams", work / "hparams.json", "--contexts", work / "contexts.json"),
        *("--dtype", "float64", *more),
    )
    return out


def secure_options(keys: Path) -> tuple[object, ...]:
    return "--secure-aggregation", "--roster", keys / "roster.json", "--max-edits", 6


def contribute(keys: Path, round_file: Path, party: str, request: Path | None, out: Path) -> str:
    asked = () if request is None else ("--answer", request)
    return collabedit(
        *("contribute", "--round", round_file, "-r", keys / f"{party}.jsonl", "-o", out),
        *("--identity", keys / f"{party}.key", "--roster", keys / "roster.json", *asked),
    )


def exchange(
    work: Path,  # noqa: F811
    keys: Path,
    round_file: Path,
    parties: list[str],
    delta: Path | None,
) -> Path:
    """One exchange; returns the delta's path."""
    request = None
    for step in range(1, 6):
        answers = []
        for party in parties:
            answers.append(keys / f"{party}.{step}")
            said = contribute(keys, round_file, party, request, answers[-1])
            assert f"step {step} of 5" in said
        request = keys / f"request{step}.safetensors"
        so_far = () if delta is None else ("--delta", delta)
        merge = ("merge", *answers, "--round", round_file, "-C", work / "cov64.safetensors")
        out = collabedit(*merge, *so_far, "-o", request)
    assert "edits of" in out
    assert not round_file.with_suffix(".summation.safetensors").exists()
    return request


@pytest.fixture(scope="module", autouse=True)
def _covariance(exact_module: None, work: Path) -> None:  # noqa: F811
    """Float64 throughout: float32 and a layerwise round magnify the last bits of a sum."""
    collabedit(
        *("stats", "collect", "--model", work / "model", "--layers", "1-2", "--dtype", "float64"),
        *("--corpus", work / "corpus.txt", "--tokens", 2000, "-o", work / "cov64.safetensors"),
    )


def plain_delta(work: Path, keys: Path, schedule: str) -> Delta:  # noqa: F811
    round_file = open_round(work, keys, schedule)
    delta: tuple[object, ...] = ()
    for number in range(1 if schedule == "one-shot" else 2):
        sent = []
        for party in PARTIES:
            sent.append(keys / f"{party}.plain")
            collabedit(
                *("contribute", "--round", round_file, "-r", keys / f"{party}.jsonl"),
                *("-o", sent[-1], *delta),
            )
        out = keys / f"plain{number}.safetensors"
        merge = ("merge", *sent, "--round", round_file, "-C", work / "cov64.safetensors")
        collabedit(*merge, *delta, "-o", out)
        delta = ("--delta", out)
    return Delta.load(out)


@pytest.mark.parametrize("schedule", ["one-shot", "layerwise"])
def test_by_files_the_delta_equals_that_of_the_plain_round(
    work: Path,  # noqa: F811
    keys: Path,
    schedule: str,
) -> None:
    round_file = open_round(work, keys, schedule, *secure_options(keys))
    out = None
    for _ in range(1 if schedule == "one-shot" else 2):
        out = exchange(work, keys, round_file, list(PARTIES), out)
    assert out is not None
    found, expected = Delta.load(out), plain_delta(work, keys, schedule)
    assert found.metadata.complete
    for name, change in expected.changes.items():
        assert relative_distance(found.changes[name], change) < 1e-9


def test_only_their_owner_can_read_secrets(work: Path, keys: Path) -> None:  # noqa: F811
    round_file = open_round(work, keys, "one-shot", *secure_options(keys))
    contribute(keys, round_file, "bank", None, keys / "bank.1")
    secret = json.loads((keys / "bank.key").read_text())["secret"]
    kept = sorted(cache_directory("secure").iterdir(), key=lambda path: path.stat().st_mtime)[-1]
    for path in (keys / "bank.key", kept):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    advert = (keys / "bank.1").read_text()
    state = json.loads(kept.read_text())
    for hidden in (secret, state["seed"], state["mask_secret"], state["encryption_secret"]):
        assert len(hidden) == 64
        assert hidden not in advert


def test_errors_get_one_line(work: Path, keys: Path) -> None:  # noqa: F811
    round_file = open_round(work, keys, "one-shot", *secure_options(keys))
    mine = ("contribute", "--round", round_file, "-r", keys / "bank.jsonl", "-o", keys / "x")
    assert "give your --identity" in fails(*mine)
    other = keys / "other.json"
    roster = json.loads((keys / "roster.json").read_text())
    other.write_text(json.dumps({**roster, "hospital": "0a" * 32}))
    identity = ("--identity", keys / "bank.key")
    assert "they differ in hospital" in fails(*mine, *identity, "--roster", other)
    assert "--identity needs --roster" in fails(*mine, *identity)
    assert "not an identity" in fails(*mine, "--identity", other, "--roster", other)
    assert "a key already exists" in fails("round", "key", "bank", "-o", keys / "bank.key")
    contribute(keys, round_file, "bank", None, keys / "bank.1")
    merge = ("merge", "--round", round_file, "-C", work / "cov64.safetensors", "-o", keys / "y")
    assert "1 parties answered 'advertise'" in fails(*merge, keys / "bank.1")
    (keys / "junk").write_text("{}")
    assert "which records the earlier steps, is missing" in fails(*merge, keys / "junk")
    for options, reason in (
        (("--secure-aggregation",), "needs --roster and --max-edits"),
        ((*secure_options(keys), "--threshold", 1), "threshold"),
        ((*secure_options(keys), "--sum-form", "thin"), "must be auto, dense or sketched"),
    ):
        line = fails("round", "new", "--model", work / "model", "-o", keys / "z", *options)
        assert reason in line
    assert not (keys / "y").exists()
    assert not (keys / "z").exists()
