from __future__ import annotations

from tests.cli.commands import collabedit


def test_list_names_the_built_in_models() -> None:
    assert "smollm2-135m" in collabedit("models", "list")
