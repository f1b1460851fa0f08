from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.models import LanguageModel


@pytest.fixture(scope="module")
def model_directory(tiny_llama: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama.hf.save_pretrained(folder)
    tiny_llama.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("The capital of France is Paris.\n\n" * 100, encoding="utf-8")
    return path
