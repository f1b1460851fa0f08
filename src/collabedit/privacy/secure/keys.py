"""The primitives, all from ``cryptography``: key agreement, signatures, sealing, keystreams."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collabedit.errors import ContributionError, InputError, MissingExtraError
from collabedit.files import check_output_file, read_json
from collabedit.messages import MaskedSumMetadata, SecureAggregation, SignedMessage
from collabedit.privacy.secure.fixed_point import Limbs, add, subtract

try:
    from cryptography.exceptions import InvalidSignature, InvalidTag
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    raise MissingExtraError("cryptography", "secure", "secure aggregation") from error

__all__ = [
    "Identity",
    "Stream",
    "agree",
    "apply_streams",
    "derive",
    "load_roster",
    "new_secret",
    "open_sealed",
    "public_of",
    "seal",
    "usable",
    "verify",
]

#: Numbers that are masked together, so that their 1 MiB of keystream fits the processor's cache.
_CHUNK = 2**16
_BYTES = 16


@dataclass(frozen=True)
class Identity:
    """A party's name and its long-term Ed25519 key.

    Attributes:
        party: its name in the roster.
        secret: 32 bytes, kept private.
    """

    party: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Identity({self.party!r})"  # never the secret

    @classmethod
    def new(cls, party: str) -> Identity:
        """An identity with a random key."""
        return cls(party, secrets.token_bytes(32))

    @property
    def public(self) -> str:
        """The public key in hexadecimal digits, as in a roster."""
        return self._key.public_key().public_bytes_raw().hex()

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.secret)

    def signature(self, message: SignedMessage | MaskedSumMetadata) -> str:
        """The signature of a message, in hexadecimal digits."""
        return self._key.sign(message.signed_bytes()).hex()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the identity to a new file that only this user can read.

        Raises:
            InputError: when it can't be written, or already exists.
        """
        check_output_file(path)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise InputError(
                f"{path}: a key already exists here and is not replaced; choose another file"
            ) from None
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(
                {"format": _IDENTITY, "party": self.party, "secret": self.secret.hex()}, stream
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read an identity.

        Raises:
            InputError: when the file is not one.
        """
        values = read_json(path, "identity")
        known = isinstance(values, dict) and values.get("format") == _IDENTITY
        party, secret = (values.get("party"), values.get("secret")) if known else (None, None)
        key = b""
        if isinstance(secret, str):
            with suppress(ValueError):
                key = bytes.fromhex(secret)
        if not isinstance(party, str) or not party or len(key) != 32:
            raise InputError(f"{path}: not an identity; make one with 'collabedit round key'")
        return cls(party, key)


_IDENTITY = "collabedit.identity"


def load_roster(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a roster: a JSON object of public keys by party name.

    Raises:
        InputError: when it is something else.
    """
    values = read_json(Path(path), "roster")
    good = isinstance(values, dict) and all(
        isinstance(key, str) and len(key) == 64 and set(key) <= set("0123456789abcdef")
        for key in values.values()
    )
    if not good or len(values) < 2:
        raise InputError(
            f"{path}: a roster is a JSON object with the public key of each of two or more "
            'parties, such as {"hospital": "9f2c...", "bank": "77ab..."}; '
            "'collabedit round key' prints them"
        )
    return dict(values)


def verify(
    message: SignedMessage | MaskedSumMetadata, secure: SecureAggregation, session: str
) -> None:
    """Check that a message is from a party in the roster, and for this summation.

    Raises:
        ContributionError: when it is not; it names the party.
    """
    key = secure.roster.get(message.party)
    if key is None:
        raise ContributionError("it is not in the round's roster", party=message.party)
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            bytes.fromhex(message.signature), message.signed_bytes()
        )
    except (InvalidSignature, ValueError):
        raise ContributionError(
            f"its {message.format.removeprefix('collabedit.')} is not signed with the key that the "
            "roster gives for it; somebody else made or changed it",
            party=message.party,
        ) from None
    if message.session != session:
        raise ContributionError(
            f"its {message.format.removeprefix('collabedit.')} is for another summation",
            party=message.party,
        )


def new_secret() -> bytes:
    """32 random bytes: a seed, or a private X25519 key."""
    return secrets.token_bytes(32)


def public_of(secret: bytes) -> str:
    """The public X25519 key of a private one, in hexadecimal digits."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex()


def agree(secret: bytes, public: str, salt: str, *info: str) -> bytes:
    """A 32-byte key that two parties share: X25519, then HKDF-SHA256.

    Args:
        secret: one party's private key.
        public: the other's public key, in hexadecimal digits.
        salt: identifies the summation.
        info: what the key is for.

    Raises:
        ValueError: when the public key is of low order.
    """
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(
        X25519PublicKey.from_public_bytes(bytes.fromhex(public))
    )
    return derive(shared, salt, *info)


def usable(public: str) -> bool:
    """Whether a public X25519 key, in hexadecimal digits, is not one of the few of low order."""
    key = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
    try:
        X25519PrivateKey.generate().exchange(key)
    except ValueError:
        return False
    return True


def derive(secret: bytes, salt: str, *info: str) -> bytes:
    """32 bytes derived from a secret for one purpose (HKDF-SHA256)."""
    context = json.dumps(["collabedit secure aggregation 1", *info]).encode()
    return HKDF(SHA256(), 32, salt.encode(), context).derive(secret)


def seal(key: bytes, content: bytes, context: str) -> str:
    """Encrypt and authenticate with a single-use key (ChaCha20-Poly1305)."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), content, context.encode()).hex()


def open_sealed(key: bytes, sealed: str, context: str) -> bytes | None:
    """What :func:`seal` encrypted; ``None`` if the key, context or ciphertext is wrong."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), bytes.fromhex(sealed), context.encode())
    except (InvalidTag, ValueError):
        return None


@dataclass(frozen=True)
class Stream:
    """A mask: the ChaCha20 keystream of a key, added or subtracted.

    Attributes:
        key: 32 bytes, used for one summation.
        negative: subtract it.
    """

    key: bytes
    negative: bool = False

    def __repr__(self) -> str:
        return "Stream(...)"  # never the key


def apply_streams(total: Limbs, streams: Iterable[Stream]) -> None:
    """Add masks to numbers in place, chunk by chunk.

    Args:
        total: ``[2, n]``.
        streams: the masks.
    """
    ciphers = [
        (Cipher(algorithms.ChaCha20(stream.key, bytes(16)), mode=None).encryptor(), stream.negative)
        for stream in streams
    ]
    zeros = bytes(_CHUNK * _BYTES)
    buffer = bytearray(_CHUNK * _BYTES)
    for start in range(0, total.shape[1], _CHUNK):
        chunk = total[:, start : start + _CHUNK]
        size = chunk.shape[1] * _BYTES
        for cipher, negative in ciphers:
            cipher.update_into(memoryview(zeros)[:size], memoryview(buffer)[:size])
            mask = np.frombuffer(buffer, "<u8", count=size // 8).reshape(2, -1)
            (subtract if negative else add)(chunk, mask)


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
