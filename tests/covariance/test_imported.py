"""Statistics written by other programs, which may be damaged or hostile."""

from __future__ import annotations

import contextlib
import io
import random
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from collabedit.covariance import import_npz, layer_in_file_name
from collabedit.errors import CollabEditError, CovarianceError, InputError, ModelError
from collabedit.messages import Covariance


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


#: An array whose header breaks off within a bracket.
OPEN_HEADER = (
    b"\x93NUMPY\x01\x00" + (76).to_bytes(2, "little") + b"{'shape': (5, 5L,".ljust(75) + b"\n"
)


def test_import_unpacks_no_more_than_the_model_needs(tiny_gpt2, tmp_path):
    one = io.BytesIO()
    numpy.save(one, numpy.array(1))
    count = {"mom2.count.npy": one.getvalue()}
    zeros = npy_header((5000, 5000)) + bytes(8 * 5000**2)
    for name, members, message in [
        ("zip bomb", {"mom2.mom2.npy": zeros}, "unpacks to 200.0 MB"),
        ("header only", {"mom2.mom2.npy": npy_header((10**9, 10**9))}, "unpacks to"),
        ("bare name", {"mom2.mom2": zeros}, "unpacks to 200.0 MB"),
        ("open header", {"mom2.mom2.npy": OPEN_HEADER}, "not an .npz file"),
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
            offset = min(start + generator.randrange(300), len(whole) - 1)
            damaged[offset] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice([None, generator.randrange(len(whole))])])
        with contextlib.suppress(CollabEditError):
            import_npz({0: path}, tiny_gpt2)
