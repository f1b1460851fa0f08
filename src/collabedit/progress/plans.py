"""The stages of commands, for :func:`collabedit.progress.plan`."""

from __future__ import annotations

__all__ = ["COMMANDS", "EDIT", "study_stages"]

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


def study_stages(
    methods: int, *, rounds: int = 1, generations: bool = False, heldout: bool = False
) -> tuple[str, ...]:
    """Stages of a study of one round, or of several that each method goes through on its own.

    Args:
        methods: number of methods that are compared.
        rounds: number of rounds.
        generations: whether texts are generated and measured.
        heldout: whether perplexity is measured.
    """
    measure = ("Scoring",) + (_ASK,) * generations + ("Perplexity",) * heldout
    begin = (_LOAD, _COVARIANCE, *measure)
    if rounds == 1:
        return (*begin, _KEYS, _TARGETS, *(_KEYS, *measure) * methods)
    return (*begin, *(_KEYS, _TARGETS, _KEYS, *measure) * (methods * rounds))
