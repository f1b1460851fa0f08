"""Parties of one process under secure aggregation, and without it."""

from __future__ import annotations

import sys

import pytest

from collabedit.models import LanguageModel
from collabedit.parties.in_process import parties_of
from tests.rounds.test_round import make_round


def test_a_plain_round_needs_no_cryptography(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "collabedit.privacy.secure", None)
    assert parties_of(make_round(tiny_llama)) is None
