"""A coordinator's record of a round, from which a restarted coordinator continues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from typing_extensions import Self

from collabedit.errors import ContributionError, RoundError
from collabedit.messages import Contribution, Delta
from collabedit.messages.codec import TensorMessage
from collabedit.messages.fingerprint import Digest
from collabedit.messages.metadata import Header, parse_header
from collabedit.rounds.verdict import Verdict

__all__ = ["Entry", "Exchange", "Ledger"]

_KEYS = "/keys"


class Entry(BaseModel):
    """One party's part in an exchange.

    Attributes:
        party: the coordinator's name for it.
        sha256: digest of its contribution.
        commitment: to its edits; empty in contributions of version 1.
        edits: number of its edits; 0 under secure aggregation, which reveals only the sum.
    """

    model_config = ConfigDict(frozen=True)

    party: str
    sha256: Digest
    commitment: Digest | Literal[""]
    edits: int

    @property
    def identity(self) -> tuple[str, int]:
        """What must be the same in all exchanges of a round."""
        return self.commitment, self.edits

    @classmethod
    def of(cls, party: str, contribution: Contribution) -> Entry:
        """The entry of a contribution, under the party's own name if it gives one."""
        about = contribution.metadata
        return cls(
            party=about.party or party,
            sha256=contribution.sha256,
            commitment=about.commitment,
            edits=about.edits,
        )


class Exchange(BaseModel):
    """A finished exchange.

    Attributes:
        layers: the layers that it merged.
        entries: who took part, in the order in which they were merged.
    """

    model_config = ConfigDict(frozen=True)

    layers: tuple[int, ...]
    entries: tuple[Entry, ...]


class _LedgerHeader(Header):
    format: Literal["collabedit.ledger"] = "collabedit.ledger"
    version: Literal[1] = 1
    round_sha256: str
    exchanges: tuple[Exchange, ...]
    residual_norms: dict[str, float | None] = Field(default_factory=dict)
    delta: dict[str, Any]
    verdict: Verdict | None = None


@dataclass(frozen=True, eq=False)
class Ledger(TensorMessage):
    """The finished exchanges of a round, and their outcome.

    In a file: the arrays of the delta, and ``<weight>/keys [r, d_in]``. It stays with the
    coordinator, since keys reveal as much as contributions do.

    Attributes:
        delta: the delta so far.
        exchanges: the finished ones.
        keys: by weight name, the pooled key factors ``F [d_in, r]`` of all of them, which the
            dynamic covariance of a later round needs.
        residual_norms: by weight name, ``|R|`` (Frobenius) of the pooled residuals; ``None`` if
            only sums are known.
        verdict: whether the complete delta is kept; ``None`` before the vote, and without a gate.
    """

    what: ClassVar[str] = "ledger"

    delta: Delta
    exchanges: tuple[Exchange, ...] = ()
    keys: Mapping[str, Tensor] = field(default_factory=dict)
    residual_norms: Mapping[str, float | None] = field(default_factory=dict)
    verdict: Verdict | None = None

    def check_parties(self, contributions: Mapping[str, Contribution]) -> tuple[Entry, ...]:
        """Check that an exchange has the parties and edits of the earlier ones, each once.

        Args:
            contributions: by each party's name in error messages.

        Raises:
            ContributionError: when one occurs twice, or has another party or other edits
                than in the first exchange; it names the party.
            RoundError: when a party of the first exchange is missing.
        """
        entries = {name: Entry.of(name, sent) for name, sent in contributions.items()}
        self.check_entries(entries)
        return tuple(entries.values())

    def check_entries(self, entries: Mapping[str, Entry]) -> None:
        """Run the same checks on entries, by each party's name in error messages."""
        _check_distinct(entries)
        if self.exchanges:
            self._check_same_parties(entries)

    def _check_same_parties(self, entries: Mapping[str, Entry]) -> None:
        first = self.exchanges[0].entries
        missing = Counter(entry.identity for entry in first)
        for name, entry in entries.items():
            if missing[entry.identity] == 0:
                raise ContributionError(
                    "its party and edits did not take part in the first exchange; "
                    "every exchange of a round needs the same parties with the same edits, and a "
                    "late party waits for the next round",
                    party=name,
                )
            missing[entry.identity] -= 1
        absent = [entry.party for entry in first if missing[entry.identity] > 0]
        if absent:
            raise RoundError(
                f"no contribution from {', '.join(absent)}, which took part in the first exchange; "
                "add it, or start the round again without that party"
            )

    def after(
        self,
        entries: Sequence[Entry],
        delta: Delta,
        keys: Mapping[str, Tensor],
        residual_norms: Mapping[str, float | None],
    ) -> Ledger:
        """The ledger with one more exchange.

        Args:
            entries: who took part.
            delta: the delta including it.
            keys: of its weights.
            residual_norms: of its weights.
        """
        merged = len(self.delta.changes)
        layers = delta.metadata.layers[merged:]
        exchange = Exchange(layers=layers, entries=tuple(entries))
        return replace(
            self,
            delta=delta,
            exchanges=(*self.exchanges, exchange),
            keys={**self.keys, **keys},
            residual_norms={**self.residual_norms, **residual_norms},
        )

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The arrays of the delta, the keys, and the metadata."""
        tensors, about = self.delta.pack()
        tensors |= {f"{name}{_KEYS}": keys.T for name, keys in self.keys.items()}
        header = _LedgerHeader(
            round_sha256=self.delta.metadata.round_sha256,
            exchanges=self.exchanges,
            residual_norms=dict(self.residual_norms),
            delta=about,
            verdict=self.verdict,
        )
        return tensors, header.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read a ledger.

        Raises:
            RoundError: when it is something else, or malformed.
        """
        header = parse_header(_LedgerHeader, metadata, source, RoundError)
        arrays = {name: value for name, value in tensors.items() if not name.endswith(_KEYS)}
        delta = Delta.unpack(arrays, header.delta, source)
        keys = {}
        for array in tensors.keys() - arrays.keys():
            name, value = array.removesuffix(_KEYS), tensors[array]
            if name not in delta.changes or value.ndim != 2 or not torch.isfinite(value).all():
                raise RoundError(f"{source}: the keys of {name} are malformed")
            keys[name] = value.T.double()
        return cls(delta, header.exchanges, keys, header.residual_norms, header.verdict)


def _check_distinct(entries: Mapping[str, Entry]) -> None:
    seen: dict[str, str] = {}
    for name, entry in entries.items():
        for mark in {entry.commitment or entry.sha256, entry.sha256}:
            if mark in seen:
                raise ContributionError(
                    f"it repeats the contribution of {seen[mark]}; give each party's once",
                    party=name,
                )
            seen[mark] = name
