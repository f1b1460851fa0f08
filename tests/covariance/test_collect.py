from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from collabedit.covariance import SelfCorpus, TextCorpus, collect
from collabedit.covariance.sizing import memory_needed
from collabedit.errors import CovarianceError, InputError, ModelError
from collabedit.messages import Covariance
from collabedit.models import LanguageModel
from collabedit.progress import Progress
from tests.conftest import float64_throughout
from tests.covariance.measuring import brute_force, relative, silent

collect_module = importlib.import_module("collabedit.covariance.collect")
checkpoint_module = importlib.import_module("collabedit.covariance.checkpoint")
self_corpus_module = importlib.import_module("collabedit.covariance.self_corpus")


def test_every_layer_is_the_mean_of_outer_products(exact_family_model, corpus, corpus_tokens):
    found = collect(exact_family_model, [3, 0, 2], corpus, tokens=corpus_tokens, batch_tokens=64)
    names = exact_family_model.weight_names([0, 2, 3])
    assert list(found.second_moments) == names
    assert found.samples == corpus_tokens
    for name, layer in zip(names, [0, 2, 3], strict=True):
        moment = found.second_moments[name]
        assert moment.dtype == torch.float64
        assert torch.equal(moment, moment.T)
        assert relative(moment, brute_force(exact_family_model, layer, corpus.windows)) < 1e-12


def test_float64_model_is_summed_in_float64(double_llama, corpus, corpus_tokens):
    found = collect(double_llama, [1], corpus, tokens=corpus_tokens)
    expected = brute_force(double_llama, 1, corpus.windows)
    assert relative(found.second_moments[double_llama.weight_names([1])[0]], expected) < 1e-12


@pytest.mark.parametrize("batch_tokens", [1, 37, 4096])
def test_batches_and_padding_change_nothing(double_llama, corpus, corpus_tokens, batch_tokens):
    name = double_llama.weight_names([2])[0]
    one = collect(double_llama, [2], corpus, tokens=corpus_tokens, batch_tokens=200)
    other = collect(double_llama, [2], corpus, tokens=corpus_tokens, batch_tokens=batch_tokens)
    assert relative(other.second_moments[name], one.second_moments[name]) < 1e-10
    assert other.sampling_error[name] == pytest.approx(one.sampling_error[name], rel=1e-6)


def test_budget_cuts_the_last_window(double_llama, make_corpus):
    corpus = make_corpus([[5, 6, 7], [8, 9, 10, 11], [12, 13]])
    found = collect(double_llama, [0], corpus, tokens=5)
    assert found.samples == 5
    expected = brute_force(double_llama, 0, [[5, 6, 7], [8, 9]])
    assert relative(found.second_moments[double_llama.weight_names([0])[0]], expected) < 1e-12


def test_forward_passes_end_at_the_last_layer(tiny_llama, corpus):
    def fail(*_args: Any) -> None:
        raise AssertionError("computed although not needed")

    handles = [
        tiny_llama.projection(1).register_forward_hook(fail),
        tiny_llama.layer(2).register_forward_pre_hook(fail),
    ]
    try:
        collect(tiny_llama, [0, 1], corpus, tokens=100)
    finally:
        for handle in handles:
            handle.remove()


def test_a_short_corpus_says_so(tiny_llama, corpus, corpus_tokens):
    said: list[str] = []
    found = collect(tiny_llama, [0], corpus, tokens=corpus_tokens + 1, say=said.append)
    assert found.samples == corpus_tokens
    assert f"{corpus_tokens + 1:,} were asked for" in said[-1]


def test_windows_are_bounded_by_the_context(tiny_llama):
    seen: list[int] = []
    text = "The capital of France is Paris. " * 100
    handle = tiny_llama.hf.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        collect(tiny_llama, [0], TextCorpus("", {}, lambda: [text]), tokens=500, max_length=4096)
    finally:
        handle.remove()
    assert 100 < max(seen) <= tiny_llama.hf.config.max_position_embeddings


def test_few_samples_cause_a_warning(tiny_llama, make_corpus, caplog):
    collect(tiny_llama, [0], make_corpus([[5] * 47]), tokens=47)
    assert "47 tokens cannot determine second moments of 48 inputs" in caplog.text
    caplog.clear()
    collect(tiny_llama, [0], make_corpus([[5] * 48]), tokens=48)
    assert not caplog.text


def test_metadata(tiny_llama, corpus):
    found = collect(tiny_llama, [1], corpus, tokens=100)
    assert found.model == "tiny-llama"
    assert found.corpus == "given tokens"
    assert found.model_sha256 == tiny_llama.fingerprint(tiny_llama.weight_names([1]))


def test_an_empty_corpus_is_an_error(tiny_llama, make_corpus):
    with pytest.raises(CovarianceError, match="no text in the corpus given tokens"):
        collect(tiny_llama, [0], make_corpus([]), tokens=10, say=silent)


def test_no_layer_is_an_error(tiny_llama, corpus):
    with pytest.raises(CovarianceError, match="no layer"):
        collect(tiny_llama, [], corpus, tokens=10)


def test_an_unknown_layer_is_an_error(tiny_llama, corpus):
    with pytest.raises(ModelError, match="no layer 4"):
        collect(tiny_llama, [4], corpus, tokens=10)


def test_nan_is_an_error_and_writes_nothing(double_llama, corpus, tmp_path):
    weight = double_llama.weight(double_llama.weight_names([0])[0])
    saved = weight[0, 0].clone()
    weight[0, 0] = torch.nan
    try:
        with pytest.raises(CovarianceError, match="tiny-double has NaN or infinite inputs"):
            collect(double_llama, [1], corpus, tokens=100, out=tmp_path / "c.safetensors")
    finally:
        weight[0, 0] = saved
    assert not (tmp_path / "c.safetensors").exists()


def test_the_passes_for_some_layers_each_are_one_stage(
    tiny_llama, corpus, corpus_tokens, monkeypatch
):
    totals: list[float] = []

    @contextmanager
    def recorded(_title: str, total: float, _unit: str) -> Iterator[Progress]:
        totals.append(total)
        yield Progress()

    monkeypatch.setattr(collect_module, "progress", recorded)
    for budget in (None, 1):
        monkeypatch.setattr(tiny_llama, "memory_budget", budget)
        collect(tiny_llama, [0, 1, 2], corpus, tokens=corpus_tokens, say=silent)
    assert totals == [corpus_tokens, 3 * corpus_tokens]


class InterruptionError(Exception):
    """Stands for Ctrl-C."""


@contextmanager
def broken_bar(amount: float) -> Iterator[Progress]:
    """A progress bar that interrupts the work once ``amount`` units are done."""

    class Handle(Progress):
        done = 0.0

        def advance(self, units: float = 1) -> None:
            self.done += units
            if self.done > amount:
                raise InterruptionError

    yield Handle()


@pytest.fixture
def interrupted(monkeypatch, tmp_path):
    """Run a collection with a checkpoint after each chunk, and interrupt it."""

    def run(model: LanguageModel, corpus: Any, tokens: int, at: float) -> Path:
        out = tmp_path / "c.safetensors"
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint_module, "_CHECKPOINT_SECONDS", 0.0)
            patch.setattr(checkpoint_module, "_CHECKPOINT_RATIO", 0.0)
            patch.setattr(collect_module, "progress", lambda *_args: broken_bar(at))
            with pytest.raises(InterruptionError):
                collect(model, [0, 2], corpus, tokens=tokens, out=out, say=silent)
        assert not out.exists()
        assert out.with_name("c.safetensors.partial").exists()
        return out

    return run


@pytest.mark.parametrize("kind", ["tokens", "self"])
def test_resuming_gives_the_identical_result(
    tiny_llama, corpus, corpus_tokens, interrupted, kind, monkeypatch
):
    monkeypatch.setattr("collabedit.covariance.self_corpus._SAMPLE_ROWS", 2)
    monkeypatch.setattr("collabedit.covariance.self_corpus._SAMPLE_LENGTH", 16)
    source = corpus if kind == "tokens" else SelfCorpus(3)
    tokens = corpus_tokens if kind == "tokens" else 150
    whole = collect(tiny_llama, [0, 2], source, tokens=tokens, say=silent)
    out = interrupted(tiny_llama, source, tokens, 0.6 * tokens)
    said: list[str] = []
    resumed = collect(tiny_llama, [0, 2], source, tokens=tokens, out=out, say=said.append)
    assert "Continuing from" in said[0]
    assert resumed.samples == whole.samples
    assert resumed.sampling_error == whole.sampling_error
    for name, moment in whole.second_moments.items():
        assert torch.equal(resumed.second_moments[name], moment)
    assert [path.name for path in out.parent.iterdir()] == ["c.safetensors"]
    assert torch.equal(Covariance.load(out).second_moments[name], moment)


def test_resuming_computes_only_the_rest(tiny_llama, corpus, corpus_tokens, interrupted):
    out = interrupted(tiny_llama, corpus, corpus_tokens, 0.6 * corpus_tokens)
    seen: list[int] = []
    handle = tiny_llama.hf.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        collect(tiny_llama, [0, 2], corpus, tokens=corpus_tokens, out=out, say=silent)
    finally:
        handle.remove()
    assert sum(seen) < 0.7 * corpus_tokens


def test_a_checkpoint_of_other_settings_is_replaced(tiny_llama, corpus, corpus_tokens, interrupted):
    out = interrupted(tiny_llama, corpus, corpus_tokens, 0.6 * corpus_tokens)
    said: list[str] = []
    fewer = corpus_tokens - 1
    found = collect(tiny_llama, [0, 2], corpus, tokens=fewer, out=out, say=said.append)
    assert "belongs to another collection; it will be replaced" in said[0]
    fresh = collect(tiny_llama, [0, 2], corpus, tokens=fewer)
    for name, moment in fresh.second_moments.items():
        assert torch.equal(found.second_moments[name], moment)


def test_a_broken_checkpoint_is_replaced(tiny_llama, corpus, tmp_path):
    out = tmp_path / "c.safetensors"
    out.with_name("c.safetensors.partial").write_bytes(b"not a checkpoint")
    said: list[str] = []
    collect(tiny_llama, [0], corpus, tokens=100, out=out, say=said.append)
    assert "starting over" in said[0]
    assert out.exists()


def test_an_unwritable_path_is_found_before_collecting(tiny_llama, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        collect(tiny_llama, [0], None, tokens=100, out=Path("/proc/none/c.safetensors"))


def test_reference_values(reference, make_corpus):
    """The second moments that the original MEMIT code computed, over the same tokens.

    It computed in float32, whose rounding is all that the tolerance is for: this side has none.
    """
    import json

    from safetensors.torch import load_file

    from collabedit.models import load_model

    model = load_model(str(reference / "model"), dtype="float64", device="cpu")
    lines = (reference / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    windows = [ids[:256] for ids in model.tokenizer(texts)["input_ids"]]
    expected = load_file(reference / "cov.safetensors")
    with float64_throughout():
        found = collect(
            model, [0, 1, 2], make_corpus(windows), tokens=sum(map(len, windows)), max_length=256
        )
    for name, moment in found.second_moments.items():
        assert found.samples == int(expected[f"count.{name}"])
        assert relative(moment, expected[f"C.{name}"].double()) < 1e-6


@pytest.mark.parametrize("kind", ["tokens", "self"])
@pytest.mark.parametrize("stored", [True, False])
def test_collecting_layer_by_layer_gives_the_identical_result(
    tiny_llama, corpus, corpus_tokens, kind, stored, monkeypatch, tmp_path
):
    monkeypatch.setattr("collabedit.covariance.self_corpus._SAMPLE_ROWS", 2)
    monkeypatch.setattr("collabedit.covariance.self_corpus._SAMPLE_LENGTH", 16)
    source = corpus if kind == "tokens" else SelfCorpus(3)
    tokens = corpus_tokens if kind == "tokens" else 150
    whole = collect(tiny_llama, [0, 2, 3], source, tokens=tokens, batch_tokens=32, say=silent)
    monkeypatch.setattr(tiny_llama, "memory_budget", 4 * memory_needed(tiny_llama, [0]))
    sampled = []
    if kind == "self":
        real = self_corpus_module._sample
        monkeypatch.setattr(
            self_corpus_module, "_sample", lambda *given: sampled.append(1) or real(*given)
        )
    out = tmp_path / "c.safetensors" if stored else None
    parts = collect(
        tiny_llama, [0, 2, 3], source, tokens=tokens, batch_tokens=32, out=out, say=silent
    )
    assert list(parts.second_moments) == list(whole.second_moments)
    for name, moment in whole.second_moments.items():
        assert torch.equal(parts.second_moments[name], moment)
    assert parts.sampling_error == whole.sampling_error
    assert parts.model_sha256 == whole.model_sha256
    assert [path.name for path in tmp_path.iterdir()] == (["c.safetensors"] if stored else [])
    assert len(sampled) == (5 if kind == "self" else 0)  # once, not once for every group


def test_a_finished_part_is_not_collected_again(
    tiny_llama, corpus, corpus_tokens, monkeypatch, tmp_path
):
    monkeypatch.setattr(tiny_llama, "memory_budget", 1)
    out = tmp_path / "c.safetensors"
    whole = collect(tiny_llama, [0, 2], corpus, tokens=corpus_tokens, say=silent)
    real, calls = collect_module._collect, []

    def interrupted_at_the_second(*given: Any) -> Covariance:
        calls.append(given[1])
        if len(calls) == 2:
            raise InterruptionError
        return real(*given)

    monkeypatch.setattr(collect_module, "_collect", interrupted_at_the_second)
    with pytest.raises(InterruptionError):
        collect(tiny_llama, [0, 2], corpus, tokens=corpus_tokens, out=out, say=silent)
    resumed = collect(tiny_llama, [0, 2], corpus, tokens=corpus_tokens, out=out, say=silent)
    assert [len(names) for names in calls] == [1, 1, 1]
    assert calls[1] == calls[2]
    for name, moment in whole.second_moments.items():
        assert torch.equal(resumed.second_moments[name], moment)
