"""Rounds are compared to the last digits, so models compute in float64 throughout."""

from __future__ import annotations

import pytest

from collabedit.models import LanguageModel
from tests.conftest import make_model


@pytest.fixture(autouse=True)
def _exact(exact_arithmetic: None) -> None:
    """In every test of this folder."""


@pytest.fixture
def tiny_llama(exact_llama: LanguageModel) -> LanguageModel:
    """A Llama of four layers."""
    return exact_llama


@pytest.fixture
def tiny_gpt2(exact_arithmetic: None) -> LanguageModel:
    """A GPT-2 of four layers, whose weights are stored transposed."""
    return make_model("gpt2")
