"""The loop of a round, over any transport."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from collabedit.errors import CollabEditError, ContributionError, InputError, RoundError
from collabedit.messages import Contribution, Delta, Normaliser, Ready, Request, RequestKind
from collabedit.rounds.coordinator import Coordinator
from collabedit.rounds.ledger import Ledger
from collabedit.rounds.transport import Failure, Transport

if TYPE_CHECKING:
    from collabedit.privacy.secure import Summed

__all__ = ["Dropout", "run_round"]

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: Allowance for a contribution's metadata; fingerprints take about 200 bytes per edit on top.
_METADATA = 1 << 16


class Dropout(str, Enum):
    """What happens when a party fails."""

    STOP = "stop"
    """The round stops with nothing merged."""

    RESTART = "restart"
    """The round continues without the party; exchanges that it took part in are merged again
    without it, so that the result is exact for those who remain. Not under secure aggregation,
    where the difference of two sums would expose the party that left."""

    CONTINUE = "continue"
    """Under secure aggregation: an exchange is finished without the party. Until the first sum is
    unmasked the result is exact for those who remain; a party that leaves later stops the round."""


def run_round(
    transport: Transport,
    coordinator: Coordinator,
    *,
    on_dropout: Dropout = Dropout.STOP,
    min_parties: int = 1,
    checkpoint: Callable[[Ledger], None] = lambda _: None,
    left_out: Callable[[str, Failure], None] = lambda party, failure: None,
) -> Delta:
    """Ask, check and merge until the round is complete.

    Answers are merged in the order of the parties' identifiers, not of arrival, so that
    the result is bit-identical over any transport.

    Args:
        transport: reaches the parties.
        coordinator: of the round; its ledger may hold finished exchanges already.
        on_dropout: what happens when a party fails, or sends something that does not belong here.
        min_parties: with fewer, the round stops.
        checkpoint: called with the ledger after each exchange.
        left_out: called with each party that the round continues without, and why.

    Returns:
        The complete delta.

    Raises:
        RoundError: when a party fails and the round stops; ``.party`` names it.
    """
    secure = coordinator.aggregates_securely
    if on_dropout is (Dropout.RESTART if secure else Dropout.CONTINUE):
        raise InputError(
            "under secure aggregation a round can't be repeated without a party, since the "
            "difference of two sums would show what it sent; use 'stop' or 'continue'"
            if secure
            else "'continue' is for secure aggregation; use 'stop' or 'restart'"
        )
    asking = _Asking(transport, coordinator, on_dropout, min_parties, left_out)
    asking.prepare()
    while coordinator.pending_layers:
        if secure:
            coordinator.merge_sum(asking.sum())
            checkpoint(coordinator.ledger)
            continue
        contributions = asking.contributions()
        if contributions is None:
            coordinator.restart()
            continue
        coordinator.merge(contributions)
        checkpoint(coordinator.ledger)
    return coordinator.delta


class _Asking:
    """The parties still in the round, and how to ask them."""

    def __init__(
        self,
        transport: Transport,
        coordinator: Coordinator,
        on_dropout: Dropout,
        least: int,
        left_out: Callable[[str, Failure], None],
    ) -> None:
        self._transport, self._coordinator = transport, coordinator
        self._on_dropout, self._least = on_dropout, least
        self._left_out = left_out
        self._parties = sorted(transport.parties)
        self._edits: dict[str, int] = {}
        if not self._parties:
            raise RoundError("the round has no parties")
        if coordinator.ledger.exchanges:
            self._continue()

    def _continue(self) -> None:
        """Continue with the parties of the finished exchanges; late ones wait for another round."""
        known = {entry.party for entry in self._coordinator.ledger.exchanges[0].entries}
        here = [party for party in self._parties if party in known]
        if known <= set(here):
            self._parties = here
        elif self._on_dropout is Dropout.RESTART:
            self._coordinator.restart()

    def prepare(self) -> None:
        """Have all parties find their targets, on the unedited model."""
        self._ask(RequestKind.PREPARE, self._ready)

    def contributions(self) -> Mapping[str, Contribution] | None:
        """One exchange; ``None`` when finished ones must be repeated without a lost party."""
        normalises = self._coordinator.config.rules.normalises
        if normalises:
            self._coordinator.normalise(self._ask(RequestKind.SUMMARISE, self._normaliser))
        before = len(self._parties)
        answers = self._mergeable(self._ask(RequestKind.CONTRIBUTE, self._contribution))
        lost = len(self._parties) < before
        return None if lost and (normalises or self._coordinator.ledger.exchanges) else answers

    def sum(self) -> Summed:
        """One exchange under secure aggregation: five requests, and the sum of all answers."""
        summation = self._coordinator.summation()
        while summation.step is not None:
            answers = self._exchange(summation.request(), summation.read)
            summation.advance(answers.values())
        return summation.result()

    def _mergeable(self, answers: Mapping[str, Contribution]) -> Mapping[str, Contribution]:
        """Leave out parties whose contribution contradicts the others, or the earlier exchanges."""
        remaining = dict(answers)
        while remaining:
            try:
                self._coordinator.check_together(remaining)
            except ContributionError as error:
                if error.party is None:
                    raise
                del remaining[error.party]
                self._drop(error.party, Failure(str(error), error))
            except RoundError:  # a party is missing, which restarts the round
                break
            else:
                break
        self._parties = list(remaining)
        self._require_enough()
        return remaining

    def _ask(self, kind: RequestKind, read: Callable[[str, bytes], Answer]) -> Mapping[str, Answer]:
        coordinator = self._coordinator
        request = Request(kind, coordinator.delta, normaliser=coordinator.normaliser)
        return self._exchange(request, read)

    def _exchange(
        self, request: Request, read: Callable[[str, bytes], Answer]
    ) -> Mapping[str, Answer]:
        replies = self._transport.exchange(request.to_bytes(), self._parties)
        answers: dict[str, Answer] = {}
        for party in self._parties:
            reply = replies.get(party, Failure("it did not answer"))
            outcome = reply if isinstance(reply, Failure) else _read(party, reply, read)
            if isinstance(outcome, Failure):
                self._drop(party, outcome)
            else:
                answers[party] = outcome
        self._parties = list(answers)
        self._require_enough()
        return answers

    def _drop(self, party: str, failure: Failure) -> None:
        if self._on_dropout is Dropout.STOP:
            if failure.error is not None:
                raise failure.error
            raise RoundError(f"{failure.reason}; nothing was merged", party=party)
        logger.warning("%s is left out of the round: %s", party, failure.reason)
        self._left_out(party, failure)

    def _require_enough(self) -> None:
        if len(self._parties) < max(1, self._least):
            raise RoundError(
                f"{len(self._parties)} parties are left, but {self._least} are needed; "
                "nothing was merged"
            )

    def _ready(self, party: str, reply: bytes) -> Ready:
        ready = Ready.from_bytes(reply, party)
        if ready.round_sha256 != self._coordinator.config.sha256:
            raise RoundError("it prepared another round; use the same round.json", party=party)
        self._coordinator.check_edits(party, ready.edits)
        self._edits[party] = ready.edits
        return ready

    def _normaliser(self, party: str, reply: bytes) -> Normaliser:
        config = self._coordinator.config
        normaliser = Normaliser.from_bytes(reply, party)
        normaliser.check(config.sha256, config.d_in + config.d_out)
        return normaliser

    def _contribution(self, party: str, reply: bytes) -> Contribution:
        self._check_size(party, reply)
        contribution = Contribution.from_bytes(reply, party)
        if contribution.metadata.party not in ("", party):
            raise ContributionError(f"it calls itself {contribution.metadata.party!r}", party=party)
        if contribution.metadata.edits != self._edits[party]:
            raise ContributionError(
                f"it has {contribution.metadata.edits} edits, but the party announced "
                f"{self._edits[party]}",
                party=party,
            )
        self._coordinator.check(party, contribution)
        return contribution

    def _check_size(self, party: str, reply: bytes) -> None:
        """Refuse more bytes than the announced edits take, before reading them."""
        config, edits = self._coordinator.config, self._edits[party]
        layers = len(self._coordinator.pending_layers)
        rank = config.most_directions(edits)
        most = 8 * layers * rank * (config.d_in + config.d_out) + _METADATA + 300 * edits
        if len(reply) > most:
            raise ContributionError(
                f"it sent {len(reply):,} bytes; {edits} edits take at most {most:,}", party=party
            )


def _read(party: str, reply: bytes, read: Callable[[str, bytes], Answer]) -> Answer | Failure:
    """One bad message fails its party, not the round."""
    try:
        return read(party, reply)
    except CollabEditError as error:
        return Failure(str(error), error)
