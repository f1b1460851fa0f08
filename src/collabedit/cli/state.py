"""The state between rounds by files: read before a round, written once its delta is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collabedit.messages import RoundConfig, RoundState
    from collabedit.rounds import Ledger

__all__ = ["keep_state", "ledger_file", "state_before"]


def ledger_file(round_file: Path) -> Path:
    """Where a coordinator keeps a round's ledger: beside the round file."""
    return round_file.with_suffix(".ledger.safetensors")


def state_before(config: RoundConfig, path: Path | None) -> RoundState | None:
    """What earlier rounds left; ``None`` where there are none and nobody asks for a state.

    Raises:
        InputError: when the round follows earlier ones and no state is given.
        RoundError: when it is not the state that the round begins with.
    """
    from collabedit.errors import InputError, RoundError
    from collabedit.messages import RoundState

    if path is None:
        if config.state_sha256:
            raise InputError("the round follows earlier ones; give their --state")
        return None
    state = RoundState.load(path) if path.exists() else RoundState()
    if state.sha256 != config.state_sha256:
        raise RoundError(
            f"{path}: not the state that this round begins with; it is after "
            f"round {state.finished} (begin the next round with 'collabedit round new --state')"
        )
    return replace(state, base_sha256=dict(config.covariance_sha256))


def keep_state(path: Path | None, before: RoundState | None, ledger: Ledger) -> None:
    """Write the state after a complete round, if there is to be one."""
    if path is None or before is None:
        return
    before.after(ledger.delta.changes, ledger.keys).save(path)
    print(f"{path}: the state after round {before.finished + 1}")
