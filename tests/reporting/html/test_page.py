"""The page of small runs made by hand."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from collabedit.errors import InputError
from collabedit.reporting.html import page as page_module
from collabedit.reporting.html import pictures, report_page
from collabedit.reporting.results import Case, RunResult
from tests.reporting.html.runs import METHODS, block, case, multi_round, result
from tests.reporting.test_plots import SUMMARIES, needs_matplotlib

EVIL = "<script>alert('&\"')</script>"
#: Elements that have no end.
VOID = {"meta", "input", "br", "link", "img"}


class _Page(HTMLParser):
    """Checks that elements are balanced, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    def all(self, tag: str, attribute: str) -> list[str]:
        return [own[attribute] or "" for name, own in self.tags if name == tag and attribute in own]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def test_a_run_shows_all_its_parts() -> None:
    text = _Page(report_page({"results/run_000": result()})).text
    for part in (
        "Methods, measured on 6 records",
        "CollabEdit 100.0 [100.0, 100.0]",  # ES of an edit that always holds
        "Differences between methods",
        "Distance from GLOBAL's update",
        "1.0e-15",
        "Score by relation",
        "|R| method layer 5 layer 6 CollabEdit 12.50",
        "deltas/CollabEdit 12.5 4096",
        "Subject 3 lies in",
        "text unedited : Subject 3 lies in France.",
        "question Where? CollabEdit : In Italy. (right) GLOBAL : In Italy. (right)",
        "What the models write when they are asked method question",
        "collabedit run single-round --model smollm2-135m --parties 2",
    ):
        assert part in text


def test_several_runs_stand_side_by_side() -> None:
    page = _Page(report_page({"a": result(), "b": multi_round()}))
    assert "Paired differences: each run minus a run method ES PS NS Score b unedited" in page.text
    assert "0.0 [0.0, 0.0]" in page.text
    assert "Forgetting over rounds" in page.text
    other = _Page(report_page({"a": result(), "b": result(count=5)}))
    assert "Paired differences: each run" not in other.text  # other records


@pytest.mark.parametrize("study", list(SUMMARIES))
def test_every_study_has_a_page(study: str) -> None:
    page = _Page(report_page({study: RunResult.of(SUMMARIES[study])}))
    ids = [own["id"] for _, own in page.tags if "id" in own]
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.all("a", "href")} <= set(ids)


@pytest.mark.parametrize("runs", [{"a": result()}, {"a": result(), "b": multi_round()}])
def test_the_same_runs_give_the_same_page(runs: dict[str, RunResult]) -> None:
    assert report_page(runs) == report_page(runs)


def test_text_from_data_never_becomes_markup() -> None:
    said = {"form": EVIL, "prompt": EVIL, "text": EVIL, "right": True}
    cases = [
        case(1, EVIL, EVIL, (EVIL,)),
        Case.model_validate(
            {
                "case_id": 2,
                "requested_rewrite": {"prompt": "{}", "subject": EVIL, "relation_id": EVIL},
                "pre": block(2, holds=False),
                "methods": {EVIL: block(2, holds=True, answers=[said], text=[EVIL])},
            }
        ),
    ]
    made = result(
        methods={EVIL: {"ES": 1.0}},
        residual_norms={EVIL: {EVIL: 1.0}},
        settings={"model": EVIL, EVIL: EVIL, "hyperparameters": {EVIL: EVIL}},
        versions={EVIL: EVIL},
        delta_relative_to_global={EVIL: 1.0},
    ).model_copy(update={"cases": cases})
    text = report_page({EVIL: made, "b": made})
    assert "<script>alert" not in text
    page = _Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1  # the page's own
    assert page.text.count("<script>alert") > 20


def test_nothing_is_fetched() -> None:
    text = report_page({"a": result()})
    page = _Page(text)
    loads = ("src", "srcset", "data", "poster", "background", "action", "xlink:href")
    for _, own in page.tags:
        assert all((own.get(name) or "#").startswith("#") for name in loads)
    assert all(target.startswith("#") for target in page.all("a", "href"))
    assert not re.search(r"url\((?!#)|@import|https?://", text.replace("http://www.w3.org", ""))
    policy = next(p for p in page.all("meta", "content") if "default-src" in p)
    assert "default-src 'none'" in policy


def test_table_cells_have_headers() -> None:
    page = _Page(report_page({"a": result()}))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption")
    assert all(own.get("scope") for tag, own in page.tags if tag == "th")


def test_edits_that_do_not_fit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"a": result(count=40)}
    whole = _Page(report_page(made))
    assert whole.all("details", "class").count("edit") == 40
    monkeypatch.setattr(page_module, "_MOST_CHARACTERS", 20_000)
    part = _Page(report_page(made))
    shown = part.all("details", "class").count("edit")
    assert 0 < shown < 40
    assert f"The first {shown} of 40 edits are shown" in part.text
    assert report_page(made, every_edit=True).count('class="edit"') == 40


def test_a_large_run_stays_small() -> None:
    said = {"form": "chat", "prompt": "q " * 400, "text": "w " * 4000, "right": False}
    methods = {name: block(1, holds=True, answers=[said] * 20) for name in METHODS}
    cases = [
        case(number, f"Subject {number}", "Italy").model_copy(update={"methods": methods})
        for number in range(400)
    ]
    page = report_page({"a": result().model_copy(update={"cases": cases})})
    assert len(page.encode()) < 1_000_000


def test_conflicts_and_overlaps_are_counted() -> None:
    cases = [
        case(1, "Rome", "Spain"),
        case(2, "Rome", "Italy"),
        case(3, "Oslo", "Norway"),
        case(4, "Oslo", "Norway"),
        case(5, "Bern", "Austria"),
    ]
    text = _Page(report_page({"a": result().model_copy(update={"cases": cases})})).text
    assert "2 of the questions have several edits; 1 of them have conflicting answers." in text
    assert "Rome lies in Spain / Italy conflict Oslo lies in Norway overlap" in text


def test_damaged_records_are_named() -> None:
    broken: dict[str, Any] = {"case_id": 7, "methods": {"SA": {"rewrite_prompts_probs": [3]}}}
    made = result().model_copy(update={"cases": [Case.model_validate(broken)]})
    with pytest.raises(InputError, match=r"^results/run_000: case 7: not a result"):
        report_page({"results/run_000": made})


@needs_matplotlib
def test_pictures_take_the_colours_of_the_page() -> None:
    page = report_page({"a": result(), "b": multi_round()})
    assert page.count("<svg ") == 2
    assert "currentColor" in page
    assert "#010203" not in page


def test_without_matplotlib_the_page_says_how_to_get_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    text = report_page({"a": result()})
    assert "<svg" not in text
    assert "collabedit[plot]" in text
