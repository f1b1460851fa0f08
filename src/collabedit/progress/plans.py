"""The stages of commands, for :func:`collabedit.progress.plan`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COMMANDS", "EDIT", "EXCHANGES", "round_stages", "study_stages"]

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


def round_stages(methods: int, *, answers: bool = False, heldout: bool = False) -> tuple[str, ...]:
    """Stages of a study of one round, whose targets all methods share.

    Args:
        methods: number of methods compared.
        answers: whether the model writes answers, which are measured.
        heldout: whether perplexity is measured.
    """
    measure = _measuring(answers, heldout)
    return (_LOAD, _COVARIANCE, *measure, _KEYS, _TARGETS, *(_KEYS, *measure) * methods)


def study_stages(
    trajectories: int, measured: Sequence[bool], *, answers: bool = False, heldout: bool = False
) -> tuple[str, ...]:
    """Stages of a study of several rounds, through which each trajectory goes on its own.

    Args:
        trajectories: their number.
        measured: for each round, whether the edits so far are measured after it.
        answers: whether the model writes answers, which are measured.
        heldout: whether perplexity is measured.
    """
    measure = _measuring(answers, heldout)
    rounds = [(_KEYS, _TARGETS, _KEYS, *measure * after) for after in measured]
    each = tuple(title for titles in rounds for title in titles)
    return (_LOAD, _COVARIANCE, *measure, *each * trajectories)


def _measuring(answers: bool, heldout: bool) -> tuple[str, ...]:
    return ("Scoring",) + (_ASK,) * answers + ("Perplexity",) * heldout
