"""The page served by the command, in a real browser: who gets in, what it loads, and an edit."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ui.bench import FACT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]
#: A heading of each tab.
HEADINGS = {"Rounds": "Parties", "Reports": "Reports", "Edit": "Edits"}
#: Seconds that a busy machine may take.
PATIENCE = 120


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address that ``collabedit ui`` prints."""
    pytest.importorskip("nicegui")
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)  # NiceGUI behaves differently under it
    command = [sys.executable, "-m", "collabedit", "ui", "--no-open"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        first = server.stdout.readline()
        assert first.startswith("The page: http://127.0.0.1:"), first
        yield first.split()[-1]
        server.terminate()
        server.wait(30)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def page(url: str) -> Iterator[Any]:
    """The page in the system's Chromium, with its requests and its complaints."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome is on the PATH")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("websocket", lambda opened: page.asked.append(opened.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(url)
        page.get_by_role("button", name="Edit the model").wait_for()
        yield page
        browser.close()


def other_addresses() -> list[str]:
    """Addresses of this machine besides the loopback interface."""
    found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    return sorted({str(each[4][0]) for each in found} - {"127.0.0.1"})


def test_a_model_is_edited_in_the_browser(page: Any, url: str, model_dir: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    port = int(url.split(":")[2].split("/")[0])
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/")
    for address in other_addresses():
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection((address, port), timeout=5)
    assert "token" not in page.url

    page.get_by_role("combobox", name="Model", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_role("option", name="Another model").click()
    page.get_by_label("Directory, .gguf file or Hub id").fill(str(model_dir / "model"))
    page.get_by_text("Settings").click()
    page.get_by_label("Covariance file").fill(str(model_dir / "covariance.safetensors"))
    fields = {
        "Prompt, with {} for the subject": FACT.prompt,
        "Subject": FACT.subject,
        "New object": FACT.target,
    }
    for label, text in fields.items():
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_text("Reads: The capital of France is Rome").wait_for()
    page.get_by_role("button", name="Edit the model").click()
    page.get_by_role("heading", name="What the model says now").wait_for()
    page.get_by_label("A question, or the beginning of a sentence").fill("Who is it?")
    page.keyboard.press("Enter")
    page.get_by_role("cell", name="as a text", exact=True).wait_for()

    for width, scheme in SCREENS:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        for tab in HEADINGS:
            page.get_by_role("tab", name=tab).click()
            page.get_by_role("heading", name=HEADINGS[tab], exact=True).wait_for()
            page.wait_for_timeout(500)  # colours fade
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = axe.Axe().run(page).response["violations"]
            serious = [
                (each["id"], each["nodes"][0]["html"])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert serious == [], (width, scheme, tab)
    here = (f"http://127.0.0.1:{port}/", f"ws://127.0.0.1:{port}/", "data:")
    assert [asked for asked in page.asked if not asked.startswith(here)] == []
    assert page.complaints == []
