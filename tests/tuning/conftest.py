"""Tuning is tried on what the studies are."""

from tests.experiments.conftest import _tiny_files, tiny  # noqa: F401
