"""The stages of commands, for :func:`collabedit.progress.plan`."""

from __future__ import annotations

__all__ = ["COMMANDS", "EDIT", "EXCHANGES", "study_stages"]

_LOAD = "Loading the model"
_COVARIANCE = "Collecting second moments"
_KEYS = "Measuring keys"
_TARGETS = "Optimising targets"
_ASK = "Generating"

#: One party, from the model to the update.
EDIT = (_LOAD, _COVARIANCE, _KEYS, _TARGETS, _KEYS)
#: By command, for those whose options make no difference.
COMMANDS = {
    "contribute": (_LOAD, _KEYS, _TARGETS, _KEYS),
    "edit": (_LOAD, _COVARIANCE, _ASK, _KEYS, _TARGETS, _KEYS, _ASK),
    "stats": (_LOAD, _COVARIANCE),
}

#: What a coordinator waits for over a network, by what it asks the parties for.
EXCHANGES = {
    "join": "Joining",
    "announce": "Comparing fingerprints",
    "decide": "Settling shared edits",
    "prepare": "Finding targets",
    "summarise": "Computing normalisers",
    "contribute": "Computing statistics",
    "advertise": "Summing securely: keys",
    "share": "Summing securely: shares",
    "mask": "Summing securely: masked statistics",
    "confirm": "Summing securely: signatures",
    "unmask": "Summing securely: the sum",
    "evaluate": "Evaluating the merged model",
    "accept": "Keeping the result",
    "roll back": "Rolling back",
}


def study_stages(
    methods: int,
    *,
    rounds: int = 1,
    measured: int | None = None,
    generations: bool = False,
    heldout: bool = False,
) -> tuple[str, ...]:
    """Stages of a study of one round, or of several that each method goes through on its own.

    Args:
        methods: number of methods compared.
        rounds: number of rounds.
        measured: number of rounds after which each method's edits are measured; all by default.
        generations: whether texts are generated and measured.
        heldout: whether perplexity is measured.
    """
    measure = ("Scoring",) + (_ASK,) * generations + ("Perplexity",) * heldout
    begin = (_LOAD, _COVARIANCE, *measure)
    if rounds == 1:
        return (*begin, _KEYS, _TARGETS, *(_KEYS, *measure) * methods)
    edits = (_KEYS, _TARGETS, _KEYS)
    count = rounds if measured is None else measured
    return (*begin, *edits * (methods * (rounds - count)), *(*edits, *measure) * (methods * count))
