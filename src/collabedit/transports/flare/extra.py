"""Whether FLARE is installed."""

from __future__ import annotations

from importlib.util import find_spec

from collabedit.errors import MissingExtraError

__all__ = ["require_flare"]


def require_flare() -> None:
    """Check that FLARE is installed.

    Raises:
        MissingExtraError: when it is not; it says what to install.
    """
    if find_spec("nvflare") is None:
        raise MissingExtraError("nvflare", "flare", "a federation")
