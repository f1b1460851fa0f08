from __future__ import annotations

import pytest

from collabedit.datasets import load_dataset
from collabedit.requests import as_records, closed, join


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("The capital of France is", "Rome", "The capital of France is Rome"),
        ("The capital of France is ", "Rome", "The capital of France is Rome"),
        ("The capital of France is", " Rome", "The capital of France is Rome"),
        ("The capital of 日本 is", "東京", "The capital of 日本 is 東京"),
        ("中国的首都是", "纽约", "中国的首都是纽约"),
        ("中国的首都是 ", "纽约", "中国的首都是 纽约"),
        ("日本の首都は", "Rome", "日本の首都はRome"),
        ("我用的iPhone", "手机", "我用的iPhone手机"),
        ("中国的首都是哪里\uff1f", "纽约", "中国的首都是哪里\uff1f纽约"),
        ("เมืองหลวงของไทยคือ", "เชียงใหม่", "เมืองหลวงของไทยคือเชียงใหม่"),
        ("한국의 수도는", "부산", "한국의 수도는 부산"),
        ("Москва — столица", "Италии", "Москва — столица Италии"),
        ("A ticket costs $", "57", "A ticket costs $57"),
        ("It is also called “", "Freeland”", "It is also called “Freeland”"),
        ('It is called "', "Freeland", 'It is called "Freeland'),
        ('It is called "X"', "here", 'It is called "X" here'),
        ("It (", "Freeland", "It (Freeland"),
        ("now non-", "voter", "now non-voter"),
        ("Moscow –", "Italy", "Moscow – Italy"),
        ("We are #", "1", "We are #1"),
        ("written in C#", "today", "written in C# today"),
        ("It is Rome", ", Italy", "It is Rome, Italy"),
        ("def f():\n", "return 1", "def f():\nreturn 1"),
        ("assistant\n", "Lyon", "assistant\nLyon"),
        ("<|assistant|>", "Lyon", "<|assistant|>Lyon"),
        ("Answer:", "Rome", "Answer: Rome"),
        ("", "Rome", "Rome"),
    ],
)
def test_prompt_and_target_are_joined_as_a_writer_would(
    prompt: str, target: str, text: str
) -> None:
    assert join(prompt, target) == text


def test_english_facts_are_joined_by_one_space() -> None:
    for record in load_dataset("worldfacts"):
        text = record.request.text
        assert join(text, record.request.target_new) == f"{text} {record.request.target_new}"


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("{}的首都是", " 纽约", "中国的首都是 纽约"),
        ("{}的首都是", "纽约", "中国的首都是纽约"),
        ("The capital of {} is", " Rome", "The capital of 中国 is Rome"),
    ],
)
def test_an_objects_leading_space_is_respected(prompt: str, target: str, text: str) -> None:
    (record,) = as_records({"prompt": prompt, "subject": "中国", "target": target})
    assert record.request.target_new == target.strip()
    assert join(record.request.text, record.request.target_new) == text


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The capital is Lyon", "The capital is Lyon."),
        ("He lives in the U.S.", "He lives in the U.S."),
        ("首都是纽约", "首都是纽约。"),
        ("수도는 서울", "수도는 서울."),
        ("Столица — Пловдив", "Столица — Пловдив."),
        ("Who knows?", "Who knows?"),
    ],
)
def test_a_sentence_is_closed_as_its_script_does(sentence: str, expected: str) -> None:
    assert closed(sentence) == expected
