"""The version, at the ground floor so that everything may import it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("collabedit")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
