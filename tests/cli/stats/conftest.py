from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.models import LanguageModel
from tests.conftest import save_model


@pytest.fixture(scope="module")
def model_directory(tiny_llama: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tiny_llama, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("The capital of France is Paris.\n\n" * 100, encoding="utf-8")
    return path
