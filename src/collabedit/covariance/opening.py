"""Opens the corpus that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from collabedit.covariance.corpus import Corpus
from collabedit.covariance.self_corpus import SelfCorpus
from collabedit.covariance.text_corpus import file_corpus, hub_corpus
from collabedit.errors import InputError

__all__ = ["open_corpus"]


def open_corpus(names: Sequence[str], seed: int) -> Corpus:
    """The corpus behind what the user typed.

    Args:
        names: ``["self"]``, ``["hub:NAME"]``, ``["hub:NAME:CONFIGURATION"]``, or files.
        seed: of the samples, or of the order of the documents.

    Raises:
        InputError: when a file cannot be read, or when kinds are mixed.
        MissingExtraError: when a Hub data set is asked for without the package for it.
    """
    if list(names) == ["self"]:
        return SelfCorpus(seed)
    if len(names) == 1 and names[0].startswith("hub:"):
        return hub_corpus(names[0].removeprefix("hub:"), seed)
    special = [name for name in names if name == "self" or name.startswith("hub:")]
    if special:
        raise InputError(f"the corpus {special[0]!r} cannot be mixed with others; give it alone")
    return file_corpus([Path(name).expanduser() for name in names], seed)
