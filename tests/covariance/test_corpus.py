from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors

from collabedit.covariance import SelfCorpus, file_corpus, hub_corpus, open_corpus
from collabedit.covariance.corpus import Plan, grouped, windows
from collabedit.errors import DatasetError, InputError, MissingExtraError

TEXT = "The capital of France is Paris. Москва — столица России. O'Neill's friend said: 東京!"


@pytest.fixture
def bos_tokenizer(tiny_llama) -> Any:
    """The tiny tokenizer with a special token in front of every text and one behind it."""
    import copy

    tokenizer = copy.deepcopy(tiny_llama.tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


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


def test_grouped():
    pieces = [[1] * n for n in (3, 1, 5, 2, 1)]
    assert [[len(p) for p in group] for group in grouped(pieces, 4)] == [[3, 1], [5], [2, 1]]
    assert list(grouped([], 4)) == []


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


def test_identity_follows_content_not_place(tmp_path):
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
def test_unusable_files(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        file_corpus([path], 0)


def test_kinds_of_corpora_cannot_be_mixed():
    with pytest.raises(InputError, match="'self' cannot be mixed"):
        open_corpus(["self", "a.txt"], 0)
    with pytest.raises(InputError, match="'hub:a' cannot be mixed"):
        open_corpus(["hub:a", "hub:b"], 0)


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


def sampled(model: Any, seed: int, tokens: int = 600, start: int = 0) -> list[list[int]]:
    plan = Plan(tokens, 32, 10)
    (chunk,) = islice(SelfCorpus(seed).chunks(model, plan, start, lambda _n: None), 1)
    return [list(window) for window in chunk]


def test_samples_are_seeded_and_varied(tiny_llama):
    texts = sampled(tiny_llama, 0)
    assert [len(text) for text in texts] == [32] * 19
    assert texts == sampled(tiny_llama, 0)
    assert texts != sampled(tiny_llama, 1)
    assert texts != sampled(tiny_llama, 0, start=1)
    assert len({text[0] for text in texts}) > 5
    assert len({tuple(text[1:4]) for text in texts}) == len(texts)
    assert not {0, 1} & {id_ for text in texts for id_ in text}


def test_samples_begin_as_the_tokenizer_begins_texts(tiny_llama, bos_tokenizer):
    from dataclasses import replace

    texts = sampled(replace(tiny_llama, tokenizer=bos_tokenizer), 0)
    assert {text[0] for text in texts} == {0}
    assert len({text[1] for text in texts}) > 5
    assert not {0, 1} & {id_ for text in texts for id_ in text[1:]}
    assert {len(text) for text in texts} == {32}


def test_samples_follow_the_model(tiny_llama):
    """The token frequencies after a beginning are the model's probabilities."""
    from collabedit.covariance.corpus import _sample

    texts = torch.tensor(
        _sample(tiny_llama, 4000, 2, torch.Generator().manual_seed(0), lambda _n: None)
    )
    first = int(texts[:, 0].mode().values)
    logits = tiny_llama.hf(input_ids=torch.tensor([[first]])).logits[0, -1]
    logits[:2] = -torch.inf
    expected = torch.softmax(logits, -1)
    followers = texts[texts[:, 0] == first, 1]
    found = torch.bincount(followers, minlength=len(expected)) / len(followers)
    assert (found - expected).abs().sum() / 2 < 0.8 * (1 - 1 / len(expected))
    top = expected.topk(5).indices
    error = (expected[top].sum() / len(followers)).sqrt()
    assert abs(float(found[top].sum() - expected[top].sum())) < 4 * float(error)


def test_reported_tokens_are_those_made(tiny_llama):
    reported: list[int] = []
    chunks = SelfCorpus(0).chunks(tiny_llama, Plan(100, 16, 10), 0, reported.append)
    assert sum(len(window) for window in next(chunks)) == sum(reported)


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
