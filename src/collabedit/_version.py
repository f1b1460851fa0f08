"""The version, in the lowest layer so that everything may import it."""

from __future__ import annotations

__all__ = ["__version__"]

#: The version of the package; the build reads it from here.
__version__ = "0.2.0"
