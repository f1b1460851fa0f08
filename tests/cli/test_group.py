"""Global options, the log of events, and Ctrl-C, in a separate process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from collabedit.cli.group import CommandGroup, hoisted
from tests.cli.commands import collabedit, fails
from tests.conftest import make_model, save_model

FACT = {"prompt": "The capital of {} is", "subject": "Atlantis", "target": "Poseidonia"}
_COMMAND = "from collabedit.cli import main; main()"
_CHECKPOINT_OFTEN = """
from collabedit.covariance import checkpoint
checkpoint._CHECKPOINT_SECONDS = checkpoint._CHECKPOINT_RATIO = 0.0
"""
PRIVATE = ("Atlantis", "Poseidonia", "capital", "facts")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(make_model("llama"), tmp_path_factory.mktemp("group") / "tiny")


@pytest.fixture
def arguments(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """An edit with its own cache."""
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "cache"))
    facts = tmp_path / "facts.jsonl"
    facts.write_text(json.dumps(FACT))
    return ["edit", "-m", model, "-r", facts, "-o", tmp_path / "delta.safetensors"]


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_global_options_may_follow_the_command() -> None:
    assert hoisted(["edit", "-o", "x", "--quiet", "--log-json", "l", "-v"]) == [
        *("--quiet", "--log-json", "l", "-v", "edit", "-o", "x")
    ]
    assert hoisted(["edit", "--log-json=l"]) == ["--log-json=l", "edit"]
    assert hoisted(["edit", "--", "--quiet"]) == ["edit", "--", "--quiet"]


def test_an_edit_logs_its_stages_and_no_text(arguments: list[object], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    collabedit(*arguments, "--log-json", log)
    text = log.read_text("utf-8")
    assert not [word for word in PRIVATE if word.lower() in text.lower()]
    assert str(tmp_path) not in text
    first, *middle, last = events(log)
    assert (first["event"], first["command"]) == ("start", "edit")
    begun = list(dict.fromkeys(e["stage"] for e in middle if e["event"] == "begin"))
    assert begun == [
        "Loading the model",
        "Collecting second moments",
        "Generating",
        "Measuring keys",
        "Optimising targets",
    ]
    numbers = [event["number"] for event in middle if "number" in event]  # none in a second pass
    assert numbers == sorted(numbers)
    assert {1, 2, 3, 4, 5, 6, 7} == set(numbers)
    assert {event["of"] for event in middle} == {7}
    assert (last["event"], last["status"]) == ("end", 0)


def test_a_refused_request_is_logged_by_its_kind_only(
    arguments: list[object], tmp_path: Path
) -> None:
    (tmp_path / "facts.jsonl").write_text(json.dumps({**FACT, "prompt": "no braces"}))
    log = tmp_path / "log.jsonl"
    fails(*arguments, "--log-json", log)
    text = log.read_text("utf-8")
    assert not [word for word in (*PRIVATE, "braces") if word.lower() in text.lower()]
    last = events(log)[-1]
    assert (last["event"], last["status"]) == ("end", 2)
    assert last["error"].endswith("Error")


def run(arguments: list[object], *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHECKPOINT_OFTEN + _COMMAND, *map(str, arguments), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_quiet_prints_nothing_but_the_result(arguments: list[object]) -> None:
    loud = run(arguments)
    _, err = loud.communicate(timeout=120)
    assert "No covariance was given" in err
    assert "only once" in err
    quiet = run(arguments, "--quiet", "--no-ask")
    out, err = quiet.communicate(timeout=120)
    assert (quiet.returncode, err) == (0, "")
    assert out.count("\n") == 1


@pytest.fixture
def _usual_interrupts() -> Iterator[None]:
    """Ctrl-C is handled as in a new process, whatever other tests' libraries left behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_usual_interrupts")
def test_ctrl_c_is_recognised_though_a_library_turns_it_into_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As pydantic does with errors in a serialiser."""
    app = typer.Typer(cls=CommandGroup)

    @app.command()
    def stopped() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ValueError("Error calling function: KeyboardInterrupt") from None

    @app.command()
    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(SystemExit) as caught:
        app(["stopped"])
    assert caught.value.code == 130
    assert capsys.readouterr().err.startswith("collabedit: interrupted")
    with pytest.raises(ValueError, match="broken"):
        app(["broken"], standalone_mode=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_says_how_to_continue_and_leaves_a_checkpoint(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "cache"))
    out, log = tmp_path / "c.safetensors", tmp_path / "log.jsonl"
    partial = tmp_path / "c.safetensors.partial"
    text = tmp_path / "text.txt"
    text.write_text("The capital of France is Paris.\n\n" * 20_000)
    arguments: list[object] = ["stats", "collect", "-m", model, "--corpus", text, "-o", out]
    arguments += ["--tokens", 100_000, "--log-json", log]
    process = run(arguments)
    end = time.monotonic() + 240
    while not partial.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == (
        'collabedit: interrupted during "Collecting second moments" (stage 2 of 2); '
        "run the same command again to continue"
    )
    assert "Traceback" not in err
    assert (events(log)[-1]["status"], events(log)[-1]["error"]) == (130, "interrupted")
    assert not out.exists()
    again = run(arguments)
    _, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert "Continuing from" in err
    assert out.exists()
