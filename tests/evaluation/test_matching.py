"""Names in texts: whole words in any script, whole numbers, and loops."""

from __future__ import annotations

import pytest

from collabedit.evaluation.matching import count_words, loops, names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("The GameCube is made by Ford.", "Ford"),
        ("it is FORD", "Ford"),
        ("Ford's plant", "Ford"),
        ("a Ford-built car", "Ford"),
        ("It weighs 743 kg.", "743"),
        ("743, they say. And 743.", "743"),
        ("Столицата: Пловдив.", "Пловдив"),
        ("東京都にあります", "東京"),
        ("首都是里昂。", "里昂"),
        ("เมืองหลวงคือเชียงใหม่ครับ", "เชียงใหม่"),
        ("수도는 부산입니다.", "부산"),
        ("العاصمة هي بباريس", "باريس"),
        ("the capital is O’Neill", "O'Neill"),
        ("São\u00a0Paulo is large", "São Paulo"),
        ("दिल्ली भारत में है", "दिल्ली"),
        ("Fordham, then Ford", "Ford"),
    ],
)
def test_a_name_is_found_as_a_whole(text: str, name: str) -> None:
    assert names(text, name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Fordham University", "Ford"),
        ("Oxford", "Ford"),
        ("It weighs 7439 kg.", "743"),
        ("1,743 people", "743"),
        ("743.5 metres", "743"),
        ("Пловдивски", "Пловдив"),
        ("दिल्ली", "दिल"),
        ("부산물이 있다", "부산"),
        ("anything", ""),
    ],
)
def test_part_of_a_word_is_not_a_name(text: str, name: str) -> None:
    assert not names(text, name)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", 0), ("Ford.", 1), ("It is Ford", 3), ("— Ford —", 1), ("東京", 1), ("首都是里昂", 3)],
)
def test_words_are_counted(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 7, 7, 7], True),
        ([5, 1, 2, 1, 2, 1, 2], True),
        ([1, 2, 1, 2], False),
        ([7, 7, 7, 1], False),
        ([], False),
    ],
)
def test_a_loop_ends_with_three_repetitions(tokens: list[int], expected: bool) -> None:
    assert loops(tokens) is expected
