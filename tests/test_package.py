"""The public names, and what may import what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import collabedit
import collabedit.editors as editors

#: The coordinator's half: it installs and starts without the libraries that run models.
WITHOUT_MODELS = [
    "algebra",
    "editors",
    "merging",
    "messages",
    "privacy",
    "rounds",
    "requests",
    "files",
    "errors",
]


@pytest.mark.parametrize("part", WITHOUT_MODELS)
def test_the_coordinators_half_loads_no_transformers(part: str) -> None:
    code = (
        f"import sys; import collabedit.{part}; "
        "assert not {'transformers', 'tokenizers', 'accelerate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_layers_hold() -> None:
    """The contracts of pyproject.toml; ``make lint`` checks the same."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_public_names_are_sorted_and_there() -> None:
    names = [name for name in collabedit.__all__ if name != "__version__"]
    assert names == sorted(names)
    assert set(names) == set(collabedit._HOME_OF)
    assert all(getattr(collabedit, name) is not None for name in names)
    assert set(editors.__all__) == set(editors._HOME_OF)
    assert all(getattr(editors, name) is not None for name in editors.__all__)


@pytest.mark.parametrize(
    ("module", "unloaded"),
    [
        ("cli", {"torch", "pydantic", "numpy"}),
        ("editors.registry", {"torch", "pydantic"}),
        ("settings", {"torch", "transformers"}),
    ],
)
def test_the_command_line_starts_without_what_takes_long(module: str, unloaded: set[str]) -> None:
    code = f"import sys, collabedit.{module}; sys.exit(bool({unloaded} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
