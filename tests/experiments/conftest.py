"""Fixtures for the tests of studies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import float64_throughout
from tests.experiments.studies import Tiny


@pytest.fixture(scope="module", autouse=True)
def _exact(exact_module: None) -> None:
    """Deltas are compared up to the last digits."""


@pytest.fixture(scope="session")
def _tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    with float64_throughout():
        return Tiny.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny(_tiny_files: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """The files of a small study, and a cache that no other test has filled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLLABEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield _tiny_files
