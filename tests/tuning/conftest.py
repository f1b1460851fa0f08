"""Tuning is tested on the same data as the studies."""

from tests.experiments.conftest import _tiny_files, tiny  # noqa: F401
