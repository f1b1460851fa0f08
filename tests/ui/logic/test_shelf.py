"""Finding finished runs, and reporting on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.errors import InputError
from collabedit.ui.logic import Shelf
from tests.reporting.html.runs import multi_round, result, written


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    written(tmp_path / "MEMIT" / "run_000", result())
    written(tmp_path / "editors" / "run_000" / "MEMIT" / "one-shot", multi_round())
    broken = tmp_path / "MEMIT" / "run_001"
    broken.mkdir()
    (broken / "summary.json").write_text("[]")
    (tmp_path / "MEMIT" / "run_002").mkdir()  # not finished
    return Shelf(tmp_path)


def test_runs_are_found_at_all_depths(shelf: Shelf) -> None:
    runs = {run.name: run for run in shelf.runs()}
    assert set(runs) == {"MEMIT/run_000", "MEMIT/run_001", "editors/run_000/MEMIT/one-shot"}
    good = runs["MEMIT/run_000"]
    assert good.what == "single-round, smollm2-135m"
    assert dict(good.scores)["CollabEdit"] > 0
    assert "summary.json" in runs["MEMIT/run_001"].fault


def test_a_page_shows_one_run_or_several(shelf: Shelf) -> None:
    page = shelf.page(["MEMIT/run_000"])
    assert page.startswith("<!doctype html>")
    both = shelf.page(["MEMIT/run_000", "editors/run_000/MEMIT/one-shot"])
    assert "run_000" in both
    assert len(both) > len(page)


def test_only_listed_runs_are_opened(shelf: Shelf, tmp_path: Path) -> None:
    outside = written(tmp_path.parent / f"{tmp_path.name}-outside", result())
    for names in (["nothing"], [], [f"../{outside.name}"], [str(outside)]):
        with pytest.raises(InputError):
            shelf.page(names)


def test_the_folder_can_be_switched(shelf: Shelf, tmp_path: Path) -> None:
    shelf.look_in(str(tmp_path / "MEMIT"))
    assert [run.name for run in shelf.runs() if not run.fault] == ["run_000"]
    with pytest.raises(InputError, match="there is no folder"):
        shelf.look_in(str(tmp_path / "none"))
    assert Shelf(tmp_path / "none").runs() == []
