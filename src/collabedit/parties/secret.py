"""This machine's secret, with which a party commits to its edits and hashes them in its notes."""

from __future__ import annotations

import os
import secrets

from collabedit.files import cache_directory

__all__ = ["stored_secret"]

_BYTES = 32


def stored_secret() -> bytes:
    """This user's secret, created on first use; kept in the cache, readable by this user only.

    The exchanges of a layerwise round run in separate processes, whose commitments agree
    only if they share the secret.

    Raises:
        InputError: when the cache cannot be written.
    """
    path = cache_directory("identity") / "secret"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(handle, "wb") as stream:
        secret = secrets.token_bytes(_BYTES)
        stream.write(secret)
    return secret
