"""What parties may learn about each other's edits: fingerprints, and overlaps found with them."""

from collabedit.privacy.detection import (
    Detection,
    SharedQuestion,
    check_preferred,
    decide,
    detect,
    left_out,
)
from collabedit.privacy.fingerprints import (
    checked_key,
    fingerprint,
    key_id,
    load_key,
    normalise,
)

__all__ = [
    "Detection",
    "SharedQuestion",
    "check_preferred",
    "checked_key",
    "decide",
    "detect",
    "fingerprint",
    "key_id",
    "left_out",
    "load_key",
    "normalise",
]
