"""What a model says before and after."""

from __future__ import annotations

from collabedit.reporting.outcome_tables import side_by_side


def test_an_answer_stands_on_one_line_and_an_empty_one_is_said() -> None:
    table = side_by_side("Answers", ["asked", "answer"], [["Where?", "In\n Rome."], ["Who?", "\n"]])
    assert table.csv().splitlines()[1:] == ["Where?,In Rome.", "Who?,(nothing)"]
