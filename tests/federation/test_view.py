"""What a coordinator sees of a round while it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collabedit.federation.view import live_view
from collabedit.messages import Policy, RequestKind, Schedule
from collabedit.progress import EventLog, show_progress
from collabedit.progress.plans import EXCHANGES
from tests.federation.settings import Members, conducted, make_config, make_members, open_folder


def test_every_request_has_a_title() -> None:
    assert EXCHANGES.keys() == {"join", *(kind.value for kind in RequestKind)}


def test_a_round_is_shown_and_logged_by_one_display(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT))
    conducted(folder, Members(make_members(tmp_path)))
    folder.tell("answer", party="bank", bytes=1_500_000)
    log = EventLog(tmp_path / "log.jsonl")
    with show_progress(log=log), live_view(60.0, shared=False) as view:
        for event in folder.events():
            view.show(event)
        view.tick()
    log.close()
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("Joining: bank, hospital, library (")
    assert "  merged layers [1, 2] of bank, hospital, library" in shown
    assert shown[-2:] == ["accepted", "  bank answered (1.5 MB)"]
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    begun = [(e["number"], e["stage"], e["total"]) for e in events if e["event"] == "begin"]
    assert begun == [
        (1, "Joining", 3),
        (2, "Finding targets", 3),
        (3, "Computing statistics", 3),
        (4, "Evaluating the merged model", 3),
        (5, "Keeping the result", 3),
    ]
    assert "bank" not in (tmp_path / "log.jsonl").read_text()


def test_quiet_shows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT), policy=Policy.REPORT)
    with show_progress(quiet=True), live_view(60.0, shared=True) as view:
        view.show({"event": "ask", "stage": "announce", "parties": ["bank"], "bytes": 9})
        view.show({"event": "compared", "overlaps": 1, "conflicts": 0, "subjects": 0})
    assert folder.report is None
    assert capsys.readouterr() == ("", "")
