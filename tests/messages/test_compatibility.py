"""Files of version 1, written by collabedit 0.1, are still read and still fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.algebra import relative_distance
from collabedit.merging import resolve_method
from collabedit.messages import (
    Contribution,
    Covariance,
    Decision,
    Delta,
    Policy,
    RoundConfig,
    RoundState,
    Schedule,
)
from collabedit.privacy import detect
from collabedit.rounds import Coordinator, static_priors

FILES = Path(__file__).parents[1] / "fixtures" / "v1"
FOLDERS = {Schedule.LAYERWISE: FILES / "sequential", Schedule.ONE_SHOT: FILES / "one-shot"}


@pytest.mark.parametrize(("schedule", "folder"), FOLDERS.items())
def test_a_version_1_round_merges_to_the_same_delta(schedule: Schedule, folder: Path) -> None:
    config = RoundConfig.load(folder / "round.json")
    assert config.schedule is schedule
    assert config.version == 2
    priors = static_priors(config, Covariance.load(FILES / "covariance.safetensors"))
    coordinator = Coordinator(config, priors, resolve_method("CollabEdit"))
    for exchange in range(1, 1 + len(list(folder.glob("delta-*")))):
        names = [f"{party}-{exchange}.safetensors" for party in ("hospital", "bank")]
        merged = coordinator.merge({name: Contribution.load(folder / name) for name in names})
        stored = Delta.load(folder / f"delta-{exchange}.safetensors")
        assert stored.metadata.round_sha256 == config.sha256
        assert stored.metadata.schedule is schedule
        # The layers so far are identified by their bytes, to which later contributions refer.
        for name, change in stored.changes.items():
            assert relative_distance(merged.changes[name], change) < 1e-10
        if not stored.metadata.complete:
            coordinator = _continued(coordinator, stored)
    state = RoundState.load(folder / "state.safetensors")
    assert (state.finished, state.base_sha256) == (1, {})
    for name, keys in coordinator.keys.items():
        theirs = state.keys[name]
        distance = (keys @ keys.T - theirs @ theirs.T).norm() / (theirs @ theirs.T).norm()
        assert float(distance) < 1e-12


def _continued(coordinator: Coordinator, delta: Delta) -> Coordinator:
    """The coordinator with exactly the bytes of the stored delta, as in a file."""
    from dataclasses import replace

    coordinator.ledger = replace(coordinator.ledger, delta=delta)
    return coordinator


def test_fingerprints_and_the_decision_about_them_still_agree() -> None:
    folder = FOLDERS[Schedule.ONE_SHOT]
    sent = {
        party: Contribution.load(folder / f"{party}-1.safetensors").metadata
        for party in ("hospital", "bank")
    }
    decision = Decision.load(FILES / "decision.json")
    assert decision.policy is Policy.FIRST
    assert len(detect(sent).overlaps) == 1
    assert decision.places(sent["hospital"].fingerprints) == ()
    assert len(decision.places(sent["bank"].fingerprints)) == 1


def test_files_are_written_in_version_2(tmp_path: Path) -> None:
    folder = FOLDERS[Schedule.ONE_SHOT]
    Contribution.load(folder / "bank-1.safetensors").save(tmp_path / "bank.safetensors")
    again = Contribution.load(tmp_path / "bank.safetensors")
    assert (again.metadata.format, again.metadata.version) == ("collabedit.contribution", 2)
    config = RoundConfig.load(folder / "round.json")
    config.save(tmp_path / "round.json")
    text = (tmp_path / "round.json").read_text()
    assert '"weight_names"' in text
    assert '"weights"' not in text
