"""The wheel and the source distribution install and run in an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from collabedit._version import __version__
from tests.conftest import make_model, save_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FACT = {"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}
SETTINGS = {"layers": [1, 2], "prior_weight": 5, "target_steps": 3}


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program without this checkout on its path; return what it printed."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=outside, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source distribution, by the ends of their names."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", out, cwd=ROOT)
    found = {"whl": next(out.glob("*.whl")), "gz": next(out.glob("*.tar.gz"))}
    assert all(f"-{__version__}" in path.name for path in found.values())
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    model = make_model("llama")
    save_model(model, folder / "model")
    (folder / "facts.jsonl").write_text(json.dumps(FACT))
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    return folder


def environment(folder: Path, distribution: Path) -> Path:
    """A new environment with the distribution; its dependencies are those installed here."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps")
    run(*pip, "--no-build-isolation", "--ignore-installed", "-q", distribution, cwd=folder)
    return folder / "bin"


@pytest.mark.parametrize("kind", ["whl", "gz"])
def test_it_installs_and_edits(
    built: dict[str, Path], tiny: Path, kind: str, tmp_path: Path
) -> None:
    programs = environment(tmp_path / "environment", built[kind])
    home = run(
        programs / "python", "-c", "import collabedit; print(collabedit.__file__)", cwd=tmp_path
    )
    assert Path(home).is_relative_to(tmp_path)
    collabedit = programs / "collabedit"
    assert run(collabedit, "--version", cwd=tmp_path).split() == ["collabedit", __version__]
    assert "smollm2-135m" in run(collabedit, "models", "list", cwd=tmp_path)
    edit = ("edit", "--model", tiny / "model", "--hparams", tiny / "settings.json")
    run(collabedit, *edit, "--requests", tiny / "facts.jsonl", "-o", "edited", cwd=tmp_path)
    assert (tmp_path / "edited" / "model.safetensors").exists()


def test_the_distributions_hold_what_they_should(built: dict[str, Path]) -> None:
    wheel = set(zipfile.ZipFile(built["whl"]).namelist())
    assert {"collabedit/py.typed", "collabedit/datasets/worldfacts.json"} <= wheel
    assert not any(name.startswith(("tests/", "docs/")) for name in wheel)
    with tarfile.open(built["gz"]) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("README.md", "LICENSE", "CITATION.cff", "Makefile", "docs/conf.py", "tests"):
        assert any(name == needed or name.startswith(f"{needed}/") for name in source), needed


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
