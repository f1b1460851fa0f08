"""A log of a command's events, one JSON object per line.

It contains names of stages, numbers and times. Messages, arguments and paths may quote requests, so
they are never written.
"""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime, timezone
from typing import TextIO

from collabedit.errors import InputError

__all__ = ["EventLog"]


class EventLog:
    """Appends events to a file.

    Args:
        path: the file, which is replaced.

    Raises:
        InputError: when it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._file: TextIO = open(path, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        except OSError as error:
            raise InputError(
                f"--log-json: cannot write {os.fspath(path)}: {error.strerror or error}"
            ) from None
        self._lock = threading.Lock()

    def write(self, event: str, **values: str | float | None) -> None:
        """Append an event; unknown values are left out.

        Args:
            event: its kind.
            values: the package's own names and numbers, never a user's text.
        """
        known = {key: value for key, value in values.items() if value is not None}
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        with self._lock:
            self._file.write(json.dumps({"time": time, "event": event, **known}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
