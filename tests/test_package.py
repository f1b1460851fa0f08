"""The public names, and which part may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import collabedit

SOURCE = Path(collabedit.__file__).parent

#: Each part may import those to its left, and nothing else of the package.
LAYERS = [
    {"errors"},
    {"files", "progress"},
    {"requests"},
    {"algebra", "models", "datasets"},
    {"merging", "covariance", "editing", "evaluation"},
    {"rounds"},
    {"export", "reporting"},
    {"experiments", "planning"},
    {"tuning"},
    {"cli"},
]


def imports_of(part: str) -> set[str]:
    """The parts of the package that a part imports, at the top or inside functions."""
    paths = (SOURCE / part).rglob("*.py") if (SOURCE / part).is_dir() else [SOURCE / f"{part}.py"]
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("collabedit."):
                found.add(node.module.split(".")[1])  # type: ignore[union-attr]
    return found - {part}


def test_every_part_has_its_place() -> None:
    parts = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert parts - {"__init__"} == set().union(*LAYERS)


@pytest.mark.parametrize("part", sorted(set().union(*LAYERS)))
def test_imports_point_one_way(part: str) -> None:
    allowed: set[str] = set()
    for layer in LAYERS:
        if part in layer:
            break
        allowed |= layer
    assert imports_of(part) <= allowed


@pytest.mark.parametrize("part", ["algebra", "merging"])
def test_the_linear_algebra_knows_no_transformers(part: str) -> None:
    for path in (SOURCE / part).rglob("*.py"):
        assert "transformers" not in path.read_text("utf-8")


def test_all_is_complete_sorted_and_importable() -> None:
    names = [name for name in collabedit.__all__ if name != "__version__"]
    assert names == sorted(names)
    assert set(names) == set(collabedit._HOME_OF)
    assert all(getattr(collabedit, name) is not None for name in names)


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, collabedit.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
