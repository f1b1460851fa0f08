"""Secure aggregation: the coordinator learns only the sum of the parties' statistics.

The protocol is that of Bonawitz et al. (2017) in its form against an active coordinator: keys are
signed, masks are doubled, secrets are shared, and the parties agree on who is in the sum before
they unmask it. :class:`SecureParty` and :class:`Summation` are its two halves; the messages are in
:mod:`collabedit.messages`. It needs the package ``cryptography`` (``collabedit[secure]``).
"""

from collabedit.privacy.secure.forms import Exchanged, secure_of
from collabedit.privacy.secure.keys import Identity, load_roster
from collabedit.privacy.secure.party import PartyState, SecureParty
from collabedit.privacy.secure.summation import Answer, Summation, Summed

__all__ = [
    "Answer",
    "Exchanged",
    "Identity",
    "PartyState",
    "SecureParty",
    "Summation",
    "Summed",
    "load_roster",
    "secure_of",
]
