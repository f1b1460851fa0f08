"""``collabedit report`` on runs made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from collabedit.cli import app
from collabedit.cli.run.showing import show_result
from collabedit.errors import InputError
from collabedit.reporting.results import RunResult
from tests.reporting.html.runs import multi_round, result, written


def test_a_page_is_written(tmp_path: Path) -> None:
    runs = [written(tmp_path / "a", result()), written(tmp_path / "b", multi_round())]
    out = tmp_path / "pages" / "report.html"
    for _ in range(2):
        found = CliRunner().invoke(app, ["report", *map(str, runs), "-o", str(out)])
        assert found.exit_code == 0, found.output
        assert f"Report: {out} (" in found.output
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_runs_end_by_naming_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "my run", result())
    show_result(RunResult.load(folder), folder, title="run")
    assert f"collabedit report '{folder}' -o report.html" in capsys.readouterr().out


def test_bad_folders_end_in_one_line(tmp_path: Path) -> None:
    run = written(tmp_path / "run", result())
    out = tmp_path / "report.html"

    def error(*paths: Path) -> str:
        found = CliRunner().invoke(app, ["report", *map(str, paths), "-o", str(out)])
        assert isinstance(found.exception, InputError)
        assert not out.exists()
        assert "\n" not in str(found.exception)
        return str(found.exception)

    assert str(tmp_path / "none") in error(run, tmp_path / "none")
    (run / "case_1.json").write_text("{")
    assert "case_1.json" in error(run)
    (run / "case_1.json").write_text('{"methods": {"SA": 3}}')
    assert "case_1.json" in error(run)
    (run / "case_1.json").write_text('{"methods": {"SA": {"rewrite_prompts_probs": 3}}}')
    assert "case 1: not a result" in error(run)
    (run / "case_1.json").write_text(
        '{"methods": {"SA": {"rewrite_prompts_probs": [], "answers": [{"text": "x"}]}}}'
    )
    assert "case 1: not a result" in error(run)
    (run / "summary.json").write_text("[]")
    assert "summary.json" in error(run)


def test_the_page_must_be_a_file(tmp_path: Path) -> None:
    run = written(tmp_path / "run", result())
    found = CliRunner().invoke(app, ["report", str(run), "-o", str(tmp_path)])
    assert isinstance(found.exception, InputError)
    assert "directory" in str(found.exception)
