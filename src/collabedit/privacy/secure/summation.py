"""The coordinator's half of a summation: it adds masked numbers, and learns only their sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from collabedit.algebra import Statistics
from collabedit.errors import CollabEditError, ContributionError, RoundError
from collabedit.messages import (
    SUMMATION_STEPS,
    Advert,
    Confirmation,
    Delta,
    MaskedSum,
    MaskedSumMetadata,
    Request,
    RequestKind,
    RoundConfig,
    Shares,
    SignedMessage,
    Unmasking,
)
from collabedit.messages.metadata import Header, parse_header
from collabedit.privacy.secure import shamir
from collabedit.privacy.secure.fixed_point import Limbs, add, decode
from collabedit.privacy.secure.forms import Exchanged, secure_of
from collabedit.privacy.secure.keys import Stream, apply_streams, public_of, sha256, usable, verify
from collabedit.privacy.secure.party import pairwise_mask, point_of, self_mask, session_of

__all__ = ["Answer", "Summation", "Summed"]

#: A party's answer to a step.
Answer = SignedMessage | MaskedSum

_KINDS: dict[RequestKind, type[SignedMessage] | type[MaskedSum]] = {
    RequestKind.ADVERTISE: Advert,
    RequestKind.SHARE: Shares,
    RequestKind.MASK: MaskedSum,
    RequestKind.CONFIRM: Confirmation,
    RequestKind.UNMASK: Unmasking,
}

#: Where a summation keeps the answers to a step.
_KEPT = {
    RequestKind.ADVERTISE: "_adverts",
    RequestKind.SHARE: "_shares",
    RequestKind.MASK: "_masked",
    RequestKind.CONFIRM: "_confirmations",
    RequestKind.UNMASK: "_unmaskings",
}


@dataclass(frozen=True)
class Summed:
    """The result of a summation.

    Attributes:
        statistics: of the pooled edits, by weight name.
        edits: their number.
        masked: the header of each summed party's masked numbers, in the order of names.
    """

    statistics: Mapping[str, Statistics]
    edits: int
    masked: tuple[MaskedSumMetadata, ...]


class _Header(Header):
    format: Literal["collabedit.summation"] = "collabedit.summation"
    version: Literal[1] = 1
    round_sha256: str
    delta_sha256: str
    layers: tuple[int, ...]
    place: int = Field(ge=0, le=len(SUMMATION_STEPS))
    adverts: tuple[Advert, ...] = ()
    shares: tuple[Shares, ...] = ()
    masked: tuple[MaskedSumMetadata, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    unmaskings: tuple[Unmasking, ...] = ()


@dataclass(eq=False)
class Summation:
    """One exchange of a round under secure aggregation, step by step.

    Send the parties :meth:`request`, :meth:`read` their answers and :meth:`advance`, until it is
    finished. It can be saved between steps; its content reveals no party's numbers.

    Attributes:
        config: the round.
        delta: what is merged so far.
        exchanged: what is summed.
    """

    config: RoundConfig
    delta: Delta
    exchanged: Exchanged
    _finished: int = 0
    _adverts: tuple[Advert, ...] = ()
    _shares: tuple[Shares, ...] = ()
    _masked: tuple[MaskedSumMetadata, ...] = ()
    _confirmations: tuple[Confirmation, ...] = ()
    _unmaskings: tuple[Unmasking, ...] = ()
    _total: Limbs = field(default_factory=lambda: np.zeros((2, 0), np.uint64))

    @property
    def step(self) -> RequestKind | None:
        """What the parties are asked for; ``None`` when the summation is finished."""
        return SUMMATION_STEPS[self._finished] if self._finished < len(SUMMATION_STEPS) else None

    @property
    def survivors(self) -> list[str]:
        """Parties whose numbers are in the total, once there is one."""
        return [about.party for about in self._masked]

    def request(self) -> Request:
        """The request of the next step, the same for all parties.

        Raises:
            RoundError: when the summation is finished.
        """
        if self.step is None:
            raise RoundError("the summation is finished")
        empty = Delta.empty(self.config)
        if self.step is RequestKind.MASK:
            enclosed = _values(self._shares)
            return Request(self.step, self.delta, enclosed, self.exchanged.sketches)
        enclosed_by_step: dict[RequestKind, tuple[dict[str, Any], ...]] = {
            RequestKind.ADVERTISE: (),
            RequestKind.SHARE: _values(self._adverts),
            RequestKind.CONFIRM: ({"survivors": self.survivors},),
            RequestKind.UNMASK: _values(self._confirmations),
        }
        return Request(self.step, empty, enclosed_by_step[self.step])

    def read(self, party: str | None, reply: bytes) -> Answer:
        """A party's answer to this step, checked.

        Args:
            party: who sent it, if the transport knows.
            reply: the bytes.

        Raises:
            ContributionError: when it is malformed, belongs to another step, summation or party, or
                is not signed by the party; it names the party.
        """
        assert self.step is not None
        try:
            answer = _KINDS[self.step].from_bytes(reply, "its answer")
        except CollabEditError as error:
            raise ContributionError(
                f"{error}; the round waits for answers to '{self.step.value}', and a late one is "
                "left out",
                party=party,
            ) from None
        about = _about(answer)
        if party is not None and about.party != party:
            raise ContributionError(f"it calls itself {about.party!r}", party=party)
        session = self.config.sha256 if self._finished == 0 else self._session
        verify(about, secure_of(self.config), session)
        self._check(about.party, answer)
        return answer

    def _check(self, party: str, answer: Answer) -> None:
        """Check that an answer fits the request."""
        if isinstance(answer, Advert):
            _check_keys(answer)
        elif isinstance(answer, Shares):
            self._check_shares(party, answer)
        elif isinstance(answer, MaskedSum):
            self._check_masked(party, answer)
        elif isinstance(answer, Confirmation):
            expected = self.exchanged.sha256, tuple(self.survivors)
            if party not in self.survivors or (answer.exchange, answer.survivors) != expected:
                raise ContributionError("it confirms another sum", party=party)
        elif isinstance(answer, Unmasking):
            self._check_unmasking(party, answer)

    def _check_shares(self, party: str, shares: Shares) -> None:
        everyone = {advert.party for advert in self._adverts}
        given = (shares.sealed, shares.mask_key_shares, shares.seed_shares)
        if party not in everyone or any(set(by_party) != everyone for by_party in given):
            raise ContributionError(
                "its shares are malformed: not one for each party of the summation", party=party
            )

    def _check_masked(self, party: str, sent: MaskedSum) -> None:
        if party not in {shares.party for shares in self._shares}:
            raise ContributionError("it gave no shares, so it can't be in the sum", party=party)
        if sent.masked.shape[1] != self.exchanged.length:
            raise ContributionError(
                f"it sent {sent.masked.shape[1]:,} numbers; the exchange has "
                f"{self.exchanged.length:,}. It used another sketch or another round file",
                party=party,
            )
        if sent.metadata.exchange != self.exchanged.sha256:
            raise ContributionError("its numbers are for another exchange", party=party)

    def _check_unmasking(self, party: str, answer: Unmasking) -> None:
        if party not in self.survivors:
            raise ContributionError("it is not in the sum", party=party)
        expected = (set(self.survivors), self._dropped)
        if (set(answer.seed_shares), set(answer.mask_key_shares)) != expected:
            raise ContributionError("it gave other shares than it was asked for", party=party)
        for shares in self._shares:
            name = shares.party
            seeds = name in answer.seed_shares
            given = (answer.seed_shares if seeds else answer.mask_key_shares)[name]
            bound = (shares.seed_shares if seeds else shares.mask_key_shares)[party]
            if sha256(bytes.fromhex(given)) != bound:
                raise ContributionError(
                    f"its share of {name}'s secret is not the one it got", party=party
                )

    def advance(self, answers: Iterable[Answer]) -> None:
        """Take the answers to a step, and move on to the next.

        Args:
            answers: in any order. Masked sums are added up as they come and not kept, so that an
                iterator that reads them one by one needs memory for only two.

        Raises:
            RoundError: when a party answers twice, or so few answered that the round stops.
        """
        assert self.step is not None
        length = self.exchanged.length if self.step is RequestKind.MASK else 0
        total = np.zeros((2, length), np.uint64)
        by_party: dict[str, SignedMessage | MaskedSumMetadata] = {}
        for answer in answers:
            about = _about(answer)
            if about.party in by_party:
                raise RoundError("a party's answer is given twice; give each party's once")
            by_party[about.party] = about
            if isinstance(answer, MaskedSum):
                add(total, answer.masked.numpy().view("uint64"))
        self._require_enough(len(by_party))
        setattr(self, _KEPT[self.step], tuple(by_party[name] for name in sorted(by_party)))
        if self.step is RequestKind.MASK:
            self._total = total
        self._finished += 1

    def _require_enough(self, answers: int) -> None:
        assert self.step is not None
        threshold = secure_of(self.config).threshold
        if answers < threshold:
            raise RoundError(
                f"{answers} parties answered '{self.step.value}', but the round's threshold is "
                f"{threshold}; the round stops, nothing was merged and no sum was learnt"
            )

    def result(self) -> Summed:
        """Take the masks off the total.

        Raises:
            ContributionError: when a party's secrets can't be reconstructed; it names the party.
            RoundError: when the sum has more edits than the round allows, or none.
        """
        if self.step is not None:
            raise RoundError(f"the summation waits for answers to '{self.step.value}'")
        total = self._total.copy()
        apply_streams(total, self._masks())
        secure = secure_of(self.config)
        values = torch.from_numpy(decode(total, secure.fraction_bits))
        statistics, edits = self.exchanged.unpack(values)
        return Summed(statistics, edits, self._masked)

    def _masks(self) -> list[Stream]:
        """The masks that are still in the total, with opposite signs."""
        streams = []
        for party in self.survivors:
            seed = self._reconstructed(party, "seed_shares")
            if sha256(seed) != self._shares_of(party).seed_sha256:
                raise _inconsistent(party)
            streams.append(Stream(self_mask(seed, self._session).key, negative=True))
        for party in sorted(self._dropped):
            secret = self._reconstructed(party, "mask_key_shares")
            if public_of(secret) != self._advert_of(party).mask_key:
                raise _inconsistent(party)
            streams += [
                pairwise_mask(secret, self._advert_of(other).mask_key, self._session, party, other)
                for other in self.survivors
            ]
        return streams

    def _reconstructed(self, party: str, kind: str) -> bytes:
        secure = secure_of(self.config)
        shares = {
            point_of(secure, unmasking.party): int(getattr(unmasking, kind)[party], 16)
            for unmasking in self._unmaskings[: secure.threshold]
        }
        try:
            return shamir.reconstruct(shares).to_bytes(32, "big")
        except OverflowError:
            raise _inconsistent(party) from None

    @property
    def _dropped(self) -> set[str]:
        return {shares.party for shares in self._shares} - set(self.survivors)

    @property
    def _session(self) -> str:
        return session_of(self.config, self._adverts)

    def _shares_of(self, party: str) -> Shares:
        return next(shares for shares in self._shares if shares.party == party)

    def _advert_of(self, party: str) -> Advert:
        return next(advert for advert in self._adverts if advert.party == party)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The delta, the sketches, the total so far, and all messages but the masked numbers."""
        tensors, about = Request(RequestKind.MASK, self.delta, (), self.exchanged.sketches).pack()
        tensors["total"] = torch.from_numpy(self._total.view("int64"))
        header = _Header(
            round_sha256=self.config.sha256,
            delta_sha256=self.delta.sha256,
            layers=self.exchanged.layers,
            place=self._finished,
            adverts=self._adverts,
            shares=self._shares,
            masked=self._masked,
            confirmations=self._confirmations,
            unmaskings=self._unmaskings,
        )
        return tensors, {**header.model_dump(mode="json"), "request": about}

    @classmethod
    def resume(
        cls,
        config: RoundConfig,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, Any],
        source: str,
    ) -> Self:
        """The summation that :meth:`pack` packed.

        Raises:
            RoundError: when it belongs to another round, or malformed.
        """
        header = parse_header(_Header, metadata, source, RoundError)
        arrays = {name: value for name, value in tensors.items() if name != "total"}
        request = Request.unpack(arrays, metadata.get("request", {}), source)
        if header.round_sha256 != config.sha256:
            raise RoundError(f"{source}: it belongs to another round")
        exchanged = Exchanged(config, request.delta.sha256, header.layers, request.sketches)
        total = tensors.get("total")
        length = exchanged.length if header.masked else 0
        if total is None or total.dtype != torch.int64 or tuple(total.shape) != (2, length):
            raise RoundError(f"{source}: its total is malformed")
        return cls(
            config,
            request.delta,
            exchanged,
            header.place,
            header.adverts,
            header.shares,
            header.masked,
            header.confirmations,
            header.unmaskings,
            total.numpy().view("uint64"),
        )


def _about(answer: Answer) -> SignedMessage | MaskedSumMetadata:
    return answer.metadata if isinstance(answer, MaskedSum) else answer


def _check_keys(advert: Advert) -> None:
    """Refuse keys that no party could use, before every other party refuses them."""
    for key in (advert.encryption_key, advert.mask_key):
        if not usable(key):
            raise ContributionError("its keys are malformed", party=advert.party)


def _values(messages: Sequence[SignedMessage]) -> tuple[dict[str, Any], ...]:
    return tuple(each.model_dump(mode="json") for each in messages)


def _inconsistent(party: str) -> ContributionError:
    return ContributionError(
        "its shares don't give the secret that it committed to, so the sum can't be unmasked; "
        "nothing was merged. Start a new round without it",
        party=party,
    )
