"""Rounds over a network, on NVIDIA FLARE: it provides identities, mutual TLS and chunked messages.

FLARE carries bytes and nothing else. :mod:`collabedit.messages` parses and checks them, so that
FLARE's serialisers never see one of our objects.
"""

from collabedit.transports.flare.extra import require_flare

__all__ = ["require_flare"]
