"""A round: parties that measure, a coordinator that merges, and the messages between them."""

from collabedit.rounds.config import RoundConfig, Schedule, new_round
from collabedit.rounds.coordinator import Coordinator, merge_deltas
from collabedit.rounds.delta import Delta, DeltaMetadata
from collabedit.rounds.detection import Decision, Detection, Policy, decide, detect
from collabedit.rounds.fingerprints import Fingerprint, fingerprint, load_key
from collabedit.rounds.in_process import run_round
from collabedit.rounds.party import Party
from collabedit.rounds.state import RoundState
from collabedit.rounds.update import EditUpdate, UpdateMetadata

__all__ = [
    "Coordinator",
    "Decision",
    "Delta",
    "DeltaMetadata",
    "Detection",
    "EditUpdate",
    "Fingerprint",
    "Party",
    "Policy",
    "RoundConfig",
    "RoundState",
    "Schedule",
    "UpdateMetadata",
    "decide",
    "detect",
    "fingerprint",
    "load_key",
    "merge_deltas",
    "new_round",
    "run_round",
]
