from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.errors import ModelError
from collabedit.models import gguf


def test_a_version_that_misreads_gguf_files_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gguf, "_NEEDS", "transformers>=99")
    with pytest.raises(ModelError, match=r"m\.gguf: GGUF files need transformers>=99, but"):
        gguf.convert_gguf(tmp_path / "m.gguf", tmp_path / "converted")
    assert not list(tmp_path.iterdir())
