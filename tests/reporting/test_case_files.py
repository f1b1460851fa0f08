"""Reading result files: the papers' layouts, with means computed by hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import InputError
from collabedit.reporting.results import PapersResult, RunResult
from tests.cli.commands import collabedit


def losses(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"target_new": new, "target_true": true} for new, true in pairs]


#: Rewritten; one of two paraphrases; three of four neighbours kept.
GOOD = {
    "rewrite_prompts_probs": losses((1, 5)),
    "paraphrase_prompts_probs": losses((1, 5), (5, 1)),
    "neighborhood_prompts_probs": losses((5, 1), (5, 1), (5, 1), (1, 5)),
    "rewrite_prompts_correct": [True],
    "paraphrase_prompts_correct": [True, False],
    "neighborhood_prompts_correct": [True, True, False, False],
    "ngram_entropy": 6.0,
    "reference_score": 0.25,
    "text": ["whatever"],
}
#: Not rewritten; no paraphrase; all of two neighbours kept.
BAD = {
    "rewrite_prompts_probs": losses((5, 1)),
    "paraphrase_prompts_probs": losses((5, 1), (5, 1)),
    "neighborhood_prompts_probs": losses((5, 1), (5, 1)),
    "rewrite_prompts_correct": [False],
    "paraphrase_prompts_correct": [False, False],
    "neighborhood_prompts_correct": [True, True],
    "ngram_entropy": 5.0,
    "reference_score": 0.15,
}
#: Means over GOOD and BAD, of each record's own mean over its prompts.
MEANS = {
    "records": 2,
    "ES": 50.0,
    "PS": (50 + 0) / 2,
    "NS": (75 + 100) / 2,
    "score": 3 / (1 / 50 + 1 / 25 + 1 / 87.5),
    "rewrite_accuracy": 50.0,
    "paraphrase_accuracy": (50 + 0) / 2,
    "neighborhood_accuracy": (50 + 100) / 2,
    "fluency": 550.0,
    "consistency": 20.0,
}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def collabedit_case(folder: Path, number: int, part: str, post: dict[str, Any]) -> None:
    parts: dict[str, Any] = {"global_edit": {}, "collaborative_edit": {}}
    parts[part] = {"case_id": number, "num_edits": 2, "time": 3.0, "post": post}
    write(folder / f"2_edits-case_{number}.json", parts)


@pytest.mark.parametrize("part", ["global_edit", "collaborative_edit"])
def test_the_papers_files_give_the_means(tmp_path: Path, part: str) -> None:
    collabedit_case(tmp_path, 0, part, GOOD)
    collabedit_case(tmp_path, 10, part, BAD)
    write(tmp_path / "params.json", {"layers": [5], "mom2_update_weight": 15000})
    expected = {"experiment": "papers", "methods": {part: pytest.approx(MEANS)}}
    assert RunResult.load(tmp_path).summary() == expected
    assert PapersResult.of_files(tmp_path, part).summary() == expected


@pytest.mark.parametrize("name", ["case_{}.json", "100_edits-case_{}.json"])
def test_files_of_rome_and_memit_have_both_models(tmp_path: Path, name: str) -> None:
    for number, post in enumerate([GOOD, BAD]):
        write(
            tmp_path / name.format(number),
            {"case_id": number, "requested_rewrite": {}, "time": 1.0, "pre": BAD, "post": post},
        )
    summary = RunResult.load(tmp_path).summary()
    assert summary["methods"] == {"edited": pytest.approx(MEANS)}
    assert (summary["unedited"]["ES"], summary["unedited"]["NS"]) == (0.0, 100.0)


def test_zsre_files_give_token_accuracies(tmp_path: Path) -> None:
    post = {
        "rewrite_prompts_correct": [True, True, False, True],
        "paraphrase_prompts_correct": [True, False],
        "neighborhood_prompts_correct": [False, True],
    }
    collabedit_case(tmp_path, 0, "collaborative_edit", post)
    assert RunResult.load(tmp_path).summary()["methods"]["collaborative_edit"] == pytest.approx(
        {
            "records": 1,
            "rewrite_token_accuracy": 75.0,
            "paraphrase_token_accuracy": 50.0,
            "neighborhood_token_accuracy": 50.0,
            "score": 3 / (1 / 75 + 1 / 50 + 1 / 50),
        }
    )


def test_our_own_files_are_read_by_method(tmp_path: Path) -> None:
    own = {"methods": {"SA": BAD, "CollabEdit": GOOD}, "pre": BAD, "post": GOOD}
    write(tmp_path / "case_0.json", own)
    summary = PapersResult.of_files(tmp_path).summary()
    assert {name: m["ES"] for name, m in summary["methods"].items()} == {
        "SA": 0.0,
        "CollabEdit": 100.0,
    }
    assert summary["unedited"]["ES"] == 0.0
    assert PapersResult.of_files(tmp_path, "global_edit").summary() == summary


def test_can_read_only_the_first_cases(tmp_path: Path) -> None:
    for number in (2, 10, 9):
        collabedit_case(tmp_path, number, "global_edit", BAD if number == 10 else GOOD)
    summary = PapersResult.of_files(tmp_path, first=10).summary()
    assert summary["methods"]["global_edit"]["records"] == 2
    assert summary["methods"]["global_edit"]["ES"] == 100.0


def test_damaged_files_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collabedit_case(tmp_path, 0, "global_edit", GOOD)
    (tmp_path / "2_edits-case_1.json").write_text('{"global_edit": {"case_id": 1, ')
    write(tmp_path / "2_edits-case_2.json", [1, 2])
    write(tmp_path / "2_edits-case_3.json", {"case_id": 3})
    collabedit_case(tmp_path, 4, "global_edit", {"rewrite_prompts_probs": "many"})
    collabedit_case(
        tmp_path,
        5,
        "global_edit",
        {"rewrite_prompts_probs": losses((1, 5))} | {"paraphrase_prompts_correct": ["yes"]},
    )
    collabedit_case(tmp_path, 6, "global_edit", {"text": ["nothing measured"]})
    collabedit_case(tmp_path, 7, "global_edit", {"rewrite_prompts_probs": [{"target_true": 1}]})
    (tmp_path / "2_edits-case_8.json").write_text("[" * 100_000)
    collabedit_case(tmp_path, 9, "global_edit", {**GOOD, "ngram_entropy": 10**400})
    with caplog.at_level(logging.WARNING):
        summary = RunResult.load(tmp_path).summary()
    assert summary["methods"]["global_edit"]["records"] == 1
    (message,) = caplog.messages
    assert message.startswith("left out 9 damaged result files: ")
    assert all(f"2_edits-case_{number}.json" in message for number in range(1, 6))
    assert message.endswith("and 4 more")


def test_folders_without_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        PapersResult.of_files(tmp_path / "nowhere").summary()
    write(tmp_path / "case_study.json", {})
    with pytest.raises(InputError, match="not a run"):
        RunResult.load(tmp_path).summary()
    write(tmp_path / "case_0.json", {"global_edit": {}, "collaborative_edit": {}})
    with pytest.raises(InputError, match="none of its 1 result files can be read"):
        RunResult.load(tmp_path).summary()


def test_an_absent_category_is_reported(tmp_path: Path) -> None:
    collabedit_case(tmp_path, 0, "global_edit", GOOD)
    with pytest.raises(InputError, match=r"no results of collaborative_edit .* hold global_edit"):
        PapersResult.of_files(tmp_path, "collaborative_edit").summary()
    with pytest.raises(InputError, match="choose one of: global_edit, collaborative_edit"):
        PapersResult.of_files(tmp_path, "collabrative").summary()


def test_the_command_shows_them(tmp_path: Path) -> None:
    collabedit_case(tmp_path, 0, "collaborative_edit", GOOD)
    table = collabedit("summarize", tmp_path)
    assert "collaborative_edit" in table
    assert "unedited" not in table
    header, row = collabedit("summarize", tmp_path, "--csv").splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["PS"] == "50.0"
