"""Collaborative knowledge editing of language models: many parties' edits, merged without loss."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("collabedit")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
