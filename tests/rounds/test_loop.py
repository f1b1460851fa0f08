"""The round's loop: the same bytes over any transport, and what a party's failure does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from collabedit.errors import ContributionError, RequestError, RoundError
from collabedit.merging import resolve_method
from collabedit.messages import Contribution, Delta, Request, RequestKind, RoundConfig, Schedule
from collabedit.models import LanguageModel
from collabedit.parties import Party
from collabedit.rounds import Coordinator, Dropout, Failure, Ledger, run_round
from collabedit.transports import InProcess, run_in_process
from tests.editing.facts import REQUESTS
from tests.rounds.test_round import make_parties, make_priors, make_round

SCHEDULES = list(Schedule)


def coordinator_of(config: RoundConfig, ledger: Ledger | None = None) -> Coordinator:
    return Coordinator(config, make_priors(config), resolve_method("CollabEdit"), ledger=ledger)


def assert_equal(found: Delta, expected: Delta) -> None:
    """Equal to the last bit."""
    assert found.changes.keys() == expected.changes.keys()
    for name, change in expected.changes.items():
        assert torch.equal(found.changes[name].left, change.left)
        assert torch.equal(found.changes[name].right, change.right)


def merged_without_bytes(parties: Sequence[Party]) -> Delta:
    """What the loop does, with the objects passed directly."""
    coordinator = coordinator_of(parties[0].config)
    for party in parties:
        party.prepare()
    while coordinator.pending_layers:
        delta = coordinator.delta
        with parties[0].model.edited(delta.changes):
            sent = {f"party {i}": p.contribute(delta) for i, p in enumerate(parties)}
        coordinator.merge(sent)
    return coordinator.delta


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_round_over_bytes_equals_one_over_objects(
    tiny_llama: LanguageModel, schedule: Schedule
) -> None:
    parties = make_parties(tiny_llama, make_round(tiny_llama, schedule))
    over_bytes = run_in_process(parties, coordinator_of(parties[0].config))
    assert_equal(over_bytes, merged_without_bytes(parties))


class Spoiled(InProcess):
    """Parties whose contributions are spoiled by a function of name, exchange and bytes."""

    def __init__(
        self, parties: Sequence[Party], spoil: Callable[[str, int, bytes], bytes | Failure]
    ) -> None:
        super().__init__(parties)
        self.spoil = spoil
        self.asked: list[list[str]] = []

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        replies = super().exchange(request, to)
        asked = Request.from_bytes(request)
        if asked.kind is RequestKind.PREPARE:
            return replies
        self.asked.append(list(to))
        number = len(asked.delta.changes) + 1
        # Answered in another order than asked, as over a network.
        return {
            name: reply if isinstance(reply, Failure) else self.spoil(name, number, reply)
            for name, reply in reversed(replies.items())
        }


def untouched(_name: str, _exchange: int, reply: bytes) -> bytes:
    return reply


def test_the_order_of_answers_does_not_matter(tiny_llama: LanguageModel) -> None:
    parties = make_parties(tiny_llama, make_round(tiny_llama))
    found = run_round(Spoiled(parties, untouched), coordinator_of(parties[0].config))
    assert_equal(found, run_in_process(parties, coordinator_of(parties[0].config)))


def failing(party: str, in_exchange: int) -> Callable[[str, int, bytes], bytes | Failure]:
    def spoil(name: str, exchange: int, reply: bytes) -> bytes | Failure:
        lost = name == party and exchange == in_exchange
        return Failure("it did not answer within 25 s") if lost else reply

    return spoil


def test_by_default_a_failure_stops_the_round(tiny_llama: LanguageModel) -> None:
    parties = make_parties(tiny_llama, make_round(tiny_llama))
    coordinator = coordinator_of(parties[0].config)
    with pytest.raises(RoundError, match="party 1: it did not answer within 25 s") as caught:
        run_round(Spoiled(parties, failing("party 1", 1)), coordinator)
    assert caught.value.party == "party 1"
    assert not coordinator.delta.changes


@pytest.mark.parametrize("exchange", [1, 2])
def test_a_restarted_round_is_exact_for_those_who_remain(
    tiny_llama: LanguageModel, exchange: int
) -> None:
    parties = make_parties(tiny_llama, make_round(tiny_llama))
    transport = Spoiled(parties, failing("party 1", exchange))
    coordinator = coordinator_of(parties[0].config)
    found = run_round(transport, coordinator, on_dropout=Dropout.RESTART, min_parties=2)
    remaining = [parties[0], parties[2]]
    assert_equal(found, run_in_process(remaining, coordinator_of(parties[0].config)))
    assert found.metadata.edits == 3
    asked = [len(names) for names in transport.asked]
    assert asked == ([3, 2] if exchange == 1 else [3, 3, 2, 2])


def test_too_few_parties_stop_the_round(tiny_llama: LanguageModel) -> None:
    parties = make_parties(tiny_llama, make_round(tiny_llama))
    with pytest.raises(RoundError, match="2 parties are left, but 3 are needed"):
        run_round(
            Spoiled(parties, failing("party 0", 1)),
            coordinator_of(parties[0].config),
            on_dropout=Dropout.RESTART,
            min_parties=3,
        )


def altered(
    change: Callable[[Contribution], Contribution],
) -> Callable[[str, int, bytes], bytes]:
    def spoil(name: str, _exchange: int, reply: bytes) -> bytes:
        sent = Contribution.from_bytes(reply)
        return change(sent).to_bytes() if name == "party 1" else reply

    return spoil


def poisoned(sent: Contribution, value: float) -> Contribution:
    for factors in sent.statistics.values():
        factors.keys[0, 0] = value
    return sent


def of_another(sent: Contribution, **changes: object) -> Contribution:
    return Contribution(sent.metadata.model_copy(update=changes), sent.statistics)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda *_: b"nonsense", "not a safetensors file"),
        (lambda *_: b"", "not a safetensors file"),
        (altered(lambda c: poisoned(c, float("nan"))), "NaN or infinite"),
        (altered(lambda c: poisoned(c, float("inf"))), "NaN or infinite"),
        (altered(lambda c: of_another(c, round_sha256="0" * 64)), "belongs to another round"),
        (altered(lambda c: of_another(c, delta_sha256="0" * 64)), "another state of the round"),
        (altered(lambda c: of_another(c, party="bank")), "it calls itself 'bank'"),
        (altered(lambda c: of_another(c, edits=1)), "it has 1 edits, but the party announced 3"),
    ],
)
def test_one_bad_message_fails_its_party_but_not_the_round(
    tiny_llama: LanguageModel, spoil: Callable[[str, int, bytes], bytes], reason: str
) -> None:
    parties = make_parties(tiny_llama, make_round(tiny_llama, Schedule.ONE_SHOT))

    def only_one(name: str, exchange: int, reply: bytes) -> bytes:
        return spoil(name, exchange, reply) if name == "party 1" else reply

    coordinator = coordinator_of(parties[0].config)
    found = run_round(Spoiled(parties, only_one), coordinator, on_dropout=Dropout.RESTART)
    remaining = [parties[0], parties[2]]
    assert_equal(found, run_in_process(remaining, coordinator_of(parties[0].config)))
    with pytest.raises(Exception, match=reason):
        run_round(Spoiled(parties, only_one), coordinator_of(parties[0].config))


def test_a_failure_in_this_process_keeps_its_kind(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    broken = Party(tiny_llama, REQUESTS[:2], config, skip_known=1e-300)
    with pytest.raises(RequestError, match="nothing to send"):
        run_in_process([broken], coordinator_of(config))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_stopped_coordinator_continues_from_its_ledger(
    tiny_llama: LanguageModel, schedule: Schedule
) -> None:
    parties = make_parties(tiny_llama, make_round(tiny_llama, schedule))
    whole = coordinator_of(parties[0].config)
    kept: list[bytes] = []
    run_round(InProcess(parties), whole, checkpoint=lambda ledger: kept.append(ledger.to_bytes()))
    assert len(kept) == (2 if schedule is Schedule.LAYERWISE else 1)
    for stored in kept:
        again = coordinator_of(parties[0].config, Ledger.from_bytes(stored))
        assert_equal(run_round(InProcess(parties), again), whole.delta)
        assert again.keys.keys() == whole.keys.keys()
        assert all(torch.equal(again.keys[name], whole.keys[name]) for name in whole.keys)
        assert again.residual_norms == whole.residual_norms


def test_two_parties_with_the_same_name_are_refused(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    twins = [Party(tiny_llama, [request], config, name="bank") for request in REQUESTS[:2]]
    with pytest.raises(RoundError, match="two parties are called bank"):
        InProcess(twins)


def test_the_ledger_has_the_parties_own_names(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama, Schedule.ONE_SHOT)
    parties = [
        Party(tiny_llama, REQUESTS[:2], config, name="hospital"),
        Party(tiny_llama, REQUESTS[2:], config, name="bank"),
    ]
    coordinator = coordinator_of(config)
    run_in_process(parties, coordinator)
    (exchange,) = coordinator.ledger.exchanges
    assert [entry.party for entry in exchange.entries] == ["bank", "hospital"]
    assert [entry.edits for entry in exchange.entries] == [4, 2]


def test_an_error_carries_the_party_that_failed(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    sent = Party(tiny_llama, REQUESTS[:1], config).contribute(Delta.empty(config))
    other = of_another(sent, round_sha256="0" * 64)
    with pytest.raises(ContributionError) as caught:
        coordinator_of(config).merge({"hospital": sent, "bank": other})
    assert caught.value.party == "bank"
