from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import collabedit, fails
from tests.conftest import make_model


@pytest.mark.parametrize("tied", [True, False])
def test_show_says_what_was_inferred_and_what_follows(tmp_path: Path, tied: bool) -> None:
    model = make_model("llama", tie_word_embeddings=tied)
    model.hf.save_pretrained(tmp_path)
    facts = json.loads(collabedit("models", "show", tmp_path, "--json"))
    assert facts["structure"]["down_projection"] == "mlp.down_proj"
    assert facts["structure"]["tied_head"] is tied
    assert facts["hyperparameters"]["layers"] == [0, 1, 2, 3]
    assert facts["hyperparameters_from"] == "scaled to 4 layers, not tuned"
    assert "mlp.down_proj" in collabedit("models", "show", tmp_path)


def test_a_directory_that_is_not_a_model_is_refused(tmp_path: Path) -> None:
    assert "no config.json in it" in fails("models", "show", tmp_path)
