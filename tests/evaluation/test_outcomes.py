"""Which edits succeeded."""

from __future__ import annotations

import pytest

from collabedit.evaluation.answers import Answer
from collabedit.evaluation.outcomes import Took, ask_edits, outcomes
from collabedit.models import LanguageModel
from tests.evaluation.test_answers import RECORD, TEMPLATE

SAID: Answer = {"form": "raw", "text": "Ford", "right": True, "about": True}
LOST: Answer = {"form": "question", "text": "the Ford is a Ford", "right": True, "about": False}
OTHER: Answer = {"form": "raw", "text": "Nintendo", "right": False, "about": False}


@pytest.mark.parametrize(
    ("raw", "chat", "expected"),
    [
        (SAID, SAID, Took.TOOK),
        (SAID, None, Took.TOOK),
        (SAID, LOST, Took.LOST),
        (SAID, OTHER, Took.NOT),
        (OTHER, SAID, Took.NOT),
        (OTHER, None, Took.NOT),
    ],
)
def test_an_edit_succeeds_if_it_holds_raw_and_in_chat(
    raw: Answer, chat: Answer | None, expected: Took
) -> None:
    before = (OTHER, None if chat is None else OTHER)
    found = outcomes([RECORD], [before], [(raw, chat)])
    assert found.each[0].took is expected
    assert found.failed == ([] if expected is Took.TOOK else [0])
    assert f"{int(expected is Took.TOOK)} of 1 edit took" in str(found)


def test_an_edit_is_asked_raw_and_in_the_first_chat_form(exact_llama: LanguageModel) -> None:
    ((raw, none),) = ask_edits(exact_llama, [RECORD])
    assert (raw["form"], none) == ("raw", None)
    exact_llama.tokenizer.chat_template = TEMPLATE
    ((raw, chat),) = ask_edits(exact_llama, [RECORD])
    assert chat is not None
    assert (raw["form"], chat["form"]) == ("raw", "question")
