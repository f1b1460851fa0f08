"""Commands in the documentation exist, with the options that they are shown with."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from collabedit.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def commands_of(page: Path) -> list[list[str]]:
    """The words of each ``$ collabedit`` line of a page, continued lines joined."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    found = []
    for line in re.findall(r"^\$ collabedit (.*)$", text, re.MULTILINE):
        without_comment = line.partition("  #")[0].partition(" > ")[0]
        found.append(shlex.split(without_comment))
    return found


def options_of(words: list[str]) -> tuple[set[str], list[str]]:
    """The options of the command that the words name, and the words after its name."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        assert rest, f"collabedit {' '.join(words)}: no command"
        name = rest.pop(0)
        if name.startswith("-"):
            continue
        assert name in command.commands, f"collabedit {' '.join(words)}: no command {name}"
        command = command.commands[name]
    known = {
        flag
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("-")
    }
    return known, rest


def test_there_are_commands_to_check() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands_of(page):
        known, rest = options_of(words)
        used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)}
        assert used <= known, f"collabedit {' '.join(words)}: {sorted(used - known)}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=[*NAMES, "CONTRIBUTING"])
def test_python_blocks_parse_and_import_what_exists(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("collabedit"):
                exec(compile(ast.Module([node], []), page.name, "exec"), {})


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
