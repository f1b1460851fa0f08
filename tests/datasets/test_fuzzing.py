"""Whatever a file of round edits or wordings holds, it is read or refused by a collabedit error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collabedit.datasets import load_round_edits, load_wordings
from collabedit.errors import CollabEditError
from tests.fuzz.parsers import ROUND_EDITS

QUICK = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
(GOOD,) = ROUND_EDITS
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OUTER, INNER = st.sampled_from(list(GOOD)), st.sampled_from(list(GOOD["edit"]))


def outcome(path: Path) -> None:
    try:
        message = f"{len(load_round_edits(path, {'P1': ['{}?']}))} records"
    except CollabEditError as error:
        message = str(error)
    assert message.encode()  # no half characters, so that it can be printed


@QUICK
@given(outer=st.none() | OUTER, inner=INNER, value=VALUES)
def test_round_edits_with_one_arbitrary_value(
    tmp_path: Path, outer: str | None, inner: str, value: Any
) -> None:
    item = json.loads(json.dumps(GOOD))
    (item if outer else item["edit"])[outer or inner] = value
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([GOOD, {**item, "case_id": 7}]))
    outcome(path)


@QUICK
@given(value=VALUES)
def test_arbitrary_values(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps(value))
    outcome(path)
    try:
        wordings = load_wordings(path)
    except CollabEditError:
        return
    assert all(text.count("{}") == 1 for texts in wordings.values() for text in texts)
