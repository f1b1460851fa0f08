from __future__ import annotations

import contextlib
import io
import json
import random
import re
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

from collabedit.covariance import Covariance, collect, import_npz, merge
from collabedit.covariance.store import condition_number, layer_in_file_name
from collabedit.errors import CollabEditError, CovarianceError, InputError, ModelError
from collabedit.files import StoredTensors


@pytest.fixture(scope="module")
def covariance() -> Covariance:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(2, 6, 50, dtype=torch.float64, generator=generator)
    names = ["model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"]
    return Covariance(
        second_moments={name: f @ f.T / 50 for name, f in zip(names, factors, strict=True)},
        samples=50,
        corpus="tests",
        model="tiny",
        model_sha256={names[0]: "aa", names[1]: "bb"},
        sampling_error={names[0]: 0.1, names[1]: 0.2},
        created="2025-01-01T00:00:00+00:00",
    )


def test_saved_and_loaded(covariance, tmp_path):
    covariance.save(tmp_path / "c.safetensors")
    loaded = Covariance.load(tmp_path / "c.safetensors")
    for name, moment in covariance.second_moments.items():
        assert torch.equal(loaded.second_moments[name], moment)
    for field in ("samples", "corpus", "model", "model_sha256", "sampling_error", "created"):
        assert getattr(loaded, field) == getattr(covariance, field)
    assert loaded.collabedit == covariance.collabedit


METADATA: dict[str, Any] = {
    "format": "collabedit.covariance",
    "version": 1,
    "samples": 50,
    "corpus": "tests",
    "model": "tiny",
    "model_sha256": {"h.1.w": "aa"},
    "sampling_error": {},
    "created": "2025-01-01T00:00:00+00:00",
    "collabedit": "0.1",
}


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
    save_file(tensors, path, {key: json.dumps(value) for key, value in metadata.items()})


def test_float32_is_read(tmp_path):
    write(tmp_path / "c", {"h.1.w/second_moment": torch.eye(3)}, METADATA)
    assert Covariance.load(tmp_path / "c").second_moments["h.1.w"].dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "collabedit.update"}, "not a covariance file .its format is 'collabedit.upd"),
        ({"format": None}, "not a covariance file"),
        ({"version": 2}, "version 2 are not known"),
        ({"samples": 0}, "number of samples is 0"),
        ({"samples": True}, "number of samples is True"),
        ({"samples": 1.5}, "number of samples is 1.5"),
        ({"corpus": None}, "no text for 'corpus'"),
        ({"model": ["a"]}, "no text for 'model'"),
        ({"created": 3}, "no text for 'created'"),
        ({"model_sha256": {}}, "hash of each weight"),
        ({"model_sha256": "aa"}, "hash of each weight"),
        ({"model_sha256": {"h.1.w": 7}}, "a hash that is not text"),
        ({"sampling_error": {"other": 0.1}}, "sampling errors of other weights"),
        ({"sampling_error": {"h.1.w": -0.1}}, "sampling error -0.1"),
        ({"sampling_error": {"h.1.w": "big"}}, "sampling error 'big'"),
    ],
)
def test_hostile_metadata(tmp_path, changes, message):
    path = tmp_path / "hostile.safetensors"
    write(path, {"h.1.w/second_moment": torch.eye(3)}, {**METADATA, **changes})
    with pytest.raises(CovarianceError, match=f"hostile.safetensors: .*{message}"):
        Covariance.load(path)


@pytest.mark.parametrize(
    ("name", "matrix", "message"),
    [
        ("h.1.w/second_moment", torch.eye(3).half(), "has type torch.float16"),
        ("h.1.w/second_moment", torch.eye(3).long(), "has type torch.int64"),
        ("h.1.w/second_moment", torch.ones(3), "not a square"),
        ("h.1.w/second_moment", torch.ones(3, 2), "not a square"),
        ("h.1.w/second_moment", torch.zeros(0, 0), "not a square"),
        ("h.1.w/second_moment", torch.full((2, 2), torch.nan), "NaN or infinite"),
        ("h.1.w/second_moment", torch.tensor([[1.0, 0.1], [0.0, 1.0]]), "not symmetric"),
        ("h.1.w/second_moment", torch.diag(torch.tensor([1.0, -1.0])), "diagonal"),
        ("h.1.w/second_moment", torch.zeros(2, 2), "diagonal"),
        ("h.1.w/keys", torch.eye(3), "unknown tensor 'h.1.w/keys'"),
        ("/second_moment", torch.eye(3), "unknown tensor '/second_moment'"),
    ],
)
def test_hostile_matrices(tmp_path, name, matrix, message):
    path = tmp_path / "hostile.safetensors"
    write(path, {name: matrix}, METADATA)
    with pytest.raises(CovarianceError, match=f"hostile.safetensors: .*{message}"):
        Covariance.load(path)


def test_a_file_without_matrices(tmp_path):
    write(tmp_path / "c", {}, METADATA)
    with pytest.raises(CovarianceError, match="no matrix"):
        Covariance.load(tmp_path / "c")


def test_files_that_are_no_safetensors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Covariance.load(tmp_path / "absent")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="not a safetensors file"):
        Covariance.load(tmp_path / "text")


@pytest.mark.parametrize("value", ["not JSON", "[" * 100_000])
def test_metadata_that_is_no_json(tmp_path, value):
    save_file({"h.1.w/second_moment": torch.eye(3)}, tmp_path / "c", {"format": value})
    with pytest.raises(InputError, match="metadata is not collabedit's"):
        Covariance.load(tmp_path / "c")


def test_check_model(covariance):
    covariance.check_model(covariance.model_sha256)
    covariance.check_model({"model.layers.2.mlp.down_proj.weight": "bb"})
    with pytest.raises(CovarianceError, match=r"another model: its model.layers.1.mlp"):
        covariance.check_model({"model.layers.1.mlp.down_proj.weight": "cc"})
    needed = {**covariance.model_sha256, "model.layers.13.mlp.down_proj.weight": "dd"}
    with pytest.raises(CovarianceError) as caught:
        covariance.check_model(needed)
    message = str(caught.value)
    assert "has layers 1,2, but layers 13 are needed too" in message
    assert "collabedit stats collect --model tiny --layers 1,2,13" in message


def test_prior_is_lambda_times_the_moment(covariance):
    name = "model.layers.2.mlp.down_proj.weight"
    expected = 20 * covariance.second_moments[name]
    assert torch.allclose(covariance.prior(name, 20.0).matrix, expected, rtol=1e-14)
    with pytest.raises(CovarianceError, match=r"has no other; it has layers 1,2"):
        covariance.prior("other", 1.0)


def test_merging_halves_gives_the_whole(double_llama, corpus, corpus_tokens, make_corpus):
    halves = [make_corpus(corpus.windows[:15]), make_corpus(corpus.windows[15:])]
    whole = collect(double_llama, [0, 1], corpus, tokens=corpus_tokens)
    parts = [
        collect(double_llama, [0, 1], half, tokens=sum(map(len, half.windows))) for half in halves
    ]
    pooled = merge(parts)
    assert pooled.samples == whole.samples
    for name, moment in whole.second_moments.items():
        assert torch.allclose(pooled.second_moments[name], moment, rtol=1e-10, atol=0)
        assert pooled.sampling_error[name] == pytest.approx(whole.sampling_error[name], rel=0.5)
    assert pooled.corpus == "given tokens + given tokens"


def test_merging_equal_parts_lowers_the_error_by_the_root_of_two(covariance):
    pooled = merge([covariance, covariance])
    assert pooled.samples == 100
    for name, error in covariance.sampling_error.items():
        assert pooled.sampling_error[name] == pytest.approx(error / 2**0.5)
    unknown = merge([covariance, replace(covariance, sampling_error={})])
    assert unknown.sampling_error == {}


def test_what_cannot_be_merged(covariance):
    name = "model.layers.1.mlp.down_proj.weight"
    other = replace(covariance, model="other", model_sha256={**covariance.model_sha256, name: "x"})
    with pytest.raises(CovarianceError, match="covariances of other weights"):
        merge([covariance, other])
    with pytest.raises(CovarianceError, match="no covariance to merge"):
        merge([])


def test_condition_number():
    spectrum = torch.tensor([1e-3, 0.5, 2.0, 40.0], dtype=torch.float64)
    rotation, _ = torch.linalg.qr(
        torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    matrix = rotation @ torch.diag(spectrum) @ rotation.T
    assert condition_number((matrix + matrix.T) / 2) == pytest.approx(4e4, rel=1e-6)
    assert condition_number(torch.zeros(2, 2, dtype=torch.float64)) == float("inf")


def write_npz(path: Path, moment: torch.Tensor, count: int = 10) -> Path:
    numpy.savez(
        path,
        **{
            "mom2.constructor": "util.runningstats.SecondMoment()",
            "mom2.count": count,
            "mom2.mom2": (moment * count).float().numpy(),
        },
    )
    return path


@pytest.fixture
def moments() -> list[torch.Tensor]:
    factors = torch.randn(2, 48, 60, generator=torch.Generator().manual_seed(0))
    return [f @ f.T / 60 for f in factors]


def test_import_divides_the_sum_by_the_count(tiny_gpt2, moments, tmp_path):
    files = {layer: write_npz(tmp_path / f"{layer}.npz", moments[layer]) for layer in (0, 1)}
    found = import_npz(files, tiny_gpt2)
    names = tiny_gpt2.weight_names([0, 1])
    found.check_model(tiny_gpt2.fingerprint(names))
    assert found.samples == 10
    assert found.corpus == "imported: 0.npz, 1.npz"
    for name, moment in zip(names, moments, strict=True):
        assert torch.allclose(found.second_moments[name], moment.double(), rtol=1e-6)
    found.save(tmp_path / "c.safetensors")
    Covariance.load(tmp_path / "c.safetensors")


def test_layer_in_file_name(tiny_gpt2):
    name = "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz"
    assert layer_in_file_name(Path("stats") / name, tiny_gpt2) == 2
    with pytest.raises(InputError, match=r"give it as other\.npz:LAYER"):
        layer_in_file_name(Path("other.npz"), tiny_gpt2)


def test_import_errors(tiny_gpt2, moments, tmp_path):
    good = write_npz(tmp_path / "good.npz", moments[0])
    small = write_npz(tmp_path / "small.npz", moments[0][:3, :3])
    bad = write_npz(tmp_path / "bad.npz", moments[0] * torch.nan)
    empty = write_npz(tmp_path / "empty.npz", moments[0], count=0)
    more = write_npz(tmp_path / "more.npz", moments[1], count=20)
    text = tmp_path / "text.npz"
    text.write_text("hello")
    array = tmp_path / "array.npz"
    with array.open("wb") as stream:
        numpy.save(stream, numpy.ones(3))
    other = tmp_path / "other.npz"
    numpy.savez(other, mean=numpy.ones(3))
    whole = tmp_path / "whole.npz"
    numpy.savez(whole, **{"mom2.mom2": numpy.ones((48, 48), dtype=int), "mom2.count": 1})
    for files, kind, message in [
        ({0: small}, CovarianceError, r"small.npz: its matrix is \[3, 3\], .* \[48, 48\]"),
        ({0: bad}, CovarianceError, "bad.npz: its matrix has NaN"),
        ({0: empty}, CovarianceError, "empty.npz: its number of samples"),
        ({0: other}, CovarianceError, "other.npz: it has no 'mom2.mom2'"),
        ({0: whole}, CovarianceError, "whole.npz: its matrix has type int64"),
        ({0: text}, InputError, "text.npz: not an .npz file"),
        ({0: array}, InputError, "array.npz: not an .npz file"),
        ({0: tmp_path / "absent.npz"}, InputError, "no such file"),
        ({0: good, 1: more}, CovarianceError, "not of the same tokens"),
        ({4: good}, ModelError, "no layer 4"),
        ({}, CovarianceError, "no file to import"),
    ]:
        with pytest.raises(kind, match=message):
            import_npz(files, tiny_gpt2)


def test_import_never_unpickles(tiny_gpt2, tmp_path):
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "bomb.npz"
    numpy.savez(path, **{"mom2.mom2": numpy.array([Bomb()], dtype=object), "mom2.count": 1})
    with pytest.raises(InputError, match=r"not an \.npz file of plain arrays"):
        import_npz({0: path}, tiny_gpt2)
    assert not (tmp_path / "exploded").exists()


def npz_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": "<f8"}
    numpy.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def test_import_unpacks_no_more_than_the_model_needs(tiny_gpt2, tmp_path):
    one = io.BytesIO()
    numpy.save(one, numpy.array(1))
    count = {"mom2.count.npy": one.getvalue()}
    zeros = npy_header((5000, 5000)) + bytes(8 * 5000**2)
    for name, members, message in [
        ("zip bomb", {"mom2.mom2.npy": zeros}, "unpacks to 200.0 MB"),
        ("header only", {"mom2.mom2.npy": npy_header((10**9, 10**9))}, "unpacks to"),
        ("bare name", {"mom2.mom2": zeros}, "unpacks to 200.0 MB"),
        ("bare bytes", {"mom2.mom2": b"x" * 100}, "not an .npz file"),
        ("bare count", {"mom2.count": bytes(10**7)}, "unpacks to 10.0 MB"),
    ]:
        path = npz_of(tmp_path / "bomb.npz", {**count, **members})
        tracemalloc.start()
        with pytest.raises(CollabEditError, match=f"bomb.npz: .*{re.escape(message)}") as caught:
            import_npz({0: path}, tiny_gpt2)
        assert tracemalloc.get_traced_memory()[1] < 2**22, name
        tracemalloc.stop()
        assert "\n" not in str(caught.value)


def test_import_of_damaged_archives_reads_or_refuses(tiny_gpt2, moments, tmp_path):
    whole = write_npz(tmp_path / "whole.npz", moments[0]).read_bytes()
    path = tmp_path / "damaged.npz"
    generator = random.Random(0)
    headers = [whole.index(b"PK\1\2"), whole.index(b"NUMPY"), 0]
    for _ in range(400):
        damaged = bytearray(whole)
        start = generator.choice(headers)
        for _ in range(generator.randint(1, 4)):
            place = min(start + generator.randrange(300), len(whole) - 1)
            damaged[place] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice([None, generator.randrange(len(whole))])])
        with contextlib.suppress(CollabEditError):
            import_npz({0: path}, tiny_gpt2)


def test_asking_for_a_weight_reads_no_matrix(covariance, tmp_path, monkeypatch):
    covariance.save(tmp_path / "c.safetensors")
    stored = Covariance.load(tmp_path / "c.safetensors").second_moments
    monkeypatch.setattr(StoredTensors, "__getitem__", None)
    assert "model.layers.1.mlp.down_proj.weight" in stored
    assert "model.layers.3.mlp.down_proj.weight" not in stored
