"""A round by files with a gate: bounds, votes, and the state that only a kept delta changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collabedit.messages import Bounds, Evaluation, Gate, RoundConfig, RoundState
from collabedit.rounds import Ledger
from tests.cli.commands import _run, collabedit, fails
from tests.cli.test_by_files import work, write_requests  # noqa: F401

PARTIES = {"hospital": (0, 2), "bank": (2, 3), "newsroom": (3, 5)}
#: A random model learns no facts; its trial can only judge its text.
OPEN = ("--least-efficacy", 0, "--most-loss", 1, "--most-perplexity", 100)


def open_round(work: Path, out: Path, *more: object) -> Path:  # noqa: F811
    collabedit(
        *("round", "new", "--model", work / "model", "--schedule", "one-shot", "-o", out),
        *("--hparams", work / "hparams.json", "--contexts", work / "contexts.json", *more),
    )
    return out


@pytest.fixture
def merged(work: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A folder with a round of three parties with a gate, merged, and its state."""
    round_file = open_round(work, tmp_path / "round.json", *OPEN, "--party-norm", 10)
    sent = []
    for party, (first, last) in PARTIES.items():
        requests = write_requests(tmp_path / f"{party}.jsonl", first, last)
        sent.append(tmp_path / f"{party}.safetensors")
        collabedit(
            *("contribute", "--round", round_file, "-r", requests, "-o", sent[-1]),
            *("--party", party),
        )
    said = collabedit(
        *("merge", *sent, "--round", round_file, "-C", work / "cov.safetensors"),
        *("--state", tmp_path / "state.safetensors", "-o", tmp_path / "delta.safetensors"),
    )
    assert "Each party votes: collabedit round vote" in said
    assert not (tmp_path / "state.safetensors").exists()
    return tmp_path


def vote(folder: Path, party: str | None) -> Path:
    out = folder / f"{party}.vote.json"
    own = () if party is None else ("-r", folder / f"{party}.jsonl", "--party", party)
    said = collabedit(
        *("round", "vote", folder / "delta.safetensors", "--round", folder / "round.json"),
        *("-o", out, *own),
    )
    assert f"{out}: {party or 'coordinator'} accepts" in said
    return out


def test_votes_decide_whether_a_state_is_written(merged: Path) -> None:
    votes = [vote(merged, party) for party in (*PARTIES, None)]
    texts = [path.read_text() for path in votes]
    for own in PARTIES:
        for line in (merged / f"{own}.jsonl").read_text().splitlines():
            assert not [text for text in texts if json.loads(line)["subject"] in text]
    decide = ("round", "decide", "--round", merged / "round.json")
    state = ("--state", merged / "state.safetensors")
    assert "a second vote from hospital" in fails(*decide, votes[0], votes[0])

    rejecting = Evaluation.load(votes[1]).model_copy(update={"objections": ("efficacy",)})
    rejecting.save(votes[1])
    status, out, _ = _run(*decide, *votes, *state)
    assert status == 1
    assert "bank rejects: 0 of 1 edited prompts give the new object" in out
    assert "rolled back: 3 of 4 votes accept, 100% must" in out
    assert not (merged / "state.safetensors").exists()
    verdict = Ledger.load(merged / "round.ledger.safetensors").verdict
    assert verdict is not None
    assert [party for party, each in verdict.votes.items() if not each.accepts] == ["bank"]

    few = _run(*decide, votes[0], votes[3])
    assert few[0] == 1
    assert "1 of 3 parties voted" in few[1]

    out = collabedit(*decide, votes[0], votes[2], votes[3], *state)
    assert "hospital accepts" in out
    assert "accepted: each party runs 'collabedit apply" in out
    assert RoundState.load(merged / "state.safetensors").finished == 1


def test_votes_on_something_else_are_refused(merged: Path, work: Path) -> None:  # noqa: F811
    path = vote(merged, "bank")
    other = Evaluation.load(path).model_copy(update={"delta_sha256": "0" * 64})
    other.save(path)
    decide = ("round", "decide", path, "--round", merged / "round.json")
    assert "bank.vote.json: it evaluated another delta" in fails(*decide)
    open_round(work, merged / "other.json")
    said = fails(
        *("round", "vote", merged / "delta.safetensors", "--round", merged / "other.json"),
        *("-o", merged / "vote.json"),
    )
    assert "another round" in said


def test_a_round_file_stores_its_limits(work: Path, tmp_path: Path) -> None:  # noqa: F811
    plain = RoundConfig.load(open_round(work, tmp_path / "plain.json"))
    assert (plain.bounds, plain.gate) == (None, None)
    limits = ("--party-edits", 5, "--party-rank", 4, "--party-norm", 7, "--gate")
    config = RoundConfig.load(open_round(work, tmp_path / "round.json", *limits))
    assert config.bounds == Bounds(edits=5, rank=4, norm=7)
    assert config.gate == Gate()
    said = fails("round", "new", "--party-norm", 1, "-o", tmp_path / "x.json")
    assert "--party-norm must be above 1" in said


def test_a_party_with_too_many_edits_learns_of_it_at_once(
    work: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    round_file = open_round(work, tmp_path / "round.json", "--party-edits", 2)
    requests = write_requests(tmp_path / "mine.jsonl", 0, 3)
    said = fails("contribute", "--round", round_file, "-r", requests, "-o", tmp_path / "out")
    assert "this party: it has 3 edits, and the round allows at most 2 per party" in said
    assert not (tmp_path / "out").exists()
