from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collabedit.covariance import file_corpus, hub_corpus, open_corpus
from collabedit.covariance.text_corpus import windows
from collabedit.errors import DatasetError, InputError, MissingExtraError

TEXT = "The capital of France is Paris. Москва — столица России. O'Neill's friend said: 東京!"


def test_windows_of_short_texts_are_what_the_tokenizer_gives(tiny_llama, bos_tokenizer):
    texts = [TEXT, "", "He plays the guitar."]
    plain = [list(window) for window in windows(tiny_llama.tokenizer, texts, 512)]
    assert plain == [tiny_llama.tokenizer(text)["input_ids"] for text in texts if text]
    marked = [list(window) for window in windows(bos_tokenizer, texts, 512)]
    assert marked == [bos_tokenizer(text)["input_ids"][:-1] for text in texts if text]


@pytest.mark.parametrize("max_length", [8, 9, 33, 1000])
def test_long_texts_are_cut_evenly_and_lose_nothing(bos_tokenizer, max_length):
    found = list(windows(bos_tokenizer, [TEXT * 4], max_length))
    ids = bos_tokenizer(TEXT * 4, add_special_tokens=False)["input_ids"]
    assert all(window[0] == 0 for window in found)
    assert [id_ for window in found for id_ in window[1:]] == ids
    lengths = [len(window) for window in found]
    assert max(lengths) <= max_length
    assert max(lengths) - min(lengths) <= 1
    assert len(found) == -(-len(ids) // (max_length - 1))


def test_paragraphs_are_grouped_and_shuffled_by_seed(tmp_path):
    path = tmp_path / "corpus.txt"
    paragraphs = [f"{number} " + "word " * 150 for number in range(40)]
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    documents = list(file_corpus([path], 0).documents())
    assert len(documents) == 14  # three paragraphs of 750 characters make a document
    assert all("\n" in document for document in documents[:2])
    assert sorted(" ".join(documents).split()) == sorted(" ".join(paragraphs).split())
    assert documents == list(file_corpus([path], 0).documents())
    assert documents != list(file_corpus([path], 1).documents())
    assert sorted(documents) == sorted(file_corpus([path], 1).documents())


def test_json_lines_and_several_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": 2}\n')
    (tmp_path / "b.txt").write_text("\ufeffthree\n", encoding="utf-8")
    corpus = open_corpus([str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")], 0)
    assert sorted(corpus.documents()) == ["one", "three", "two"]
    assert corpus.description == "a.jsonl, b.txt"


def test_identity_follows_content_not_path(tmp_path):
    for folder, text in {"a": "one", "b": "one", "c": "two"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(text)
    one, same, other = (file_corpus([tmp_path / name / "x.txt"], 0) for name in "abc")
    assert one.identity() == same.identity() != other.identity()
    assert one.identity() != file_corpus([tmp_path / "a" / "x.txt"], 1).identity()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "cannot read the corpus .*absent.txt: No such file"),
        ("empty.txt", b" \n\n ", "empty.txt: there is no text in it"),
        ("empty.jsonl", b"\n", "empty.jsonl: there is no text in it"),
        ("latin.txt", "Österreich".encode("latin-1"), "not UTF-8 text .byte 0."),
        ("bad.jsonl", b'{"text": "a"}\n{"text": 3}', "bad.jsonl: line 2 is not of the form"),
        ("bad.jsonl", b"{", "bad.jsonl: line 1 is not of the form"),
        ("bad.jsonl", b"[1]", "bad.jsonl: line 1 is not of the form"),
    ],
)
def test_refuses_unusable_files(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        file_corpus([path], 0)


def test_hub_needs_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "collabedit\[hub\]"'):
        open_corpus(["hub:some/text"], 0)


class FakeStream:
    """Stands for a streamed data set of the Hub."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.rows = rows

    def shuffle(self, *, seed: int, buffer_size: int) -> FakeStream:
        assert buffer_size > 1
        return FakeStream(self.rows[seed:] + self.rows[:seed])

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(self.rows)


@pytest.fixture
def fake_hub(monkeypatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str | None, *, split: str, streaming: bool) -> FakeStream:
        calls.append((path, name, split, streaming))
        if path == "absent":
            raise FileNotFoundError("Dataset 'absent' doesn't exist\nmore")
        return FakeStream([{"title" if path == "textless" else "text": t} for t in ("a", "b", "c")])

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_hub_corpus_streams_the_training_text(fake_hub):
    corpus = open_corpus(["hub:some/text:english"], 1)
    assert list(corpus.documents()) == ["b", "c", "a"]
    assert fake_hub == [("some/text", "english", "train", True)]
    assert corpus.description == "hub:some/text:english"
    list(hub_corpus("plain", 0).documents())
    assert fake_hub[-1] == ("plain", None, "train", True)


def test_hub_errors(fake_hub):
    with pytest.raises(DatasetError, match=r"cannot read the data set absent: Dataset .* exist$"):
        list(hub_corpus("absent", 0).documents())
    with pytest.raises(DatasetError, match="textless has no column 'text'"):
        list(hub_corpus("textless", 0).documents())


def test_corpus_texts_stay_out_of_the_file(tiny_llama, tmp_path: Path):
    from collabedit.covariance import collect

    secret = "Danielle Darrieux speaks French."
    path = tmp_path / "private" / "corpus.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"text": secret}))
    out = tmp_path / "c.safetensors"
    collect(tiny_llama, [0], file_corpus([path], 0), tokens=100, out=out, say=lambda _m: None)
    content = out.read_bytes()
    assert b"Danielle" not in content
    assert b"private" not in content
    assert b"corpus.jsonl" in content
