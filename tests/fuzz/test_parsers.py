"""Whatever foreign bytes come in, they are read, or refused with an error meant for people."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.parsers import Parser, parsers

PARSERS = parsers()
EACH = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
INTERESTING = st.sampled_from([b"\x00", b"\xff" * 8, b"{}", b"[", b'"', b"null", b"1e999", b"-1"])


@EACH
def test_good_bytes_are_read(parser: Parser) -> None:
    for good in parser.good:
        parser.read(good)


@EACH
@QUICK
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused(parser: Parser, data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(parser.good)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw)))
        length = data.draw(st.integers(0, 8))
        raw[place : place + length] = data.draw(st.binary(max_size=8) | INTERESTING)
    cut = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    parser.try_to_read(bytes(raw[:cut]))


@EACH
@QUICK
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(parser: Parser, content: bytes) -> None:
    parser.try_to_read(content)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
def test_atheris_finds_nothing_in_a_moment() -> None:
    command = [sys.executable, "-m", "tools.fuzz", "--seconds", "3", "Decision"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Decision: " in done.stdout
