"""A round's coordinator: the half that needs no model.

It asks parties over a :class:`Transport`, checks and merges their contributions, and records them
in a :class:`Ledger`. Importing this package does not load transformers.
"""

from collabedit.rounds.by_files import RoundFiles, keep_state, ledger_file_of, state_before
from collabedit.rounds.coordinator import (
    Coordinator,
    gives_statistics,
    merge_deltas,
    require_statistics,
    require_sum,
)
from collabedit.rounds.gate import run_gate
from collabedit.rounds.ledger import Entry, Exchange, Ledger
from collabedit.rounds.loop import Dropout, run_round
from collabedit.rounds.priors import Priors, dynamic_priors, priors_at_once, static_priors
from collabedit.rounds.sharing import ask_fingerprints, ask_to_follow
from collabedit.rounds.transport import Failure, Transport
from collabedit.rounds.verdict import COORDINATOR, Verdict, judge

__all__ = [
    "COORDINATOR",
    "Coordinator",
    "Dropout",
    "Entry",
    "Exchange",
    "Failure",
    "Ledger",
    "Priors",
    "RoundFiles",
    "Transport",
    "Verdict",
    "ask_fingerprints",
    "ask_to_follow",
    "dynamic_priors",
    "gives_statistics",
    "judge",
    "keep_state",
    "ledger_file_of",
    "merge_deltas",
    "priors_at_once",
    "require_statistics",
    "require_sum",
    "run_gate",
    "run_round",
    "state_before",
    "static_priors",
]
