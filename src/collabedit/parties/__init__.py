"""The half of a round that needs a model: parties, opening a round, and applying a delta."""

from collabedit.parties.applying import apply_delta, check_delta_model
from collabedit.parties.companions import Companions
from collabedit.parties.fine_tuning import fine_tune
from collabedit.parties.opening import check_round_model, new_round, round_on
from collabedit.parties.party import Party, checked_threshold
from collabedit.parties.secret import stored_secret
from collabedit.parties.trial import try_delta

__all__ = [
    "Companions",
    "Party",
    "apply_delta",
    "check_delta_model",
    "check_round_model",
    "checked_threshold",
    "fine_tune",
    "new_round",
    "round_on",
    "stored_secret",
    "try_delta",
]
