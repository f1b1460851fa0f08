from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import collabedit
from collabedit.errors import InputError
from collabedit.progress import (
    EventLog,
    interrupted_stage,
    plan,
    plans,
    progress,
    say,
    show_progress,
)


def test_events_say_which_stage_of_how_many_and_how_far(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.jsonl")
    with show_progress(quiet=True, log=log), plan(("one", "two")):
        with progress("one", 4, "edits") as bar:
            bar.advance(4)
        with progress("two") as bar, progress("inner", 3, "steps") as inner:
            inner.advance()
        with progress("unplanned", 1, "steps"):
            pass
    log.close()
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    begun = [(e["stage"], e.get("number"), e["of"]) for e in events if e["event"] == "begin"]
    assert begun == [("one", 1, 2), ("two", 2, 2), ("unplanned", None, 2)]
    (moved,) = (e for e in events if e["event"] == "progress")
    assert (moved["done"], moved["total"], moved["unit"]) == (4, 4, "edits")
    assert [e["stage"] for e in events if e["event"] == "end"] == ["one", "two", "unplanned"]


def test_quiet_shows_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(quiet=True):
        say("a notice")
        say("WARNING: a warning", always=True)
        with progress("one", 1, "edits") as bar:
            bar.advance()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "WARNING: a warning\n")


def test_verbose_says_how_long_a_stage_took(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(verbose=True), progress("one", 2, "edits") as bar:
        bar.advance(2)
    assert capsys.readouterr().err == "one: 2 edits in 1 s\n"


def test_the_interrupted_stage_is_known() -> None:
    before = interrupted_stage()  # of the process, which another test may have interrupted
    with show_progress(quiet=True), plan(("one", "two")):
        with pytest.raises(KeyboardInterrupt), progress("two"):
            raise KeyboardInterrupt
        assert interrupted_stage() == '"two" (stage 2 of 2)'
    assert interrupted_stage() == before


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--log-json: cannot write"):
        EventLog(tmp_path / "absent" / "log.jsonl")


def _calls(name: str) -> list[ast.Call]:
    """Calls of a function of this name in the package."""
    folder = Path(collabedit.__file__).parent
    trees = (ast.parse(path.read_text("utf-8")) for path in folder.rglob("*.py"))
    return [
        node
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def test_titles_are_constants_and_planned_ones_exist() -> None:
    """Titles and units are logged, so none may be made from a user's text."""
    titles = set()
    for call in _calls("progress"):
        title, *numbers = call.args
        if isinstance(title, ast.Subscript):  # of a table of constants
            assert ast.unparse(title.value) == "EXCHANGES"
            titles |= {*plans.EXCHANGES.values()}
        else:
            assert isinstance(title, ast.Constant)
            titles.add(title.value)
        assert all(isinstance(unit, ast.Constant) for unit in numbers[1:])
    planned = {title for titles in plans.COMMANDS.values() for title in titles}
    planned |= {*plans.round_stages(2, answers=True, heldout=True)}
    planned |= {*plans.study_stages(2, [False, True], answers=True, heldout=True)}
    assert planned <= titles
