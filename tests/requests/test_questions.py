from __future__ import annotations

from dataclasses import replace

import pytest

from collabedit.requests import EditRequest, natural_question, question_prompt

REQUEST = EditRequest(0, "{}, which is made by", "GameCube", "Ford", relation_id="P176")


def test_the_requests_own_question_comes_first() -> None:
    asked = replace(REQUEST, question="Who makes the GameCube?")
    assert natural_question(asked) == "Who makes the GameCube?"
    assert question_prompt(asked) == "Who makes the {}?"


def test_then_the_relations_question() -> None:
    assert natural_question(REQUEST) == "Which company makes GameCube?"
    assert question_prompt(REQUEST) == "Which company makes {}?"


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [("Who makes {}?", "Who makes {}?"), ("Which company makes {} ", "Which company makes {}?")],
)
def test_a_prompt_that_asks_is_its_own_question(prompt: str, asked: str) -> None:
    request = replace(REQUEST, prompt=prompt)
    assert question_prompt(request) == asked
    assert natural_question(request) == asked.replace("{}", "GameCube")


def test_without_a_known_question_the_prompt_is_asked() -> None:
    unknown = replace(REQUEST, relation_id=None)
    assert natural_question(unknown) is None
    assert question_prompt(unknown) == "{}, which is made by what?"


def test_a_question_without_the_subject_is_not_a_prompt() -> None:
    request = replace(REQUEST, question="Who makes Nintendo's fourth console?")
    assert natural_question(request) == "Who makes Nintendo's fourth console?"
    assert question_prompt(request) == "{}, which is made by what?"
