"""A round: parties that measure, a coordinator that merges, and the messages between them."""

from collabedit.rounds.config import RoundConfig, Schedule, new_round
from collabedit.rounds.coordinator import Coordinator, merge_deltas
from collabedit.rounds.delta import Delta, DeltaMetadata
from collabedit.rounds.in_process import run_round
from collabedit.rounds.party import Party
from collabedit.rounds.update import EditUpdate, UpdateMetadata

__all__ = [
    "Coordinator",
    "Delta",
    "DeltaMetadata",
    "EditUpdate",
    "Party",
    "RoundConfig",
    "Schedule",
    "UpdateMetadata",
    "merge_deltas",
    "new_round",
    "run_round",
]
