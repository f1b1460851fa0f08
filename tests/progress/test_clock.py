from __future__ import annotations

import pytest

from collabedit.progress import clock
from collabedit.progress.clock import Running, Schedule, duration


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time on a clock that only the test moves."""
    time = [0.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: time[0])
    monkeypatch.setattr(clock, "_WEIGHTS", {"a": 1.0, "b": 3.0, "c": 6.0})
    return time


def test_the_rate_and_the_time_left_exclude_an_earlier_runs_work(now: list[float]) -> None:
    stage = Running("a", "edits", 100.0, began=0.0)
    assert stage.rate is None
    assert stage.seconds_left is None
    stage.skipped = stage.done = 60.0
    now[0] = 5.0
    stage.done += 10.0
    assert stage.rate == 2.0
    assert stage.seconds_left == 15.0


def test_a_stage_without_a_total_gives_no_time_left(now: list[float]) -> None:
    stage = Running("a", "", None, began=0.0)
    now[0] = 5.0
    assert stage.seconds_left is None


def test_stages_are_numbered_in_order_and_cached_ones_skipped() -> None:
    schedule = Schedule(["a", "b", "a", "c", "a"])
    assert [schedule.begin(title) for title in ("a", "a", "b", "c", "a")] == [1, 1, 2, 4, 5]
    assert schedule.begin("c") is None


def test_the_time_left_counts_later_stages_by_how_long_the_earlier_ones_took(
    now: list[float],
) -> None:
    schedule = Schedule(["a", "b", "c"])
    first = Running("a", "", 10.0, began=0.0, number=schedule.begin("a"))
    now[0] = 2.0  # twice as long as is typical
    schedule.end(first)
    second = Running("b", "", 10.0, began=2.0, number=schedule.begin("b"))
    now[0] = 4.0
    second.done = 5.0  # four seconds in all
    # Two more seconds of this stage; then 6 at (2 + 4) / (1 + 3) of the typical time.
    assert schedule.seconds_left(second) == pytest.approx(2 + 6 * 6 / 4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (120, "2 min"), (5340, "89 min"), (5400, "1 h 30 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
