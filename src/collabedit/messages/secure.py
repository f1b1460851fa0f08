"""Messages of secure aggregation: keys, sealed shares, masked sums, and shares that unmask them.

Every message of a party is signed with its key in the round's roster. The protocol
is that of Bonawitz et al. (2017, figure 4), with the consistency check against a coordinator that
gives parties conflicting views; :mod:`collabedit.privacy.secure` implements both halves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from torch import Tensor
from typing_extensions import Self

from collabedit.errors import ContributionError
from collabedit.messages.codec import JsonMessage, TensorMessage
from collabedit.messages.fingerprint import Digest
from collabedit.messages.metadata import Header, parse_header

__all__ = [
    "Advert",
    "Confirmation",
    "MaskedSum",
    "MaskedSumMetadata",
    "SecureAggregation",
    "Shares",
    "SignedMessage",
    "Unmasking",
]

#: 32 bytes as lower-case hexadecimal digits: a public key of X25519 or Ed25519.
Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){1,512}$")]
#: An Ed25519 signature; empty until the message is signed.
Signature = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{128})?$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]

#: Bits of a number on the wire, including its sign.
_BITS = 128


class SecureAggregation(BaseModel):
    """Settings of a round in which only sums are revealed; part of ``round.json``.

    Attributes:
        roster: the public Ed25519 key of each party, by its name. Parties compare it with the one
            that they got separately from the round file.
        threshold: ``t``, the number of parties that a sum needs, and that must agree to unmask it.
            More than half of the roster, so that any two groups of ``t`` parties overlap; it
            determines how many parties may collude with the coordinator (:attr:`colluders`).
        max_edits: upper limit on the edits of all parties together.
        form: form of the sums: ``dense`` or ``sketched`` (:mod:`collabedit.algebra.sketch`), or
            ``auto`` for the one with fewer numbers in this round (:attr:`RoundConfig.sketched`).
        fraction_bits: bits of a number after the binary point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    roster: dict[Name, Key] = Field(min_length=2)
    threshold: int = Field(ge=2)
    max_edits: int = Field(ge=1)
    form: Literal["auto", "dense", "sketched"] = "auto"
    fraction_bits: int = Field(default=96, ge=90, le=112)

    @model_validator(mode="after")
    def _threshold_of_the_roster(self) -> Self:
        parties = len(self.roster)
        if not parties // 2 < self.threshold <= parties:
            raise ValueError(
                f"threshold must be from {parties // 2 + 1} to {parties} for {parties} parties, "
                f"found {self.threshold}"
            )
        if len(set(self.roster.values())) < parties:
            raise ValueError("two parties of the roster have the same key")
        return self

    @property
    def colluders(self) -> int:
        """How many parties may collude with a lying coordinator without exposing another one.

        With their help it must neither reach ``t`` shares, nor get two lists of survivors
        confirmed, of which each honest party confirms only one: ``c < t`` and ``n + c < 2 t``
        (Bonawitz et al., 2017, theorem 6.5).
        """
        return min(self.threshold - 1, 2 * self.threshold - len(self.roster) - 1)

    @property
    def limit(self) -> float:
        """The announced range: a party's numbers are smaller in magnitude, so no sum overflows."""
        return 2.0 ** (_BITS - 1 - self.fraction_bits) / len(self.roster)


class SignedMessage(JsonMessage):
    """A party's message in a summation.

    Attributes:
        party: the sender.
        session: the summation; for an :class:`Advert`, the round.
        signature: by the party's key in the roster, over everything else.
    """

    what: ClassVar[str] = "answer"
    error: ClassVar[type[ContributionError]] = ContributionError

    party: Name
    session: Digest
    signature: Signature = ""

    def signed_bytes(self) -> bytes:
        """The signed bytes: the canonical form of all other fields."""
        return _canonical(self.model_dump(mode="json", exclude={"signature"}))


class Advert(SignedMessage):
    """A party's public keys for one summation.

    Attributes:
        encryption_key: X25519, to seal shares for it.
        mask_key: X25519, to agree on pairwise masks.
    """

    format: Literal["collabedit.advert"] = "collabedit.advert"
    version: Literal[1] = 1
    encryption_key: Key
    mask_key: Key


class Shares(SignedMessage):
    """A party's two secrets in Shamir shares, sealed for each party of the summation.

    The digests are binding: a recipient notices if it got a different share, and the coordinator if
    it is shown a different one. A share is a random 521-bit number, which no digest reveals.

    Attributes:
        sealed: for each recipient, both shares, encrypted.
        mask_key_shares: for each recipient, SHA-256 of its share of the mask key.
        seed_shares: for each recipient, SHA-256 of its share of the seed of the self-mask.
        seed_sha256: of that seed.
    """

    format: Literal["collabedit.shares"] = "collabedit.shares"
    version: Literal[1] = 1
    sealed: dict[Name, Hex]
    mask_key_shares: dict[Name, Digest]
    seed_shares: dict[Name, Digest]
    seed_sha256: Digest


class Confirmation(SignedMessage):
    """A party's confirmation of whose masked sums make up the total.

    Attributes:
        exchange: what is summed.
        survivors: parties whose masked sums arrived, sorted.
    """

    format: Literal["collabedit.confirmation"] = "collabedit.confirmation"
    version: Literal[1] = 1
    exchange: Digest
    survivors: tuple[Name, ...]


class Unmasking(SignedMessage):
    """The shares that unmask a total: one kind for each party, never both.

    Attributes:
        seed_shares: of the self-masks of parties whose masked sums are in the total.
        mask_key_shares: of the mask keys of parties that dropped out before.
    """

    format: Literal["collabedit.unmasking"] = "collabedit.unmasking"
    version: Literal[1] = 1
    seed_shares: dict[Name, Hex]
    mask_key_shares: dict[Name, Hex]


class MaskedSumMetadata(Header):
    """Header of a masked sum: nothing about the edits, not even their number.

    Attributes:
        party: the sender.
        session: the summation.
        exchange: what is summed: the round, the layers, the delta so far, and the sketches.
        commitment: to the party's edits, the same in all exchanges of a round.
        sha256: of the numbers.
        signature: by the party's key in the roster, over everything else.
    """

    format: Literal["collabedit.masked-sum"] = "collabedit.masked-sum"
    version: Literal[1] = 1
    party: Name
    session: Digest
    exchange: Digest
    commitment: Digest
    sha256: Digest
    signature: Signature = ""

    def signed_bytes(self) -> bytes:
        """The signed bytes."""
        return _canonical(self.model_dump(mode="json", exclude={"signature"}))


@dataclass(frozen=True, eq=False)
class MaskedSum(TensorMessage):
    """A party's masked numbers, uniformly random to anyone who does not know its masks.

    In a file: ``masked [2, n]``, int64: the upper and lower halves of ``n`` numbers modulo
    ``2^128``, in two's complement.

    Attributes:
        metadata: the header.
        masked: the numbers.
    """

    what: ClassVar[str] = "masked sum"

    metadata: MaskedSumMetadata
    masked: Tensor

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The numbers and the metadata."""
        return {"masked": self.masked}, self.metadata.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read a masked sum, trusting nothing in it.

        Raises:
            ContributionError: when it is something else, or malformed.
        """
        about = parse_header(MaskedSumMetadata, metadata, source, ContributionError)
        masked = tensors.get("masked")
        if set(tensors) != {"masked"} or masked is None:
            raise ContributionError(f"{source}: it must hold one array, 'masked'")
        if masked.dtype != torch.int64 or masked.ndim != 2 or len(masked) != 2:
            raise ContributionError(f"{source}: 'masked' must be int64 and [2, n]")
        sum_ = cls(about, masked)
        if sum_.digest != about.sha256:
            raise ContributionError(f"{source}: its numbers do not match its signature")
        return sum_

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the numbers."""
        return digest_of(self.masked)


def digest_of(array: Tensor) -> str:
    """SHA-256 of an array's bytes."""
    flat = array.detach().contiguous().view(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()
