"""Withdrawing a party: the delta of a round that it never joined."""

from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.algebra import relative_distance
from collabedit.messages import Contribution, Delta
from collabedit.rounds import Ledger
from tests.cli.commands import collabedit, fails
from tests.cli.test_by_files import work, write_requests  # noqa: F401
from tests.cli.test_secure import PARTIES, _covariance, open_round  # noqa: F401


def contributions(folder: Path, round_file: Path) -> dict[str, Path]:
    made = {}
    for party, (first, last) in PARTIES.items():
        requests = write_requests(folder / f"{party}.jsonl", first, last)
        made[party] = folder / f"{party}.safetensors"
        collabedit(
            *("contribute", "--round", round_file, "-r", requests, "-o", made[party]),
            *("--party", party),
        )
    return made


def options(work: Path, round_file: Path, out: Path) -> tuple[object, ...]:  # noqa: F811
    return "--round", round_file, "-C", work / "cov64.safetensors", "-o", out


@pytest.mark.parametrize("schedule", ["one-shot", "layerwise"])
def test_a_party_is_removed_exactly(work: Path, tmp_path: Path, schedule: str) -> None:  # noqa: F811
    round_file = open_round(work, tmp_path, schedule)
    sent = contributions(tmp_path, round_file)
    two = [sent["hospital"], sent["newsroom"]]
    collabedit("merge", *two, *options(work, round_file, tmp_path / "two"))
    collabedit("merge", *sent.values(), *options(work, round_file, tmp_path / "all"))
    said = collabedit(
        *("withdraw", *sent.values(), "--without", "bank"),
        *options(work, round_file, tmp_path / "rest"),
    )
    digest = Contribution.load(sent["bank"]).sha256
    assert f"removed: bank, contribution {digest}" in said
    assert ("runs 'collabedit contribute' again" in said) is (schedule == "layerwise")
    rest, never = Delta.load(tmp_path / "rest"), Delta.load(tmp_path / "two")
    for name, change in never.changes.items():
        assert relative_distance(rest.changes[name], change) < 1e-12
    (exchange,) = Ledger.load(round_file.with_suffix(".ledger.safetensors")).exchanges
    assert [entry.party for entry in exchange.entries] == ["hospital", "newsroom"]


def test_invalid_withdrawals_are_refused(work: Path, tmp_path: Path) -> None:  # noqa: F811
    round_file = open_round(work, tmp_path, "one-shot")
    sent = contributions(tmp_path, round_file)
    collabedit("merge", *sent.values(), *options(work, round_file, tmp_path / "all"))
    last = options(work, round_file, tmp_path / "rest")
    assert "it has hospital, bank" in fails("withdraw", *sent.values(), "--without", "x", *last)
    assert "newsroom is missing" in fails("withdraw", sent["hospital"], "--without", "bank", *last)
    everyone = [word for party in PARTIES for word in ("--without", party)]
    assert "no party is left" in fails("withdraw", *sent.values(), *everyone, *last)
    collabedit(
        *("contribute", "--round", round_file, "-r", tmp_path / "bank.jsonl"),
        *("-o", tmp_path / "other", "--party", "other"),
    )
    assert "not a contribution to the round" in fails(
        "withdraw", *sent.values(), tmp_path / "other", "--without", "bank", *last
    )
    assert not (tmp_path / "rest").exists()
