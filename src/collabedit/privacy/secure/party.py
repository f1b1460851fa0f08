"""A party's half of a summation: it sends only masked numbers, and trusts nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from collabedit.algebra import Factors
from collabedit.errors import ContributionError, InputError, RoundError
from collabedit.files import sha256_of_json
from collabedit.messages import (
    Advert,
    Confirmation,
    Delta,
    MaskedSum,
    MaskedSumMetadata,
    Request,
    RequestKind,
    RoundConfig,
    SecureAggregation,
    Shares,
    SignedMessage,
    Unmasking,
)
from collabedit.messages.secure import digest_of
from collabedit.privacy.secure import shamir
from collabedit.privacy.secure.fixed_point import encode
from collabedit.privacy.secure.forms import Exchanged, secure_of
from collabedit.privacy.secure.keys import (
    Identity,
    Stream,
    agree,
    apply_streams,
    derive,
    new_secret,
    open_sealed,
    public_of,
    seal,
    sha256,
    verify,
)

__all__ = [
    "PartyState",
    "SecureParty",
    "enclosed_messages",
    "pairwise_mask",
    "point_of",
    "self_mask",
    "session_of",
]

Message = TypeVar("Message", bound=SignedMessage)

#: A party's statistics by weight name, the number of its edits, and its commitment to them.
Statistics = tuple[Mapping[str, Factors], int, str]


class PartyState(BaseModel):
    """A party's state between the steps of a round: secrets, so it stays with the party.

    Attributes:
        round_sha256: the round.
        step: the last step of the summation that it took.
        encryption_secret: X25519, in hexadecimal digits.
        mask_secret: likewise.
        seed: of the self-mask.
        adverts: of all parties of the summation.
        received: by sender, its two shares of the sender's secrets.
        exchange: identifies what it sent a masked sum of.
        survivors: the list that it confirmed.
        shares_sha256: of its own sealed shares.
        summed_layers: layers whose statistics it has sent; each is sent only once in a round.
        voted_on: SHA-256 of the delta that it has tried; only one in a round.
    """

    model_config = ConfigDict(validate_assignment=True)

    round_sha256: str
    step: RequestKind | None = None
    encryption_secret: str = Field(default="", repr=False)
    mask_secret: str = Field(default="", repr=False)
    seed: str = Field(default="", repr=False)
    adverts: tuple[Advert, ...] = ()
    received: dict[str, tuple[str, str]] = Field(default_factory=dict, repr=False)
    exchange: str = ""
    survivors: tuple[str, ...] = ()
    shares_sha256: str = ""
    summed_layers: tuple[int, ...] = ()
    voted_on: str = ""

    @classmethod
    def checked(cls, values: Any, source: str) -> PartyState:
        """A state from the party's own file.

        Raises:
            InputError: when it is damaged; the values are not shown.
        """
        try:
            return cls.model_validate(values)
        except ValidationError:
            raise InputError(
                f"{source}: the state of the summation is damaged; start a new round"
            ) from None


class SecureParty:
    """One party's half of a round's summations.

    It answers each step once, in order, and refuses a coordinator that swaps keys, shows another
    roster, asks for both kinds of shares of one party, or asks twice for the same thing.

    Args:
        identity: its name and signing key.
        config: the round.
        roster: the public keys as the party knows them, by name; by default, those of the round
            file, which is safe only if the coordinator that wrote it is trusted.
        state: what it remembers of the round.

    Raises:
        RoundError: when the roster of the round is another one, or the identity is not in it.
    """

    def __init__(
        self,
        identity: Identity,
        config: RoundConfig,
        *,
        roster: Mapping[str, str] | None = None,
        state: PartyState | None = None,
    ) -> None:
        self.secure: SecureAggregation = secure_of(config)
        if roster is not None and dict(roster) != self.secure.roster:
            different = {
                name
                for name in {*roster, *self.secure.roster}
                if roster.get(name) != self.secure.roster.get(name)
            }
            raise RoundError(
                f"the round file's roster is not the same as yours; they differ in "
                f"{', '.join(sorted(different))}. Do not take part before you know why"
            )
        if self.secure.roster.get(identity.party) != identity.public:
            raise RoundError(
                f"the round's roster does not have {identity.party} with this key; use the "
                "identity whose public key is in it"
            )
        self.name, self.config, self._identity = identity.party, config, identity
        self.state = state or PartyState(round_sha256=config.sha256)
        if self.state.round_sha256 != config.sha256:
            raise RoundError("the saved state of the summation belongs to another round")

    def answer(self, request: Request, contribute: Callable[[], Statistics]) -> bytes:
        """Answer a step.

        Args:
            request: the coordinator's.
            contribute: returns the party's statistics for the next layers; called in the step that
                needs them, after everything that can be refused has been checked.

        Raises:
            RoundError: when the step must be refused; it names the party to blame, if known.
        """
        if request.kind is RequestKind.ADVERTISE:
            return self.advertise().to_bytes()
        if request.kind is RequestKind.SHARE:
            return self.share(enclosed_messages(request, Advert)).to_bytes()
        if request.kind is RequestKind.MASK:
            layers = self.config.pending_layers(len(request.delta.changes))
            exchanged = Exchanged(self.config, request.delta.sha256, layers, request.sketches)
            return self.mask(enclosed_messages(request, Shares), exchanged, contribute).to_bytes()
        if request.kind is RequestKind.CONFIRM:
            return self.confirm(_survivors(request)).to_bytes()
        return self.unmask(enclosed_messages(request, Confirmation)).to_bytes()

    def advertise(self) -> Advert:
        """Begin a summation with fresh keys, forgetting any earlier one."""
        secrets = [new_secret() for _ in range(3)]
        self.state = PartyState(
            round_sha256=self.config.sha256,
            step=RequestKind.ADVERTISE,
            encryption_secret=secrets[0].hex(),
            mask_secret=secrets[1].hex(),
            seed=secrets[2].hex(),
            summed_layers=self.state.summed_layers,
            voted_on=self.state.voted_on,
        )
        return self._signed(
            Advert(
                party=self.name,
                session=self.config.sha256,
                encryption_key=public_of(secrets[0]),
                mask_key=public_of(secrets[1]),
            )
        )

    def share(self, adverts: Sequence[Advert]) -> Shares:
        """Share its secrets with the parties of the summation.

        Args:
            adverts: of all of them.

        Raises:
            RoundError: when there are too few, when one is not signed by its party, or when this
                party's own is not the one that it sent.
        """
        self._step(RequestKind.ADVERTISE, RequestKind.SHARE)
        by_party = self._checked(adverts, self.config.sha256)
        own = by_party.get(self.name)
        keys = (
            public_of(self._secret("encryption_secret")),
            public_of(self._secret("mask_secret")),
        )
        if own is None or (own.encryption_key, own.mask_key) != keys:
            raise RoundError(
                f"the coordinator shows other keys for {self.name} than it sent; refused"
            )
        self.state.adverts = tuple(by_party.values())
        shares = self._signed(self._sealed_shares())
        self.state.shares_sha256 = sha256(shares.signed_bytes())
        return shares

    def _sealed_shares(self) -> Shares:
        session, threshold = self._session, self.secure.threshold
        points = {
            advert.party: point_of(self.secure, advert.party) for advert in self.state.adverts
        }
        parts = []
        for name in ("mask_secret", "seed"):
            number = int.from_bytes(self._secret(name), "big")
            by_point = shamir.split(number, threshold, list(points.values()))
            parts.append({party: _bytes(by_point[point]) for party, point in points.items()})
        sealed = {
            advert.party: seal(
                self._sealing_key(advert, self.name, advert.party),
                parts[0][advert.party] + parts[1][advert.party],
                session,
            )
            for advert in self.state.adverts
        }
        return Shares(
            party=self.name,
            session=session,
            sealed=sealed,
            mask_key_shares={party: sha256(part) for party, part in parts[0].items()},
            seed_shares={party: sha256(part) for party, part in parts[1].items()},
            seed_sha256=sha256(self._secret("seed")),
        )

    def mask(
        self,
        shares: Sequence[Shares],
        exchanged: Exchanged,
        contribute: Callable[[], Statistics],
    ) -> MaskedSum:
        """Send its numbers, under masks that cancel only in the sum of all parties.

        Args:
            shares: of all parties whose numbers are summed.
            exchanged: what is summed.
            contribute: returns the party's statistics.

        Raises:
            RoundError: when there are too few parties, a share can't be opened, a layer was summed
                before, or a number is out of the announced range.
        """
        self._step(RequestKind.SHARE, RequestKind.MASK)
        repeated = set(exchanged.layers) & set(self.state.summed_layers)
        if not exchanged.layers or repeated:
            raise RoundError(
                f"layers {sorted(repeated)} were already summed in this round; the difference of "
                "two sums would show single parties, so each layer is summed only once"
            )
        senders = self._checked(shares, self._session)
        self._require_own_shares(senders)
        self.state.received = {name: self._opened(sent) for name, sent in senders.items()}
        statistics, edits, commitment = contribute()
        values = exchanged.pack(statistics, edits).numpy()
        total = encode(values, self.secure.fraction_bits, self.secure.limit)
        apply_streams(total, self._streams(list(senders)))
        self.state.exchange = exchanged.sha256
        self.state.summed_layers = (*self.state.summed_layers, *exchanged.layers)
        masked = torch.from_numpy(total.view("int64"))
        about = MaskedSumMetadata(
            party=self.name,
            session=self._session,
            exchange=exchanged.sha256,
            commitment=commitment,
            sha256=digest_of(masked),
        )
        signature = self._identity.signature(about)
        return MaskedSum(about.model_copy(update={"signature": signature}), masked)

    def _require_own_shares(self, senders: Mapping[str, Shares]) -> None:
        own = senders.get(self.name)
        if own is None or sha256(own.signed_bytes()) != self.state.shares_sha256:
            raise RoundError(
                f"the coordinator shows other shares from {self.name} than it sent; refused"
            )

    def _opened(self, sent: Shares) -> tuple[str, str]:
        """Its two shares of a sender's secrets, checked against the sender's digests."""
        advert = self._advert_of(sent.party)
        everyone = {known.party for known in self.state.adverts}
        blame = "its shares are malformed; the round can only continue without it"
        for given in (sent.sealed, sent.mask_key_shares, sent.seed_shares):
            if set(given) != everyone:
                raise ContributionError(blame, party=sent.party)
        key = self._sealing_key(advert, sent.party, self.name)
        content = open_sealed(key, sent.sealed[self.name], self._session)
        if content is None or len(content) != 2 * shamir.SHARE_BYTES:
            raise ContributionError(blame, party=sent.party)
        parts = content[: shamir.SHARE_BYTES], content[shamir.SHARE_BYTES :]
        expected = sent.mask_key_shares[self.name], sent.seed_shares[self.name]
        if (sha256(parts[0]), sha256(parts[1])) != expected:
            raise ContributionError(blame, party=sent.party)
        return parts[0].hex(), parts[1].hex()

    def _streams(self, parties: Sequence[str]) -> list[Stream]:
        secret = self._secret("mask_secret")
        pairwise = [
            pairwise_mask(secret, self._advert_of(other).mask_key, self._session, self.name, other)
            for other in parties
            if other != self.name
        ]
        return [self_mask(self._secret("seed"), self._session), *pairwise]

    def confirm(self, survivors: Sequence[str]) -> Confirmation:
        """Sign whose numbers are in the total, so that all parties unmask the same one.

        Raises:
            RoundError: when there are too few, or the list names parties that did not take part.
        """
        self._step(RequestKind.MASK, RequestKind.CONFIRM)
        distinct = tuple(sorted(set(survivors)))
        if len(distinct) < len(survivors) or not set(distinct) <= set(self.state.received):
            raise RoundError(
                "the coordinator's list of survivors names parties that did not take part"
            )
        if self.name not in distinct:
            raise RoundError(f"the coordinator left {self.name} out of the sum; nothing to confirm")
        self._require_enough(len(distinct))
        self.state.survivors = distinct
        return self._signed(
            Confirmation(
                party=self.name,
                session=self._session,
                exchange=self.state.exchange,
                survivors=distinct,
            )
        )

    def unmask(self, confirmations: Sequence[Confirmation]) -> Unmasking:
        """Give the shares that take the masks off the total, and forget all secrets.

        For a party in the total it gives the share of the seed, for one that dropped out the share
        of the mask key: never both.

        Args:
            confirmations: from at least the threshold of parties, all of the same list.

        Raises:
            RoundError: when they are too few, or differ.
        """
        self._step(RequestKind.CONFIRM, RequestKind.UNMASK)
        state = self.state
        for confirmation in self._checked(confirmations, self._session).values():
            party = confirmation.party
            if party not in state.survivors or confirmation.exchange != state.exchange:
                raise ContributionError("its confirmation is for another sum", party=party)
            if confirmation.survivors != state.survivors:
                raise ContributionError(
                    "it was shown other survivors than this party; the coordinator asks for both "
                    "kinds of shares of one party. Refused",
                    party=party,
                )
        dropped = set(state.received) - set(state.survivors)
        unmasking = self._signed(
            Unmasking(
                party=self.name,
                session=self._session,
                seed_shares={name: state.received[name][1] for name in state.survivors},
                mask_key_shares={name: state.received[name][0] for name in sorted(dropped)},
            )
        )
        self.state = PartyState(
            round_sha256=state.round_sha256,
            step=RequestKind.UNMASK,
            summed_layers=state.summed_layers,
            voted_on=state.voted_on,
        )
        return unmasking

    def vote_on(self, delta: Delta) -> None:
        """Record which delta it tries: only one in a round, since a vote reveals something.

        A coordinator that could have many deltas tried would learn from the votes which facts a
        party holds, one by one.

        Raises:
            RoundError: when it has already tried another one.
        """
        if self.state.voted_on not in ("", delta.sha256):
            raise RoundError(
                "the coordinator asks to try a second delta in this round; each vote reveals "
                "something about the edits, so there is only one per round"
            )
        self.state.voted_on = delta.sha256

    @property
    def _session(self) -> str:
        return session_of(self.config, self.state.adverts)

    def _secret(self, name: str) -> bytes:
        return bytes.fromhex(getattr(self.state, name))

    def _advert_of(self, party: str) -> Advert:
        for advert in self.state.adverts:
            if advert.party == party:
                return advert
        raise ContributionError("it advertised no keys for this summation", party=party)

    def _sealing_key(self, advert: Advert, sender: str, recipient: str) -> bytes:
        secret = self._secret("encryption_secret")
        try:
            return agree(secret, advert.encryption_key, self._session, "seal", sender, recipient)
        except ValueError:
            raise ContributionError("its encryption key is malformed", party=advert.party) from None

    def _signed(self, message: Message) -> Message:
        return message.model_copy(update={"signature": self._identity.signature(message)})

    def _checked(self, messages: Sequence[Message], session: str) -> dict[str, Message]:
        """Messages by party, each signed by its party and for this summation; enough of them."""
        by_party: dict[str, Message] = {}
        for message in sorted(messages, key=lambda message: message.party):
            verify(message, self.secure, session)
            if message.party in by_party:
                raise ContributionError("the coordinator names it twice", party=message.party)
            by_party[message.party] = message
        self._require_enough(len(by_party))
        return by_party

    def _require_enough(self, parties: int) -> None:
        if parties < self.secure.threshold:
            raise RoundError(
                f"{parties} parties are left, but the round's threshold is "
                f"{self.secure.threshold}; nothing is revealed"
            )

    def _step(self, before: RequestKind, now: RequestKind) -> None:
        if self.state.step is not before:
            last = "nothing" if self.state.step is None else f"'{self.state.step.value}'"
            raise RoundError(
                f"the coordinator asks for '{now.value}' after {last} of this summation; each step "
                "is answered once, in order"
            )
        # From here on the step counts as used, even if it fails: a second request could be an
        # attack.
        self.state.step = now


def session_of(config: RoundConfig, adverts: Sequence[Advert]) -> str:
    """Identifies a summation by the fresh keys of all its parties."""
    listed = [[advert.party, advert.encryption_key, advert.mask_key] for advert in adverts]
    return sha256_of_json([config.sha256, sorted(listed)])


def point_of(secure: SecureAggregation, party: str) -> int:
    """The point at which a party's shares are evaluated: its position in the roster, from 1."""
    return 1 + sorted(secure.roster).index(party)


def pairwise_mask(secret: bytes, public: str, session: str, ours: str, theirs: str) -> Stream:
    """The mask between two parties, which one adds and the other subtracts.

    Raises:
        ContributionError: when the other's key is malformed.
    """
    first, second = sorted((ours, theirs))
    try:
        key = agree(secret, public, session, "pairwise mask", first, second)
    except ValueError:
        raise ContributionError("its mask key is malformed", party=theirs) from None
    return Stream(key, negative=ours == second)


def self_mask(seed: bytes, session: str) -> Stream:
    """A party's own mask."""
    return Stream(derive(seed, session, "self-mask"))


def enclosed_messages(request: Request, kind: type[Message]) -> list[Message]:
    """The messages that a request encloses.

    Raises:
        ContributionError: when one is malformed.
    """
    return [kind.from_values(each, "request") for each in request.enclosed]


def _survivors(request: Request) -> list[str]:
    named = request.enclosed[0].get("survivors") if len(request.enclosed) == 1 else None
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise RoundError("the coordinator's list of survivors is malformed")
    return named


def _bytes(share: int) -> bytes:
    return share.to_bytes(shamir.SHARE_BYTES, "big")
