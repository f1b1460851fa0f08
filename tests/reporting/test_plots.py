"""Pictures of hand-made summaries."""

from __future__ import annotations

import importlib.util
import logging
import math
import struct
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from collabedit.reporting import plots
from collabedit.reporting.plots import save_plot
from collabedit.reporting.results import RunResult
from tests.reporting.test_editor_tables import editors_summary
from tests.reporting.test_tables import BETTER, SCORES, overlap_summary, summary
from tests.reporting.test_tuning_tables import tuning_summary

SUMMARIES: dict[str, dict[str, Any]] = {
    "single-round": summary("single-round", methods={"CollabEdit": BETTER, "SA": SCORES}),
    "editors": editors_summary(),
    "multi-round": summary(
        "multi-round",
        rounds={
            "CollabEdit": [[{"score": 90.0}], [{"score": 80.0}, {"score": 91.0}]],
            "SA": [[{"score": 40.0}], [{"score": 30.0}, {}]],
        },
    ),
    "forgetting": summary(
        "forgetting",
        curves={
            "CollabEdit beta=0": [
                {"further_edits": 0, **BETTER},
                {"further_edits": 40, **SCORES},
            ],
            "CollabEdit beta=1": [{"further_edits": 0, **BETTER}],
        },
    ),
    "overlap": overlap_summary(),
    "conflict": summary(
        "conflict", unedited_b=SCORES, methods={"single-b": BETTER, "performance-a": SCORES}
    ),
    "augmentation": summary(
        "augmentation",
        unedited={"rewrite_conflict_wins": 50.0},
        methods={"after": {"rewrite_conflict_wins": 10.0, "wordings_conflict_wins": 20.0}},
    ),
    "tune": tuning_summary(),
}

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is an extra"
)


def png_size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:24])
    return width, height


@needs_matplotlib
@pytest.mark.parametrize("study", list(SUMMARIES))
def test_every_study_has_a_picture(tmp_path: Path, study: str) -> None:
    path = tmp_path / "plot.png"
    assert save_plot(RunResult.of(SUMMARIES[study]), path)
    assert png_size(path) == (1080, 540)
    assert 5_000 < path.stat().st_size < 500_000  # an empty figure has about 2,500
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]
    assert path.stat().st_mode & 0o777 == 0o644


@needs_matplotlib
@pytest.mark.parametrize("study", list(SUMMARIES))
def test_metrics_that_are_missing_are_left_blank(tmp_path: Path, study: str) -> None:
    """As when records have neither paraphrases nor neighbours."""
    made = deepcopy(SUMMARIES[study])

    def without_scores(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if k not in ("PS", "NS", "score")}
            return {k: without_scores(v) for k, v in kept.items()}
        return [without_scores(v) for v in value] if isinstance(value, list) else value

    assert save_plot(RunResult.of(without_scores(made)), tmp_path / "plot.png")
    assert png_size(tmp_path / "plot.png") == (1080, 540)


@needs_matplotlib
def test_the_picture_shows_the_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The lines of the multi-round picture, left the rounds' means, right each round."""
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    original = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        original(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    assert save_plot(RunResult.of(SUMMARIES["multi-round"]), tmp_path / "plot.png")
    left, right = drawn[0].axes
    lines = {line.get_label(): line for line in left.lines}
    assert list(lines["CollabEdit"].get_ydata()) == [90.0, 85.5]
    assert list(right.lines[0].get_xdata()) == [1, 2]
    assert list(right.lines[0].get_ydata()) == [80.0, 91.0]
    assert save_plot(RunResult.of(SUMMARIES["overlap"]), tmp_path / "plot.png")
    left, right = drawn[1].axes
    norms = list(left.lines[0].get_ydata())
    assert norms == pytest.approx([(10**2 + 20.125**2) ** 0.5, 80**0.5])
    assert list(left.lines[1].get_ydata())[1] == 0  # nobody took part
    assert list(right.lines[0].get_ydata()) == [0.5, 3.456]
    assert save_plot(RunResult.of(SUMMARIES["augmentation"]), tmp_path / "plot.png")
    heights = [patch.get_height() for patch in drawn[2].axes[0].patches]
    assert heights[:2] == [50.0, 10.0]
    assert heights[3] == 20.0
    assert save_plot(RunResult.of(SUMMARIES["editors"]), tmp_path / "plot.png")
    heights = [patch.get_height() for patch in drawn[3].axes[0].patches]
    assert heights[:5] == [84.21, 84.21, 70.0, 84.21, 84.21]
    assert math.isnan(heights[5])  # fine-tuning has no CollabEdit
    assert save_plot(RunResult.of(SUMMARIES["tune"]), tmp_path / "plot.png")
    left, right = drawn[4].axes
    assert list(left.lines[0].get_ydata()) == pytest.approx([20.0, 25.0, 0.0])
    assert list(left.lines[1].get_xdata()) == [0.5, 1.5]  # the middle of two layers
    assert list(right.lines[0].get_xdata()) == [5.0, 50.0]
    assert list(right.lines[0].get_ydata()) == [84.21, 21.428]
    assert save_plot(RunResult.of(tuning_summary(methods={})), tmp_path / "plot.png")
    assert len(drawn[5].axes) == 1


def test_without_matplotlib_there_is_a_warning_and_no_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert not save_plot(RunResult.of(SUMMARIES["overlap"]), tmp_path / "plot.png")
    assert 'pip install "collabedit[plot]"' in caplog.text
    assert not list(tmp_path.iterdir())
