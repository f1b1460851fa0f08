"""Checkpoints of a collection, from which an interrupted one continues."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collabedit.covariance.sums import Sums
from collabedit.errors import CollabEditError
from collabedit.files import load_tensors, save_tensors

__all__ = ["PARTIAL_FORMAT", "Checkpoint", "continued"]

#: Least seconds between checkpoints, and least ratio to the time that writing one takes.
_CHECKPOINT_SECONDS = 20.0
_CHECKPOINT_RATIO = 10.0

PARTIAL_FORMAT = "collabedit.covariance-partial"


class Checkpoint:
    """Writes the sums collected so far, at intervals."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._due = time.monotonic() + _CHECKPOINT_SECONDS

    def offer(self, sums: Sums) -> None:
        """Write a checkpoint if the last one is old enough."""
        began = time.monotonic()
        if began < self._due:
            return
        metadata = {
            "format": PARTIAL_FORMAT,
            "key": self._key,
            "squares": sums.squares,
            "samples": sums.samples,
            "blocks": sums.blocks,
            "chunks": sums.chunks,
        }
        save_tensors(self._path, sums.totals, metadata)
        end = time.monotonic()
        self._due = end + max(_CHECKPOINT_SECONDS, _CHECKPOINT_RATIO * (end - began))


def continued(path: Path, key: str, zeros: Sums, say: Callable[[str], None]) -> Sums:
    """The sums in a checkpoint of the same collection, or ``zeros``."""
    if not path.exists():
        return zeros
    try:
        totals, metadata = load_tensors(path, "checkpoint")
    except CollabEditError as error:
        say(f"{error}; starting over.")
        return zeros
    if metadata.get("key") != key:
        say(f"{path} belongs to another collection; it will be replaced.")
        return zeros
    counts: dict[str, Any] = {name: metadata[name] for name in ("samples", "blocks", "chunks")}
    say(f"Continuing from {path}: {counts['samples']:,} tokens are done.")
    return Sums(totals, metadata["squares"], **counts)
