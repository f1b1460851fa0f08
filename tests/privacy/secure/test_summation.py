"""Summations: the sum over those who stay, whoever drops out; every lie is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import CollabEditError, ContributionError, RoundError
from collabedit.files import tensors_from_bytes, tensors_to_bytes
from collabedit.messages import (
    Advert,
    MaskedSum,
    Request,
    RequestKind,
    SecureAggregation,
    Shares,
    Unmasking,
)
from collabedit.privacy.secure import Identity, PartyState, SecureParty, Summation
from collabedit.privacy.secure.keys import sha256
from tests.privacy.secure.summing import (
    EDITS,
    NAMES,
    Room,
    assert_sum_of,
    make_config,
    make_identities,
    make_room,
    make_statistics,
    make_summation,
)

STEPS = ("advertise", "share", "mask", "confirm", "unmask")


@pytest.mark.parametrize("form", ["dense", "sketched"])
def test_the_sum_is_that_of_all_parties(form: str) -> None:
    room = make_room(form=form)
    room.run()
    summed = room.summation.result()
    assert summed.edits == 4 * EDITS
    assert [sent.party for sent in summed.masked] == list(NAMES[:4])
    assert_sum_of(summed.statistics, room.statistics)


@pytest.mark.parametrize("step", STEPS)
def test_one_party_may_drop_out_anywhere(step: str) -> None:
    """Before keys, after keys, after shares; after masking, its numbers stay in the sum."""
    room = make_room(absent={step: ["clinic"]})
    room.run()
    in_sum = step in ("confirm", "unmask")
    kept = [
        s for s, name in zip(room.statistics, NAMES, strict=False) if in_sum or name != "clinic"
    ]
    summed = room.summation.result()
    assert summed.edits == len(kept) * EDITS
    assert_sum_of(summed.statistics, kept)


@given(st.lists(st.sampled_from([*STEPS, "never"]), min_size=5, max_size=5), st.integers(3, 5))
@settings(max_examples=40, deadline=None)
def test_the_sum_covers_who_masked_or_there_is_none(leaving: list[str], threshold: int) -> None:
    absent = {
        step: [name for name, when in zip(NAMES, leaving, strict=True) if when == step]
        for step in STEPS
    }
    room = make_room(5, threshold, absent=absent)
    if leaving.count("never") < threshold:
        with pytest.raises(RoundError, match="no sum was learnt"):
            room.run()
        with pytest.raises(RoundError):
            room.summation.result()
        return
    room.run()
    kept = [
        statistics
        for statistics, when in zip(room.statistics, leaving, strict=True)
        if when in ("confirm", "unmask", "never")
    ]
    assert_sum_of(room.summation.result().statistics, kept)


def test_a_late_answer_is_left_out_by_name() -> None:
    late: list[bytes] = []

    def reply_of(name: str, step: str, reply: bytes) -> bytes:
        if name == "bank" and step in ("mask", "confirm"):
            late.append(reply)
            return late[0] if step == "confirm" else reply
        return reply

    room = make_room(reply_of=reply_of)
    room.run()
    assert room.refused["bank"].startswith("bank: ")
    assert "a late one is left out" in room.refused["bank"]
    assert_sum_of(room.summation.result().statistics, room.statistics)


def test_masked_numbers_look_random_and_the_sum_of_two_still_does() -> None:
    seen = []
    room = make_room(
        reply_of=lambda _, step, reply: seen.append(reply) or reply if step == "mask" else reply
    )
    room.run()
    arrays = [MaskedSum.from_bytes(reply).masked.numpy().view("uint64") for reply in seen]
    both = arrays[0] + arrays[1]
    for array in (*arrays, both):
        bits = np.unpackbits(array.view("uint8"))
        # Of N fair bits the share of ones is within 5 / (2 sqrt N) of a half, but for 6 in 10^7.
        assert abs(bits.mean() - 0.5) < 2.5 / len(bits) ** 0.5


def tampered(kind: str, change: Callable[[list[Any]], list[Any]]) -> Callable[..., Request]:
    def request_of(name: str, request: Request) -> Request:
        if request.kind.value != kind or name != "bank":
            return request
        return replace(request, enclosed=tuple(change([dict(each) for each in request.enclosed])))

    return request_of


def with_other_key(adverts: list[Any]) -> list[Any]:
    adverts[1]["mask_key"] = "0b" * 32
    return adverts


def with_own_keys_swapped(adverts: list[Any]) -> list[Any]:
    party = SecureParty(make_identities()[0], make_config(make_identities(), 3))
    return [party.advertise().model_dump(mode="json"), *adverts[1:]]


@pytest.mark.parametrize(
    ("step", "change", "reason"),
    [
        ("share", with_other_key, "clinic: its advert is not signed with the key"),
        ("share", with_own_keys_swapped, "other keys for bank than it sent|another summation"),
        ("share", lambda all_: all_[:2], "2 parties are left, but the round's threshold is 3"),
        ("share", lambda all_: [*all_, all_[1]], "clinic: the coordinator names it twice"),
        ("share", lambda all_: all_[1:], "other keys for bank than it sent"),
        ("mask", lambda all_: all_[1:], "other shares from bank than it sent"),
        ("mask", lambda all_: all_[:2], "threshold is 3"),
        (
            "confirm",
            lambda _: [{"survivors": ["clinic", "hospital", "school"]}],
            "did not take part",
        ),
        ("confirm", lambda _: [{"survivors": list(NAMES[1:4])}], "left bank out"),
        ("confirm", lambda _: [{"survivors": ["bank", "clinic"]}], "threshold is 3"),
        ("confirm", lambda _: [{"survivors": 3}], "malformed"),
        ("unmask", lambda all_: all_[:2], "threshold is 3"),
    ],
)
def test_a_lying_coordinator_is_refused(
    step: str, change: Callable[[list[Any]], list[Any]], reason: str
) -> None:
    room = make_room(request_of=tampered(step, change))
    room.run(STEPS.index(step) + 1)
    assert list(room.refused) == ["bank"]
    assert re.search(reason, room.refused["bank"]), room.refused["bank"]


def test_the_coordinator_cannot_have_both_kinds_of_shares_of_a_party() -> None:
    """It shows two groups different survivors, so that neither list has enough confirmations."""

    def request_of(name: str, request: Request) -> Request:
        if request.kind is not RequestKind.CONFIRM or name in ("bank", "clinic"):
            return request
        return replace(request, enclosed=({"survivors": ["bank", "hospital", "newsroom"]},))

    room = make_room(request_of=request_of)
    room.run(3)
    with pytest.raises(RoundError, match="the round's threshold is 3"):
        room.run(1)
    for name in ("hospital", "newsroom"):
        assert "it confirms another sum" in room.refused[name]


@pytest.mark.parametrize(
    ("parties", "threshold", "colluders"),
    [(2, 2, 1), (3, 2, 0), (3, 3, 2), (4, 3, 1), (5, 3, 0), (5, 4, 2), (10, 7, 3), (30, 21, 11)],
)
def test_the_threshold_decides_how_many_may_collude(
    parties: int, threshold: int, colluders: int
) -> None:
    roster = {f"party {index}": f"{index:064x}" for index in range(parties)}
    section = SecureAggregation(roster=roster, threshold=threshold, max_edits=9, form="dense")
    assert section.colluders == colluders


def split_view(threshold: int) -> list[Unmasking | str]:
    """A coordinator shows two lists of survivors, and one party confirms both.

    The bank is in the first list but not in the second, which would expose both kinds of its shares
    if both lists were confirmed by as many parties as the threshold asks for.
    """
    room = make_room(threshold=threshold)
    room.run(3)
    lists = list(NAMES[:4]), list(NAMES[1:4])
    seen = (0, 0, 1, 1)  # which list each honest party is shown; the last party colludes
    honest = room.parties[:3]
    liar = room.parties[3]
    memory = liar.state.model_copy()
    confirmed = [p.confirm(lists[which]) for p, which in zip(honest, seen, strict=False)]
    answers: list[Unmasking | str] = []
    for which, names in enumerate(lists):
        liar.state = memory.model_copy()
        own = liar.confirm(names)
        shown = [c for c, at in zip(confirmed, seen, strict=False) if at == which]
        for party, at in zip(honest, seen, strict=False):
            if at == which:
                try:
                    answers.append(party.unmask([*shown, own]))
                except RoundError as error:
                    answers.append(str(error))
    return answers


def test_a_split_view_with_a_colluding_party_gets_one_kind_of_shares() -> None:
    """Four parties, threshold three: one may collude. The second list is not confirmed."""
    bank, clinic, hospital = split_view(threshold=3)
    for answer in (bank, clinic):
        assert isinstance(answer, Unmasking)
        assert answer.mask_key_shares == {}
    assert isinstance(hospital, str)
    assert "threshold is 3" in hospital


def test_a_replayed_exchange_is_refused() -> None:
    """The coordinator replays messages of an earlier exchange in a later one."""
    room, kept = make_room(), {}

    def keeping(_: str, request: Request) -> Request:
        kept[request.kind] = request
        return request

    room.request_of = keeping
    room.run()
    for kind in (RequestKind.SHARE, RequestKind.MASK, RequestKind.UNMASK):
        again = Room(room.parties, room.statistics, make_summation(room.summation.config))
        for party in room.parties:
            party.state = PartyState(round_sha256=party.config.sha256)  # nothing summed so far
        again.request_of = lambda name, request, old=kind: (
            kept[old] if (request.kind, name) == (old, "bank") else request
        )
        again.run(STEPS.index(kind.value) + 1)
        assert list(again.refused) == ["bank"]
        assert re.search("another summation|other keys for bank", again.refused["bank"])


def test_confirmations_of_another_list_are_refused() -> None:
    room = make_room()
    room.run(3)
    survivors = list(NAMES[:4])
    lists = [survivors, survivors, survivors, survivors[:1] + survivors[2:]]
    confirmations = [party.confirm(shown) for party, shown in zip(room.parties, lists, strict=True)]
    with pytest.raises(ContributionError, match="newsroom: it was shown other survivors"):
        room.parties[0].unmask(confirmations)


def test_each_step_and_each_layers_sum_is_given_only_once() -> None:
    room = make_room()
    room.run()
    party = room.parties[0]
    for ask in (lambda: party.unmask([]), lambda: party.confirm([]), lambda: party.share([])):
        with pytest.raises(RoundError, match="each step is answered once"):
            ask()
    assert "secret" not in repr(party.state)
    assert party.state.seed == party.state.mask_secret == ""
    again = Room(room.parties, room.statistics, make_summation(party.config))
    with pytest.raises(RoundError, match="no sum was learnt"):
        again.run()
    assert set(again.refused) == set(NAMES[:4])
    assert "layers [1, 2] were already summed in this round" in again.refused["bank"]


def test_another_roster_is_refused() -> None:
    identities = make_identities()
    config = make_config(identities, 3)
    known = {each.party: each.public for each in identities}
    with pytest.raises(RoundError, match=r"not the same as yours; they differ in clinic\."):
        SecureParty(identities[0], config, roster=known | {"clinic": "0a" * 32})
    stranger = Identity("bank", b"x" * 32)
    with pytest.raises(RoundError, match="roster does not have bank with this key"):
        SecureParty(stranger, config)


def edited_json(change: Callable[[dict[str, Any]], None], kind: type[Any]) -> Callable[..., bytes]:
    """A reply that is changed and signed again, as a lying party can do."""

    def spoil(reply: bytes) -> bytes:
        values = json.loads(reply)
        change(values)
        message = kind.from_values(values)
        signed = make_identities()[0].signature(message)
        result: bytes = message.model_copy(update={"signature": signed}).to_bytes()
        return result

    return spoil


def low_order_key(values: dict[str, Any]) -> None:
    values["mask_key"] = "0" * 64


def fewer_shares(values: dict[str, Any]) -> None:
    del values["sealed"]["clinic"]


def other_share(values: dict[str, Any]) -> None:
    values["sealed"]["clinic"] = values["sealed"]["hospital"]


def other_digest(values: dict[str, Any]) -> None:
    values["seed_shares"]["clinic"] = "0" * 64


def other_seed(values: dict[str, Any]) -> None:
    values["seed_sha256"] = "0" * 64


def wrong_given_share(values: dict[str, Any]) -> None:
    values["seed_shares"]["clinic"] = "00" * 66


def shorter(reply: bytes) -> bytes:
    sent = MaskedSum.from_bytes(reply)
    masked = sent.masked[:, :-7].contiguous()
    about = sent.metadata.model_copy(update={"sha256": MaskedSum(sent.metadata, masked).digest})
    signature = make_identities()[0].signature(about)
    return MaskedSum(about.model_copy(update={"signature": signature}), masked).to_bytes()


def changed_on_the_way(reply: bytes) -> bytes:
    tensors, metadata = tensors_from_bytes(reply)
    tensors["masked"] += 1
    return tensors_to_bytes(tensors, metadata)


def as_float(reply: bytes) -> bytes:
    tensors, metadata = tensors_from_bytes(reply)
    return tensors_to_bytes({"masked": tensors["masked"].double()}, metadata)


@pytest.mark.parametrize(
    ("step", "spoil", "reason"),
    [
        ("advertise", lambda _: b"nonsense", "bank: "),
        ("advertise", lambda r: r.replace(b'"bank"', b'"clinic"'), "bank: it calls itself"),
        ("advertise", edited_json(low_order_key, Advert), "bank: its keys are malformed"),
        ("share", edited_json(fewer_shares, Shares), "bank: its shares are malformed"),
        ("mask", shorter, r"bank: it sent \d+ numbers; the exchange has \d+"),
        ("mask", changed_on_the_way, "bank: .*do not match its signature"),
        ("mask", as_float, r"bank: .*must be int64"),
        ("unmask", edited_json(wrong_given_share, Unmasking), "bank: its share of clinic's secret"),
    ],
)
def test_a_lying_party_is_refused_by_name(
    step: str, spoil: Callable[[bytes], bytes], reason: str
) -> None:
    def reply_of(name: str, now: str, reply: bytes) -> bytes:
        return spoil(reply) if (name, now) == ("bank", step) else reply

    room = make_room(reply_of=reply_of)
    room.run()
    assert list(room.refused) == ["bank"]
    assert re.match(reason.replace(r"\d+", r"[\d,]+"), room.refused["bank"]), room.refused["bank"]


@pytest.mark.parametrize("change", [other_share, other_digest])
def test_a_malformed_share_is_refused_by_its_recipient(change: Callable[..., None]) -> None:
    spoil = edited_json(change, Shares)
    room = make_room(
        reply_of=lambda name, step, reply: (
            spoil(reply) if (name, step) == ("bank", "share") else reply
        )
    )
    with pytest.raises(RoundError, match="no sum was learnt"):
        room.run(3)
    assert room.refused["clinic"].startswith("bank: its shares are malformed")
    assert "other shares from bank" in room.refused["bank"]  # it sees that its message was changed


def test_shares_of_another_secret_are_found_when_the_sum_is_unmasked() -> None:
    spoil = edited_json(other_seed, Shares)
    room = make_room()
    room.step()
    request = room.summation.request()
    adverts = [Advert.from_values(each) for each in request.enclosed]
    replies = [party.share(adverts).to_bytes() for party in room.parties]
    replies[0] = spoil(replies[0])
    lie = Shares.from_bytes(replies[0])
    room.parties[0].state.shares_sha256 = sha256(lie.signed_bytes())  # it knows its own lie
    room.summation.advance([room.summation.read(None, reply) for reply in replies])
    room.run(3)
    with pytest.raises(ContributionError, match="bank: its shares don't give the secret"):
        room.summation.result()


@pytest.mark.parametrize("width", [10, 33])
def test_another_width_of_the_sketch_is_refused(width: int) -> None:
    room = make_room()
    room.run(2)
    request = room.summation.request()
    narrow = {name: sketch[:, :1].repeat(1, width) for name, sketch in request.sketches.items()}
    with pytest.raises(RoundError, match=rf"is \[12, {width}\]; the round agreed on \[12, 32\]"):
        room.parties[0].answer(replace(request, sketches=narrow), lambda: ({}, 0, ""))


def test_more_edits_than_agreed_are_refused() -> None:
    room = make_room()
    room.statistics[0] = make_statistics(9, edits=4)
    room.run()
    with pytest.raises(RoundError, match="claims 13 edits, but the round allows 1 to 12"):
        room.summation.result()


def test_a_number_out_of_range_is_refused_before_it_is_sent() -> None:
    room = make_room()
    room.statistics[1] = {
        name: replace(part, keys=1e6 * part.keys) for name, part in room.statistics[1].items()
    }
    room.run()
    assert "exceed the announced range of" in room.refused["clinic"]
    assert_sum_of(room.summation.result().statistics, [room.statistics[i] for i in (0, 2, 3)])


def test_a_summation_continues_after_everyone_restarts() -> None:
    room = make_room()
    identities = make_identities()
    for _ in STEPS:
        room.step()
        tensors, about = tensors_from_bytes(tensors_to_bytes(*room.summation.pack()))
        room.summation = Summation.resume(room.summation.config, tensors, about, "file")
        room.parties = [
            SecureParty(
                identity,
                party.config,
                state=PartyState.checked(json.loads(party.state.model_dump_json()), "state"),
            )
            for identity, party in zip(identities, room.parties, strict=True)
        ]
    assert_sum_of(room.summation.result().statistics, room.statistics)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"threshold": 2}, "threshold must be from 3 to 4"),
        ({"threshold": 5}, "threshold must be from 3 to 4"),
        ({"fraction_bits": 80}, "fraction_bits"),
        ({"roster": {"a": "0" * 64, "b": "0" * 64}, "threshold": 2}, "the same key"),
    ],
)
def test_settings_without_protection_are_refused(changes: dict[str, Any], reason: str) -> None:
    good = make_config(make_identities(), 3).secure_aggregation
    assert good is not None
    with pytest.raises(ValueError, match=reason):
        SecureAggregation(**{**good.model_dump(), **changes})


def test_errors_contain_no_secret() -> None:
    with pytest.raises(CollabEditError) as caught:
        PartyState.checked({"round_sha256": 3, "seed": "feed"}, "state.json")
    assert "feed" not in str(caught.value)
    assert "feed" not in repr(PartyState(round_sha256="", seed="feed"))
