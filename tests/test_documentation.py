"""What the documentation shows works: its Python runs, and its commands exist with their options.

Three kinds of blocks are not run as they stand, and say so in a comment before them that readers
of the page do not see:

- ``<!-- parsed only: REASON -->`` before a ``console`` block: the command line reads its words,
  so that commands, options and values exist, but nothing is run. ``<!-- parsed only on this page:
  REASON -->`` says so of all blocks of a page.
- ``<!-- skip: next "REASON" -->`` before a ``python`` block: it is compiled, not run.
- Blocks of any other language are not touched.

A ``console`` block without a comment runs in this process, on a tiny model with random weights
in place of the one that it names; all lines that it shows must be printed.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from collabedit import collaboration, load_model
from collabedit.cli import app
from collabedit.parties import new_round
from collabedit.requests import load_records
from tests.cli.commands import collabedit
from tests.cli.test_detection import FACTS, write_requests
from tests.conftest import CORPUS, make_model, save_model

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = tuple(DOCS / "reference" / name for name in ("commands.md", "metrics.md", "python"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "src/collabedit/datasets/README.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if page not in GENERATED),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
WITH_BLOCKS = [
    name
    for name in NAMES
    if re.search("^```(python|console)", (ROOT / name).read_text("utf-8"), re.M)
]
#: Pages whose blocks take a second or two; the others edit a tiny model several times.
QUICK = {"CONTRIBUTING.md", "docs/how-to/detection.md", "docs/how-to/extend.md"}
#: The model of the documentation; a tiny one with random weights stands in for it.
MODEL = "smollm2-135m"
_PARSED_ONLY = re.compile(r"<!-- parsed only: .+? -->\s*\Z", re.DOTALL)


# --- commands and their options -------------------------------------------------------------------


@functools.cache
def command_line() -> Any:
    """The whole command line, built once."""
    return typer.main.get_command(app)


def commands_in(source: str) -> list[tuple[list[str], list[str]]]:
    """The words of each ``$`` line, continued lines joined, and the lines that it prints."""
    found: list[tuple[list[str], list[str]]] = []
    for line in source.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            words = shlex.split(line[2:].partition(" > ")[0].partition(" | ")[0], comments=True)
            found.append((words, []))
        elif found and line and not line.startswith("#"):
            found[-1][1].append(line)
    return found


def check_options(words: list[str]) -> None:
    """Fail when the command line does not understand these words, up to the files they name."""
    command: Any = command_line()
    context, rest = None, words
    while hasattr(command, "commands"):
        group = command.make_context(rest[0], list(rest[1:]), parent=context)
        context, rest = group, [*group._protected_args, *group.args]
        assert rest[0] in command.commands, f"{shlex.join(words)}: no command {rest[0]}"
        command = command.commands[rest[0]]
    try:
        command.make_context(rest[0], list(rest[1:]), parent=context)
    except Exception as error:
        raise AssertionError(f"{shlex.join(words)}: {error}") from error


def check_block(example: Example) -> None:
    """Check the options of all collabedit commands of a block."""
    for words, _ in commands_in(example.parsed):
        if words[0] == "collabedit":
            check_options(words)


CHECKED = Sybil([CodeBlockParser("console", check_block)])


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_their_options_exist(page: Path) -> None:
    for example in CHECKED.parse(page).examples():
        example.evaluate()


def test_commands_in_running_text_exist() -> None:
    for page in PAGES:
        for inline in re.findall(r"`collabedit ((?:[a-z][a-z-]* ?)+)", page.read_text("utf-8")):
            command: Any = command_line()
            for name in inline.split():
                if hasattr(command, "commands"):
                    assert name in command.commands, f"{page.name}: collabedit {inline}"
                    command = command.commands[name]


@pytest.mark.parametrize("words", ["collabedit nothing", "collabedit edit --clients 3"])
def test_what_does_not_exist_is_noticed(words: str) -> None:
    with pytest.raises(AssertionError, match=r"no command|No such option"):
        check_options(words.split())


# --- running --------------------------------------------------------------------------------------


def run_block(example: Example) -> None:
    """Run the collabedit commands of a block; all lines that it shows must be printed."""
    before = example.document.text[: example.start]
    if _PARSED_ONLY.search(before) or "<!-- parsed only on this page: " in before:
        return
    for words, shown in commands_in(example.parsed):
        if words[0] == "cat":
            Path(words[1]).write_text("\n".join(shown), encoding="utf-8")
        elif words[0] == "collabedit":
            output = collabedit(*(stand_in(word) for word in words[1:]))
            printed = [line.rstrip() for line in output.splitlines()]
            for line in shown:
                assert line == "[...]" or line in printed, "\n".join([line, *printed])
            if words[1] == "contribute":
                contribute_as_others(words)


def stand_in(word: str) -> str:
    """The word, or the tiny model in place of the model of the documentation."""
    return "model" if word == MODEL else word


def contribute_as_others(words: list[str]) -> None:
    """The other parties do as the first, each on its own machine, if they did not before."""
    for party in ("bank", "newsroom"):
        if not Path(f"{party}.safetensors").exists():
            changed = [stand_in(word.replace("hospital", party)) for word in words[1:]]
            collabedit(*(f"{party}.jsonl" if word == "private.jsonl" else word for word in changed))


RUN = Sybil([PythonCodeBlockParser(), CodeBlockParser("console", run_block), SkipParser()])


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(make_model("llama"), tmp_path_factory.mktemp("documentation") / "model")


@pytest.fixture
def workplace(
    tmp_path: Path, model_directory: Path, own_registries: None, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with what readers have: a model, texts, facts of three parties and their key."""
    shutil.copytree(model_directory, tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
    (tmp_path / "shared.key").write_text("0123456789abcdef0123456789abcdef\n")
    for party, facts in FACTS.items():
        write_requests(tmp_path / f"{party}.jsonl", facts)
    shutil.copy(tmp_path / "hospital.jsonl", tmp_path / "private.jsonl")
    shutil.copy(tmp_path / "hospital.jsonl", tmp_path / "facts.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collaboration, "load_model", lambda name: load_model(stand_in(name)))
    return tmp_path


def names_for_readers(folder: Path) -> dict[str, Any]:
    """What the Python blocks take as given."""
    model = load_model(folder / "model")
    of = {
        party: [record.request for record in load_records(folder / f"{party}.jsonl")]
        for party in ("hospital", "bank")
    }
    return {
        "model": model,
        "requests": of["hospital"],
        "bank_requests": of["bank"],
        "config": new_round(model),
    }


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in WITH_BLOCKS],
)
def test_blocks_run(name: str, workplace: Path) -> None:
    document = RUN.parse(ROOT / name)
    if "```python" in document.text:
        document.namespace.update(names_for_readers(workplace))
    if "--round round.json" in document.text and "-o round.json" not in document.text:
        collabedit("round", "new", "--model", "model", "-o", "round.json")
    for example in document.examples():
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_blocks_parse_and_import_what_exists(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("collabedit"):
                exec(compile(ast.Module([node], []), page.name, "exec"), {})


# --- links ----------------------------------------------------------------------------------------


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text("utf-8")):
            if target.startswith(("http://", "https://")):
                continue
            there = (page.parent / target).resolve() if target else page
            generated = any(there == path or path in there.parents for path in GENERATED)
            assert generated or there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in headings(there), f"{page.name}: {target}#{anchor}"


def test_pages_that_the_help_names_exist() -> None:
    for source in (ROOT / "src").rglob("*.py"):
        for page in re.findall(r"docs/[\w/-]+\.md", source.read_text("utf-8")):
            assert (ROOT / page).exists(), f"{source.name}: {page}"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_every_page_is_in_the_contents() -> None:
    listed = {DOCS / "index.md"}
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), re.S):
            for entry in block.split("\n"):
                if entry and not entry.startswith(":"):
                    listed.update(page.parent.glob(f"{entry}.md"))
    assert {page for page in PAGES if DOCS in page.parents} <= listed


# --- the reference, and the site ------------------------------------------------------------------


def references() -> ModuleType:
    """The Sphinx extension that writes the reference pages."""
    path = DOCS / "_extensions" / "references.py"
    spec = importlib.util.spec_from_file_location("references", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_documented() -> None:
    reference = references()
    undocumented = [
        f"{module.__name__}.{name}"
        for module in reference.public_modules()
        for name in module.__all__
        if not reference.documentation_of(name, module)
    ]
    assert undocumented == []


def test_every_command_is_in_the_reference() -> None:
    page = references().commands_page()
    for words in ("edit", "contribute", "merge", "stats collect", "run single-round"):
        assert f"`collabedit {words}`" in page
    assert "--covariance" in page


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-n", "-q"]
    folders = ["-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "site")]
    built = subprocess.run([*command, *folders], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "reference" / "python" / "collabedit.messages.html").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the notebook's own packages
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(DOCS / "tutorial" / "together.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
    printed = "".join(
        output.get("text", "")
        for output in notebook.cells[-2].outputs
        if output["name"] == "stdout"
    )
    together, averaged = (float(line.split()[1]) for line in printed.splitlines())
    assert together < 1e-10
    assert 0.3 < averaged < 1
