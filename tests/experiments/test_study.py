"""What all studies share: the records they deal."""

from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.datasets import load_dataset
from collabedit.experiments import StudySettings
from collabedit.experiments.study import deal
from tests.cli.commands import fails


@pytest.mark.parametrize("limit", [6, 9])
def test_only_the_first_records_are_dealt(limit: int) -> None:
    settings = StudySettings(model="none", parties=3, edits_per_party=1, limit=limit)
    rounds = deal(settings, 2)
    dealt = [record.case_id for shares in rounds for share in shares for record in share]
    first = [record.case_id for record in load_dataset("worldfacts")[:limit]]
    assert len(set(dealt)) == 6
    assert set(dealt) <= set(first)


def test_a_limit_below_what_is_needed_is_reported(tmp_path: Path) -> None:
    common = ("run", "single-round", "--parties", 2, "-n", 2, "--results", tmp_path, "--limit")
    assert "need 4 records together, but the data set has 3" in fails(*common, 3)
    assert "limit" in fails(*common, 0)
