"""The page in a real browser: what it fetches, how it fits, and what axe-core reports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collabedit.files import write_text
from collabedit.reporting.html import report_page
from tests.reporting.html.runs import multi_round, result

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome is on the PATH")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two runs."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_text(path, report_page({"five methods": result(), "rounds": multi_round()}))
    return path


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_page_is_accessible_and_self_contained(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    screen = {"width": width, "height": 900}
    with browser.new_context(viewport=screen, color_scheme=scheme) as context:
        page = context.new_page()
        requests: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert requests == [page_file.as_uri()]
        assert complaints == []
        found = axe.Axe().run(page).response["violations"]
        serious = [each["id"] for each in found if each["impact"] in ("serious", "critical")]
        assert serious == []


def test_edits_can_be_searched(browser: Any, page_file: Path) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(page_file.as_uri())
        page.get_by_label("Search the edits").first.fill("subject 3")
        shown = page.locator(".edits").first.locator(".edit:visible")
        assert shown.count() == 1
        assert "Subject 3 lies in" in shown.inner_text()
        assert page.locator("output").first.inner_text() == "1 of 6 edits"


def test_edits_show_without_scripts(browser: Any, page_file: Path) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(page_file.as_uri())
        assert page.locator(".edits").first.locator(".edit:visible").count() == 6
        assert page.locator(".search:visible").count() == 0
        page.locator("summary", has_text="Subject 3").first.click()
        assert page.get_by_role("group", name="Measures of record 3").first.is_visible()


def test_printing_unfolds_everything_and_folds_it_again(
    browser: Any, page_file: Path, tmp_path: Path
) -> None:
    with browser.new_context(color_scheme="dark") as context:
        page = context.new_page()
        page.goto(page_file.as_uri())
        first = page.locator("details").first
        first.evaluate("(each) => each.open = true")
        page.evaluate(
            "addEventListener('beforeprint', () => window.printed ="
            " [...document.querySelectorAll('details')].every((each) => each.open))"
        )
        page.pdf(path=tmp_path / "report.pdf")
        assert page.evaluate("window.printed")
        assert page.locator("details[open]").count() == 1
        page.emulate_media(media="print")
        body = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert body == "rgb(255, 255, 255)"  # in dark mode, too
