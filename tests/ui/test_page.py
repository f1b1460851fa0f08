"""The page as a user sees it, in this process, without a browser."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nicegui")

from nicegui import app, ui
from nicegui.testing import User, UserInteraction
from nicegui.testing.user_simulation import user_simulation

from collabedit.ui.access import Access, address
from collabedit.ui.page import Desk
from tests.reporting.html.runs import result, written
from tests.ui.bench import FACT

PORT, TOKEN = 8123, "secret-token"
Steps = Callable[[User, Desk], Awaitable[None]]


def visit(steps: Steps, tmp_path: Path, *, opened: bool = True) -> None:
    """Open the page at its address, and take some steps on it."""
    desk = Desk.new(tmp_path / "results", tmp_path / "scratch")

    async def run() -> None:
        async with user_simulation(desk.build) as user:
            app.add_middleware(Access, token=TOKEN, port=PORT)
            desk.add_routes()
            user.http_client.base_url = f"http://127.0.0.1:{PORT}"  # type: ignore[assignment]
            if opened:
                await user.open(address(PORT, TOKEN))
            await steps(user, desk)

    try:
        asyncio.run(run())
    finally:
        desk.close()


def line(user: User, label: str) -> Any:
    """The field with a label."""
    with user:
        found = [
            each for each in user.find(ui.input).elements if each.props["label"].startswith(label)
        ]
    return found[0]


def press(user: User, text: str) -> None:
    """Press the button with a text."""
    with user:
        found = {each for each in user.find(ui.button).elements if each.props["label"] == text}
    UserInteraction(user, found, None).click()


async def ended(desk: Desk) -> None:
    """Wait for the running job, and for the page to notice its end."""
    while desk.jobs.running:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.8)


def test_nothing_is_served_without_the_token(tmp_path: Path) -> None:
    async def steps(user: User, desk: Desk) -> None:
        for path in ("/", "/report?run=x", "/_nicegui/static/nicegui.css", "/?token=wrong"):
            assert (await user.http_client.get(path)).status_code == 403
        page = await user.http_client.get(f"/?token={TOKEN}", follow_redirects=True)
        assert page.status_code == 200
        assert TOKEN not in str(page.url)
        assert (await user.http_client.get("/")).status_code == 200

    visit(steps, tmp_path, opened=False)


def test_rows_show_how_they_read_and_what_they_contradict(tmp_path: Path) -> None:
    async def steps(user: User, desk: Desk) -> None:
        await user.should_see("Type an edit, or load a file of edits")
        with user:
            line(user, "Prompt").value = "The capital of {} is"
        await user.should_see("Still missing: its subject, the new object")
        with user:
            line(user, "Subject").value = "France"
            line(user, "New object").value = "<b>Lyon</b>"
        await user.should_see("Reads: The capital of France is <b>Lyon</b>")
        await user.should_see("1 edit ready")
        press(user, "Add an edit")
        assert len(desk.bench.drafts) == 2
        desk.bench.drafts[1] = desk.bench.drafts[0].__class__(
            "The capital of {} is", "France", "Nice"
        )
        press(user, "Add an edit")
        await user.should_see("Contradicts edit 1")
        press(user, "Edit the model")
        await user.should_see("1 edit needs your attention")
        assert not desk.jobs.running

    visit(steps, tmp_path)


def test_editing_asking_and_saving(tmp_path: Path, model_dir: Path) -> None:
    async def steps(user: User, desk: Desk) -> None:
        covariance = str(model_dir / "covariance.safetensors")
        desk.bench.change(model=str(model_dir / "model"), covariance=covariance, retry=False)
        with user:
            for label, value in (
                ("Prompt", FACT.prompt),
                ("Subject", FACT.subject),
                ("New object", FACT.target),
                ("Other subjects", FACT.others),
            ):
                line(user, label).value = value
        press(user, "Edit the model")
        assert desk.jobs.running
        await ended(desk)
        assert desk.bench.edited is not None, desk.jobs.current.error  # type: ignore[union-attr]
        await user.should_see("What the model says now")
        await user.should_see("Neighbours")
        await user.should_see(": done")
        with user:
            line(user, "A question").value = "The capital of France is"
        press(user, "Ask")
        await ended(desk)
        assert desk.bench.said[0].question == "The capital of France is"
        out = tmp_path / "saved.safetensors"
        with user:
            line(user, "File or directory").value = str(out)
        press(user, "Save")
        await ended(desk)
        assert out.is_file()
        await user.should_see("Saved in")

    visit(steps, tmp_path)


def test_failures_of_jobs_are_shown(tmp_path: Path) -> None:
    async def steps(user: User, desk: Desk) -> None:
        desk.bench.change(model=str(tmp_path / "none"))
        with user:
            line(user, "A question").value = "Who?"
        press(user, "Ask")
        await ended(desk)
        await user.should_see("the directory does not exist")
        press(user, "Dismiss")
        await user.should_not_see("the directory does not exist")

    visit(steps, tmp_path)


def test_rounds_show_faults_by_file(tmp_path: Path) -> None:
    (tmp_path / "evil.safetensors").write_bytes(b"\x80\x04no")

    async def steps(user: User, desk: Desk) -> None:
        user.find("Rounds").click()
        with user:
            line(user, "Contribution").value = str(tmp_path / "evil.safetensors")
        press(user, "Add")
        await user.should_see("does not fit")
        await user.should_see("1 file does not fit; remove or replace it")
        press(user, "Merge")
        await asyncio.sleep(0.3)
        assert not desk.jobs.running

    visit(steps, tmp_path)


def test_reports_are_listed_and_served(tmp_path: Path) -> None:
    written(tmp_path / "results" / "MEMIT" / "run_000", result())

    async def steps(user: User, desk: Desk) -> None:
        user.find("Reports").click()
        await user.should_see("MEMIT/run_000", retries=20)
        await user.should_see("Open the report")
        page = await user.http_client.get("/report", params={"run": "MEMIT/run_000"})
        assert page.status_code == 200
        assert "Subject 3" in page.text
        missing = await user.http_client.get("/report", params={"run": "../<x>"})
        assert missing.status_code == 404
        assert "<x>" not in missing.text

    visit(steps, tmp_path)
