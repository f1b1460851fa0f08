from __future__ import annotations

import json
from pathlib import Path

import pytest

from collabedit.editing.contexts import sample_contexts
from collabedit.editors import load_contexts
from collabedit.errors import InputError
from collabedit.models import LanguageModel


def test_contexts_are_seeded(tiny_llama: LanguageModel) -> None:
    first = sample_contexts(tiny_llama, 3)
    assert first == sample_contexts(tiny_llama, 3)
    assert first != sample_contexts(tiny_llama, 4)
    bare, prefixed = first
    assert bare == ("{}",)
    assert len(prefixed) == 5
    assert all(template.count("{}") == 1 and template.endswith(". {}") for template in prefixed)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([["{}"], ["no place"]], "exactly once"),
        ([["So. {}"]], "bare prompt"),
        ([["{}"], []], "non-empty"),
        (["{}"], "list of groups"),
    ],
)
def test_bad_contexts_are_refused(tmp_path: Path, value: object, message: str) -> None:
    path = tmp_path / "contexts.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=message):
        load_contexts(path)
