"""Whatever a file holds, it is read or refused with a collabedit error; nothing else happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collabedit.errors import CollabEditError
from collabedit.requests import as_records, load_records, request_formats
from tests.requests.test_formats import (
    EASYEDIT,
    FLAT,
    HALLUEDIT,
    KNOWEDIT,
    MQUAKE,
    QAEDIT,
    QNA,
    SHORT,
    WIKIBIGEDIT,
    WIKIBIO,
    ripple,
)

QUICK = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
RIPPLE = ripple(
    "The aunt of A is B.",
    "AUNT",
    "The aunt of A is C.",
    Forgetfulness=[{"test_queries": [{"prompt": "?", "answers": [{"value": "1"}]}]}],
)
ZSRE = {"src": "Who is A?", "subject": "A", "answers": ["B"], "loc": "?", "loc_ans": "C"}
GOOD: list[dict[str, Any]] = [
    {"requested_rewrite": {**SHORT, "target_new": {"str": "X"}, "target_true": {"str": "Y"}}},
    *(SHORT, FLAT, KNOWEDIT, EASYEDIT, QAEDIT, WIKIBIO, MQUAKE, HALLUEDIT, WIKIBIGEDIT, QNA),
    *(RIPPLE, ZSRE),
]
SUFFIXES = st.sampled_from([".json", ".jsonl", ".csv", ".tsv", ".txt", ""])
TEXTS = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(["{}", "A", "", "{}{}"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def outcome(path: Path) -> None:
    """Read a file, which must raise only errors meant for people."""
    try:
        message = f"{len(load_records(path))} records"
    except CollabEditError as error:
        message = str(error)
    assert message.encode()  # no half characters, so that it can be printed
    assert len(message.splitlines()) <= 22


@QUICK
@given(content=st.binary(max_size=200), suffix=SUFFIXES)
def test_arbitrary_bytes(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"facts{suffix}"
    path.write_bytes(content)
    outcome(path)


@QUICK
@given(
    content=st.text(st.sampled_from('[]{}",:;\n\\ud83subjectprom0\t'), max_size=60), suffix=SUFFIXES
)
def test_text_that_looks_like_a_file_of_requests(tmp_path: Path, content: str, suffix: str) -> None:
    path = tmp_path / f"facts{suffix}"
    path.write_text(content)
    outcome(path)


@QUICK
@given(data=st.data())
def test_good_records_with_one_arbitrary_value(tmp_path: Path, data: st.DataObject) -> None:
    item = json.loads(json.dumps(data.draw(st.sampled_from(GOOD))))
    holder: Any = item
    while True:
        key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else [0]))
        deeper = isinstance(holder[key], dict | list) and len(holder[key]) > 0
        if not deeper or data.draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = data.draw(VALUES)
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([item]))
    outcome(path)


@pytest.mark.slow
@QUICK
@given(
    facts=st.lists(
        VALUES
        | st.fixed_dictionaries(
            {},
            optional={name: VALUES for item in GOOD for name in item},
        ),
        max_size=4,
    )
)
def test_arbitrary_objects(facts: list[Any]) -> None:
    try:
        records = as_records(facts)
    except CollabEditError:
        return
    assert all(record.request.prompt.count("{}") == 1 for record in records)


@pytest.mark.parametrize("index", range(len(GOOD)))
def test_the_seeds_are_good(index: int) -> None:
    assert as_records(GOOD[index])


def test_there_is_a_seed_for_every_form() -> None:
    found = {next(form.name for form in request_formats() if form.recognise(item)) for item in GOOD}
    assert found == {form.name for form in request_formats()}
