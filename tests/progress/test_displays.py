from __future__ import annotations

import pytest

from collabedit.progress import displays
from collabedit.progress.clock import Running
from collabedit.progress.displays import Lines


def test_lines_come_at_growing_intervals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    time = [0.0]
    monkeypatch.setattr(displays.time, "monotonic", lambda: time[0])
    lines, stage = Lines(), Running("Scoring", "tokens", 1000.0, number=2)
    lines.begin(stage, 3)
    said: list[float] = []
    for second in range(1000):
        time[0] = float(second)
        stage.done = float(second)
        lines.update(stage, 1000.0 - second)
        if "Scoring" in (shown := capsys.readouterr().err):
            said.append(second)
            assert shown.startswith(f"[2/3] Scoring: {second} of 1,000 tokens")
            assert shown.count("\n") == 1
    pauses = [after - before for before, after in zip([0, *said], said, strict=False)]
    assert pauses[0] == 10
    assert pauses == sorted(pauses)
    assert len(said) < 12


def test_a_short_stage_prints_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines, stage = Lines(), Running("Scoring", "tokens", 2.0)
    lines.begin(stage, 0)
    stage.done = 2.0
    lines.update(stage, 0.0)
    lines.end(stage)
    assert capsys.readouterr().err == ""


def test_a_waiting_stage_shows_how_long_it_takes_at_most(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no rate: two of three answers within a minute say nothing about the third."""
    time = [0.0]
    monkeypatch.setattr(displays.time, "monotonic", lambda: time[0])
    stage = Running("Finding targets", "parties", 3.0, began=0.0, number=2, limit=600.0)
    lines = Lines()
    lines.begin(stage, 5)
    time[0], stage.done = 60.0, 2.0
    lines.update(stage, stage.seconds_left)
    assert capsys.readouterr().err == "[2/5] Finding targets: 2 of 3 parties, at most 9 min left\n"
