"""A tiny model on disk for the page to edit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ui.bench import model_folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, _tiny_models: object) -> Path:
    """A folder with ``model`` and ``covariance.safetensors``."""
    return model_folder(tmp_path_factory.mktemp("page"))
