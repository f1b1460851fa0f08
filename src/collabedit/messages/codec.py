"""One codec for all messages: JSON documents, or arrays with JSON metadata in safetensors."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Self

from collabedit.errors import CollabEditError
from collabedit.files import (
    load_tensors,
    parse_json,
    read_json,
    save_tensors,
    tensors_from_bytes,
    tensors_to_bytes,
    write_json,
)
from collabedit.messages.metadata import Header, parse_header

__all__ = ["SHORT", "JsonMessage", "TensorMessage"]

#: Bytes of a short answer: hashes of the weights of hundreds of layers fit in.
SHORT = 1 << 16


class JsonMessage(Header):
    """A message without arrays: a JSON document.

    Attributes:
        what: what errors call it.
        error: what is raised about its content.
        most_bytes: size limit of a message that anyone may send and that is always short;
            ``None`` for no limit.
    """

    what: ClassVar[str]
    error: ClassVar[type[CollabEditError]]
    most_bytes: ClassVar[int | None] = None

    def to_bytes(self) -> bytes:
        """The document, in UTF-8."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "message") -> Self:
        """Read an untrusted document.

        Args:
            data: the bytes.
            source: their origin, for error messages.

        Raises:
            InputError: when they are not JSON.
            CollabEditError: of the message's own kind, when they are another document, or too long.
        """
        if cls.most_bytes is not None and len(data) > cls.most_bytes:
            raise cls.error(
                f"{source}: {len(data):,} bytes, but a {cls.what} has at most {cls.most_bytes:,}"
            )
        return cls._parse(parse_json(data, source), source)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the document to a file."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file; raises as :meth:`from_bytes` does."""
        return cls._parse(read_json(path, cls.what), os.fspath(path))

    @classmethod
    def from_values(cls, values: Any, source: str = "message") -> Self:
        """Read a decoded JSON document; raises as :meth:`from_bytes` does."""
        return cls._parse(values, source)

    @classmethod
    def _parse(cls, values: Any, source: str) -> Self:
        if not isinstance(values, dict):
            format_ = cls.model_fields["format"].default
            raise cls.error(f"{source}: not a {format_} file")
        return parse_header(cls, values, source, cls.error)


class TensorMessage(ABC):
    """A message with arrays: safetensors with JSON metadata.

    Attributes:
        what: its name in error messages.
    """

    what: ClassVar[str]

    @abstractmethod
    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The arrays by name, and the metadata as JSON values."""

    @classmethod
    @abstractmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read the message from untrusted arrays and metadata.

        Args:
            tensors: by name.
            metadata: JSON values.
            source: their origin, for error messages.

        Raises:
            CollabEditError: when anything in them is malformed.
        """

    def to_bytes(self) -> bytes:
        """The message as safetensors."""
        return tensors_to_bytes(*self.pack())

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "message") -> Self:
        """Read an untrusted message.

        Raises:
            InputError: when the bytes are not safetensors.
            CollabEditError: when they are not such a message; see :meth:`unpack`.
        """
        return cls.unpack(*tensors_from_bytes(data, source), source)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the message to a file."""
        save_tensors(path, *self.pack())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file; raises as :meth:`from_bytes` does."""
        return cls.unpack(*load_tensors(path, cls.what), os.fspath(path))
