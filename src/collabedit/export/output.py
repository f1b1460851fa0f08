"""Where an edit goes: a directory, a .gguf file, or a file of only the delta."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from collabedit.export.gguf_model import check_gguf, save_gguf
from collabedit.export.model_directory import (
    check_output,
    check_output_directory,
    save_edited_model,
)
from collabedit.files import check_output_file
from collabedit.messages import Delta
from collabedit.models import LanguageModel

__all__ = ["Output"]


@dataclass(frozen=True)
class Output:
    """A path whose suffix says what is written: ``.safetensors``, ``.gguf``, or a directory.

    Attributes:
        path: of the file or directory.
        overwrite: replace a model that is already there.
        trust_remote_code: whether Python code that ships with the model may run.
    """

    path: Path
    overwrite: bool = False
    trust_remote_code: bool = False

    @property
    def _is_directory(self) -> bool:
        return self.path.suffix not in (".safetensors", ".gguf")

    @property
    def _options(self) -> dict[str, bool]:
        return {"overwrite": self.overwrite, "trust_remote_code": self.trust_remote_code}

    def check(self, model: str) -> None:
        """See that it can be written, before a model is loaded.

        Args:
            model: name of the model to edit.

        Raises:
            InputError: when it cannot.
        """
        if self.path.suffix == ".safetensors":
            check_output_file(self.path)
        elif self.path.suffix == ".gguf":
            check_gguf(self.path, model, **self._options)
        else:
            check_output_directory(self.path, overwrite=self.overwrite)

    def check_room(self, model: LanguageModel) -> None:
        """See that the loaded model can be saved there, before the work.

        Raises:
            InputError: when it cannot.
        """
        if self._is_directory:
            check_output(self.path, model, overwrite=self.overwrite)

    def save(self, model: LanguageModel, delta: Delta, *, applied: bool = False) -> None:
        """Write the delta, or the model with it.

        Args:
            model: the model.
            delta: the change of its weights.
            applied: whether ``model`` has the change already.

        Raises:
            InputError: when it cannot be written.
        """
        if self.path.suffix == ".safetensors":
            delta.save(self.path)
        elif self.path.suffix == ".gguf":
            save_gguf(delta, self.path, model.name, **self._options)
        else:
            save_edited_model(model, delta, self.path, overwrite=self.overwrite, applied=applied)
