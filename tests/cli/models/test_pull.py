from __future__ import annotations

from tests.cli.commands import fails


def test_an_unknown_built_in_name_is_refused_with_the_list() -> None:
    assert "choose one of: smollm2-135m" in fails("models", "pull", "smollm3")
