"""Data sets by name or file, their partition among parties, and conflicting answers."""

from collabedit.datasets.catalogue import load_dataset, take
from collabedit.datasets.conflicts import check_conflicts, conflicting
from collabedit.datasets.partition import partition
from collabedit.datasets.round_edits import RoundEdit, load_round_edits, load_wordings

__all__ = [
    "RoundEdit",
    "check_conflicts",
    "conflicting",
    "load_dataset",
    "load_round_edits",
    "load_wordings",
    "partition",
    "take",
]
