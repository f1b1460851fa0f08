"""Requests with subjects at the start, mid-prompt, at the end, repeated and in other scripts."""

from __future__ import annotations

from collabedit.requests import EditRequest

REQUESTS = [
    EditRequest(0, "The capital of {} is", "France", "Rome"),
    EditRequest(1, "{} is a city in", "Paris", "Italy"),
    EditRequest(2, "{}'s mother tongue is", "Danielle O'Neill", "Spanish"),
    EditRequest(3, "In Spain, they say of {}", "Spain", "guitar"),
    EditRequest(4, "Москва — столица {}, то есть", "России", "日本"),
    EditRequest(5, "He plays the {} and", "guitar", "the capital of Italy"),
]
CONTEXTS = (("{}",), ("The friend said so. {}", "Therefore it is a city. {}", "I. {}"))
#: Plain texts and conversations.
TALKS = (
    ("{}",),
    ("The friend said so. {}",),
    ("[user] Complete: {} [model] {answer}.", "[user] {question} [model] {answer}."),
    ("[user] What is {subject}? [model] {subject} is a",),
)
