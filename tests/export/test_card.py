"""Model cards: what they say, and what they must never say."""

from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.export.card import base_name, licence_of, model_card
from tests.export.saving import load, original, random_delta


def test_a_card_says_what_was_done(tmp_path: Path) -> None:
    delta = random_delta(load(original(tmp_path / "m")))
    about = delta.metadata
    card = model_card(
        delta,
        "A LoRA adapter",
        undo="Unload it.",
        licence="mit",
        library="peft",
        notes=["Rank 8"],
        evaluation={"unedited": {"ES": 12.5}, "as exported": {"ES": 100.0, "PS": 87.5}},
    )
    assert card.startswith("---\nlicense: mit\nlibrary_name: peft\n")
    for text in (*about.model_sha256, *about.model_sha256.values(), about.round_sha256):
        assert text in card
    assert "| unedited | 12.5 |  |" in card
    assert "| as exported | 100.0 | 87.5 |" in card
    assert "Unload it." in card
    assert "- Rank 8" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("owner/name-1.5B", "owner/name-1.5B"),
        ("/home/somebody/secret-project/llama", "llama"),
        ("../models/x.gguf", "x.gguf"),
        ("smollm2-135m", "smollm2-135m"),
    ],
)
def test_a_base_is_not_named_by_its_path(model: str, expected: str) -> None:
    assert base_name(model) == expected


def test_the_licence_is_the_bases(tmp_path: Path) -> None:
    assert licence_of(None, "smollm2-135m") == "apache-2.0"
    assert licence_of(None, "gemma-3-270m") == "gemma"
    assert licence_of(tmp_path, "m") is None
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\ntags: [x]\n---\n")
    assert licence_of(tmp_path, "m") == "cc-by-4.0"
