"""Writes the reference pages of a build: public names from docstrings, commands from typer."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import typer
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from typer.cli import get_docs_for_click

import collabedit
from collabedit.cli import app as commands
from collabedit.evaluation import metrics

#: Modules that are no part of the library: the command line, and the file and terminal helpers.
_INTERNAL = ("cli", "files", "progress", "_version", "__main__")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", write_references)
    return {"parallel_read_safe": True}


def write_references(app: Sphinx) -> None:
    """Write ``reference/python/*.rst``, ``commands.md`` and ``metrics.md`` into the sources."""
    folder = Path(app.srcdir) / "reference"
    (folder / "python").mkdir(exist_ok=True)
    _write(folder / "commands.md", commands_page())
    _write(folder / "metrics.md", metrics_page())
    modules = public_modules()
    for module in modules:
        _write(folder / "python" / f"{module.__name__}.rst", module_page(module))
    _write(folder / "python" / "index.rst", index_page(modules))


def _write(path: Path, text: str) -> None:
    """Write what has changed only, so that a second build is quick."""
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def public_modules() -> list[ModuleType]:
    """The modules whose public names are documented."""
    names = [m.name for m in pkgutil.iter_modules(collabedit.__path__) if m.name not in _INTERNAL]
    modules = [importlib.import_module(f"collabedit.{name}") for name in names]
    return [module for module in modules if getattr(module, "__all__", ())]


def home_of(name: str, module: ModuleType) -> str:
    """The public module that defines a name: the package that its own module lies in."""
    defined = getattr(getattr(module, name), "__module__", module.__name__) or module.__name__
    package = ".".join(defined.split(".")[:2])
    known = {m.__name__ for m in public_modules()}
    public = package in known and name in importlib.import_module(package).__all__
    return package if public else module.__name__


def module_page(module: ModuleType) -> str:
    """The page of one module: its docstring, and each public name with its docstring."""
    title = module.__name__
    lines = [title, "=" * len(title), "", f".. automodule:: {title}", "   :no-members:", ""]
    for name in module.__all__:
        home = home_of(name, module)
        if home != title:
            lines += [f":py:obj:`{home}.{name}`", ""]
            continue
        value = getattr(module, name)
        if isinstance(value, type):
            lines += [f".. autoclass:: {title}.{name}", "   :members:", ""]
        elif inspect.isroutine(value):
            lines += [f".. autofunction:: {title}.{name}", ""]
        else:
            lines += [f".. py:data:: {title}.{name}", ""]
            lines += [f"   {line}" for line in documentation_of(name, module).splitlines()]
            lines.append("")
    return "\n".join(lines)


def documentation_of(name: str, module: ModuleType) -> str:
    """The docstring of a public name; of a constant or an alias the ``#:`` comment before it."""
    value = getattr(module, name)
    a_class = issubclass(type(value), type)  # isinstance() takes aliases for classes in Python 3.10
    if a_class or inspect.isroutine(value):
        return inspect.getdoc(value) or ""
    for path in sorted(Path(module.__file__ or "").parent.glob("*.py")):
        source = module.__name__ if path.stem == "__init__" else f"{module.__name__}.{path.stem}"
        if source in sys.modules and (comments := ModuleAnalyzer.for_module(source)):
            found = comments.find_attr_docs().get(("", name))
            if found:
                return "\n".join(found).strip()
    return ""


def index_page(modules: list[ModuleType]) -> str:
    """The page of the package itself, with links to all modules."""
    lines = ["Python", "======", "", ".. automodule:: collabedit", "   :no-members:", ""]
    lines += ["Everything below can be imported from ``collabedit`` itself:", ""]
    for name in collabedit.__all__:
        if name != "__version__":
            lines.append(f"* :py:obj:`{home_of(name, collabedit)}.{name}`")
    lines += ["", ".. toctree::", "   :caption: Modules", ""]
    lines += [f"   {module.__name__}" for module in modules]
    return "\n".join([*lines, ""])


def commands_page() -> str:
    """All commands with their arguments and options."""
    command = typer.main.get_command(commands)
    context = typer.Context(command, info_name="collabedit", obj={"TYPER_RICH_MARKUP_MODE": "rich"})
    return get_docs_for_click(obj=command, ctx=context, name="collabedit", title="Commands")


def metrics_page() -> str:
    """All registered metrics with their definitions."""
    lines = ["# Metrics", "", "| heading | in files | better | definition |", "|---|---|---|---|"]
    for metric in metrics():
        definition = metric.definition.replace("|", "\\|")
        lines.append(f"| {metric.heading} | `{metric.key}` | {metric.direction} | {definition} |")
    return "\n".join([*lines, ""])
