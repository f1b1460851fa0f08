"""Files: round trips, what comes from anyone, and places that cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import InputError
from collabedit.files import (
    StoredTensors,
    cache_directory,
    check_output_file,
    check_writable,
    load_tensors,
    parse_json,
    read_json,
    save_tensors,
    tensor_metadata,
    tensors_from_bytes,
    tensors_to_bytes,
    write_json,
    write_private_text,
    write_text,
)

WHOLE = tensors_to_bytes(
    {"x/A": torch.arange(6.0).reshape(2, 3), "x/B": torch.ones(2, dtype=torch.float64)},
    {"format": "collabedit.delta", "layers": [1, 2]},
)


def message(header: Any, tail: bytes = b"") -> bytes:
    """A file with a header of one's own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tail


def entry(shape: list[int], size: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}


def test_bytes_and_file_are_the_same_and_read_back(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3, 4).T, "v": torch.arange(5)}
    metadata = {"name": "é", "values": [1, None, 0.5]}
    save_tensors(tmp_path / "a.safetensors", tensors, metadata)
    data = tensors_to_bytes(tensors, metadata)
    for read in (
        tensors_from_bytes(data),
        load_tensors(tmp_path / "a.safetensors"),
        load_tensors(str(tmp_path / "a.safetensors")),
    ):
        assert read[1] == metadata
        assert all(torch.equal(read[0][name], tensor) for name, tensor in tensors.items())


def test_tensors_that_share_memory_are_stored_each(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"all": base, "same": base, "row": base[1], "column": base[:, 2]}
    save_tensors(str(tmp_path / "shared.safetensors"), tensors, {})
    read, _ = load_tensors(tmp_path / "shared.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert len(tensors_from_bytes(tensors_to_bytes(tensors, {}))[0]) == 4


BAD_MESSAGES = {
    "empty": b"",
    "short": b"\x01\x02",
    "header of 2 GB": struct.pack("<Q", 2 << 30) + b"{}",
    "header of 2**64 - 1": b"\xff" * 8 + b"{}",
    "truncated": WHOLE[:-1],
    "longer than it says": WHOLE + b"\0",
    "header is a list": message([1]),
    "header is not a JSON": message(b"{x"),
    "header is no text": message(b"\x80\x81{}"),
    "too deep": message(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "5,000 digits": message(b'{"a": ' + b"9" * 5000 + b"}"),
    "a billion columns": message({"w": entry([1, 10**9], 4 * 10**9)}, b"\0" * 8),
    "a billion columns of nothing": message({"w": entry([1, 10**9], 8)}, b"\0" * 8),
    "more than 64 bits": message({"w": entry([2**40, 2**40], 0)}),
    "negative": message({"w": entry([-1, -1], 4)}, b"\0" * 4),
    "not whole": message({"w": entry([1.5], 6)}, b"\0" * 6),
    "boolean": message({"w": entry([True], 4)}, b"\0" * 4),
    "unknown type": message({"w": entry([1], 4, "Q4_K")}, b"\0" * 4),
    "no entry": message({"w": None}),
    "name twice": message(
        b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"\0",
    ),
    "overlap": message({"a": entry([1], 4), "b": entry([1], 4)}, b"\0" * 4),
    "pickle": b"\x80\x04\x95" + b"." * 40,
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "foreign metadata": message({"__metadata__": {"format": "pt"}}),
    "metadata of numbers": message({"__metadata__": {"format": 3}}),
    "metadata is a list": message({"__metadata__": [1]}),
    "metadata twice": message({"__metadata__": {"a": '{"b":1,"b":2}'}}),
    "metadata too deep": message({"__metadata__": {"a": "[" * 200_000}}),
    "metadata is not finite": message({"__metadata__": {"a": "NaN"}}),
    "half a character": message({"__metadata__": {"a": '"\\ud800"'}}),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_bad_bytes_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data = BAD_MESSAGES[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    for read in (
        lambda: tensors_from_bytes(data, "bad.safetensors"),
        lambda: load_tensors(path),
        lambda: tensor_metadata(path),
        lambda: StoredTensors(path),
    ):
        with pytest.raises(InputError, match=r"bad\.safetensors") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300 + len(str(path))


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_only_ever_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        tensors_from_bytes(data)
    with pytest.raises(InputError):
        tensors_from_bytes(struct.pack("<Q", len(data)) + data + b"\0")


@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(WHOLE)),
)
@settings(max_examples=500, deadline=None)
def test_changed_bytes_are_read_or_refused(changes: list[tuple[int, int]], end: int) -> None:
    changed = bytearray(WHOLE)
    for place, value in changes:
        changed[place] = value
    for data in (bytes(changed), bytes(changed[:end])):
        with contextlib.suppress(InputError):
            tensors, _ = tensors_from_bytes(data)
            assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
)


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from(["__metadata__", "a", "b"]),
        _json
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "U8", "X"]) | _json,
                "shape": st.lists(st.integers(-2, 2**65), max_size=4) | _json,
                "data_offsets": st.lists(st.integers(-2, 2**65), max_size=3) | _json,
            }
        ),
    )
)
@settings(max_examples=300, deadline=None)
def test_headers_of_any_kind_are_read_or_refused(header: dict[str, Any]) -> None:
    try:
        tensors, _ = tensors_from_bytes(message(header, b"\0" * 16))
    except InputError:
        return
    assert sum(t.numel() * t.element_size() for t in tensors.values()) == 16


@given(_json)
def test_json_of_anyone_is_read_as_it_is_or_refused(value: Any) -> None:
    text = json.dumps(value)
    try:
        read = parse_json(text.encode(), "message")
    except InputError:
        assert any(part in text for part in ("NaN", "Infinity", "\\ud", "\\u0000")) or "e+" in text
    else:
        assert json.dumps(read) == text


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode()))
def test_random_bytes_are_json_or_refused(data: bytes) -> None:
    with contextlib.suppress(InputError):
        json.dumps(parse_json(data, "message"), allow_nan=False).encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": {"b": 1, "b": 2}}', "twice"),
        ("[1e999]", "finite"),
        ('"\\ud83d"', "half a character"),
        ('{"\\ud83d": 1}', "half a character"),
        ("[" * 100_000, "deep"),
        ("9" * 5_000, "digits"),
        ("{", "not valid JSON"),
    ],
)
def test_unsafe_json_is_refused_by_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"^message.*{reason}"):
        parse_json(text.encode(), "message")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("[1, // one\n2]", "JSON has no comments: remove them"),
        ("# one\n[1]", "JSON has no comments: remove them"),
        ("[1, 2,\n]", "remove the comma"),
        ('{"a": 1,}', "remove the comma"),
        ("{'a': 1}", "use double quotes"),
        ('{"a": \u201cb\u201d}', "use straight double quotes"),
        ('{"a": None}', "write null, true or false"),
        ('{"a": 1}\n{"a": 2}', "put values in a list, or each on its own line"),
        ('{"a": "b\nc"}', r"write line breaks as \n"),
        (r'{"a": "C:\Users"}', r"write a backslash as \\"),
        ('{"a": "b', "is the file cut short?"),
        ('[{"a": 1', "is the file cut short?"),
    ],
)
def test_what_is_no_json_gets_a_remedy(text: str, remedy: str) -> None:
    with pytest.raises(InputError, match=r"^message: not valid JSON") as caught:
        parse_json(text.encode(), "message")
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_may_be_text(tmp_path: Path) -> None:
    place = str(tmp_path / "deep" / "value.json")
    write_json(place, {"a": [1]})
    assert read_json(place) == {"a": [1]}
    write_text(place, "3")
    assert read_json(place, "value") == 3
    check_writable(place, 10)


def test_an_unwritable_place_is_named_before_and_at_writing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "out", Path("/proc/none/out")):
        with pytest.raises(InputError, match="cannot write"):
            check_writable(path)
        with pytest.raises(InputError, match="cannot write"):
            save_tensors(path, {"w": torch.zeros(1)}, {})
    with pytest.raises(InputError, match="make room"):
        check_writable(tmp_path / "out", 2**62)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_private_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """Also where a file that others could read is replaced."""
    place = tmp_path / "secret"
    write_text(place, "old")
    write_private_text(place, "new")
    assert place.read_text() == "new"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    """As ``-o /dev/null`` would do, given the right to."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for path in (Path("/dev/null"), pipe, link):
        for write in (check_output_file, partial(write_text, text="x")):
            with pytest.raises(InputError, match="it is a device or a pipe"):
                write(path)
    assert pipe.is_fifo()
    assert Path("/dev/null").is_char_device()
    assert link.is_symlink()


def test_half_a_character_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(InputError, match="half a character"):
        write_text(tmp_path / "a", "\ud83d")
    assert (tmp_path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_an_unwritable_cache_is_no_error_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLABEDIT_CACHE", "/proc/none")
    assert not cache_directory("targets").exists()
