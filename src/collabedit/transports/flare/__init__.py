"""Rounds over a network, on NVIDIA FLARE: it brings identities, mutual TLS and chunked messages.

FLARE carries bytes and nothing else. What they mean is read and checked by
:mod:`collabedit.messages`, so that no serialiser of FLARE's meets an object of ours.
"""

from collabedit.transports.flare.extra import require_flare

__all__ = ["require_flare"]
