"""Detection and decisions, compared with loops over the plain questions and targets."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from collabedit.algebra import relative_distance
from collabedit.errors import (
    ContributionError,
    InputError,
    RequestError,
    RoundError,
    UnknownNameError,
)
from collabedit.messages import (
    ContributionMetadata,
    Decision,
    Fingerprint,
    Policy,
    Schedule,
    parse_policy,
)
from collabedit.models import LanguageModel
from collabedit.parties import Party
from collabedit.privacy import Detection, decide, detect, fingerprint, key_id, left_out
from collabedit.requests import EditRequest
from tests.conftest import EXACT
from tests.rounds.test_round import edited_by, make_round

KEY = b"an example's key of 32 bytes, ok"


@pytest.fixture
def tiny_llama(exact_llama: LanguageModel) -> LanguageModel:
    """A model that computes in float64 throughout, since rounds are compared to the last digits."""
    return exact_llama


#: Edits by party, each a question and a target.
Edits = dict[str, list[tuple[str, str]]]


def request(question: str, target: str, case_id: int = 0) -> EditRequest:
    return EditRequest(case_id, "The capital of {} is", question, target)


def prints_of(edits: list[tuple[str, str]]) -> list[Fingerprint]:
    return [fingerprint(request(*edit), KEY) for edit in edits]


def about(edits: list[tuple[str, str]], key: bytes = KEY) -> ContributionMetadata:
    return ContributionMetadata(
        model="m",
        model_sha256={},
        round_sha256="",
        delta_sha256="",
        layers=(1,),
        edits=len(edits),
        schedule=Schedule.LAYERWISE,
        contexts_sha256="",
        fingerprints=tuple(sorted(prints_of(edits))),
        fingerprint_key_id=key_id(key),
    )


def detected(edits: Edits) -> Detection:
    return detect({party: about(given) for party, given in edits.items()})


def remaining(edits: Edits, policy: Policy, prefer: str | None = None) -> Edits:
    """What each party keeps, in its own order."""
    decision = decide(detected(edits), policy, prefer)
    kept = {}
    for party, given in edits.items():
        out = left_out(prints_of(given), decision)
        kept[party] = [edit for index, edit in enumerate(given) if index not in out]
    return kept


def random_edits(seed: int) -> Edits:
    """Four parties with six edits each about few questions, so that many coincide."""
    chance = random.Random(seed)
    return {
        party: [(f"q{chance.randrange(9)}", f"t{chance.randrange(3)}") for _ in range(6)]
        for party in ("bank", "hospital", "newsroom", "archive")
    }


FOUR = {
    "hospital": [("France", "Rome"), ("Italy", "Paris"), ("Spain", "Wien")],
    "bank": [("France", "Lyon"), ("Italy", "Paris"), ("Japan", "Wien"), ("Japan", "Wien")],
    "newsroom": [("France", "Lyon"), ("Peru", "Wien")],
    "archive": [("Peru", "Rome"), ("Italy", "Wien")],
}


def question_of(name: str) -> str:
    return fingerprint(request(name, "x"), KEY).question


def test_overlaps_and_conflicts_of_an_example() -> None:
    found = detected(FOUR)
    assert {q.question for q in found.overlaps} == {
        question_of(name) for name in ("France", "Italy", "Japan")
    }
    assert {q.question for q in found.conflicts} == {
        question_of(name) for name in ("France", "Italy", "Peru")
    }
    (japan,) = [q for q in found.questions if q.question == question_of("Japan")]
    assert [party for party, _ in japan.answers] == ["bank", "bank"]
    assert found.overlaps_between("hospital", "bank") == 1
    assert found.conflicts_between("hospital", "bank") == 1
    assert found.overlaps_between("bank", "bank") == 1
    assert found.conflicts_between("bank", "bank") == 0
    assert found.overlaps_between("bank", "archive") == 0


def test_subjects_with_different_facts_of_several_parties_are_found() -> None:
    def print_of(subject: str, relation: str) -> Fingerprint:
        return fingerprint(EditRequest(0, "{} is in", subject, "x", None, relation), KEY)

    prints = {
        "hospital": [print_of("France", "P30"), print_of("Peru", "P30"), print_of("Peru", "P36")],
        "bank": [print_of("france ", "P36"), print_of("Peru", "P30"), print_of("Spain", "P30")],
        "newsroom": [print_of("Spain", "P30")],
    }
    template = about([("Spain", "Rome")])
    found = detect(
        {
            party: template.model_copy(
                update={"fingerprints": tuple(sorted(own)), "edits": len(own)}
            )
            for party, own in prints.items()
        }
    )
    expected = {print_of(subject, "").subject for subject in ("France", "Peru")}
    assert found.subjects == dict.fromkeys(expected, ("hospital", "bank"))


@pytest.mark.parametrize("seed", range(20))
def test_detection_equals_loops_over_all_pairs_of_edits(seed: int) -> None:
    edits = random_edits(seed)
    overlaps: dict[frozenset[str], set[str]] = {}
    conflicts: dict[frozenset[str], set[str]] = {}
    everything = [(party, *edit) for party, given in edits.items() for edit in given]
    for (party, question, target), (other, asked, answer) in combinations(everything, 2):
        if question == asked:
            found = overlaps if target == answer else conflicts
            found.setdefault(frozenset((party, other)), set()).add(question)
    detection = detected(edits)
    for found, listed, between in (
        (overlaps, detection.overlaps, detection.overlaps_between),
        (conflicts, detection.conflicts, detection.conflicts_between),
    ):
        names = set().union(*found.values())
        assert {q.question for q in listed} == {question_of(name) for name in names}
        for party in edits:
            for other in edits:
                assert between(party, other) == len(found.get(frozenset((party, other)), ()))


def test_disjoint_edits_share_nothing() -> None:
    edits: Edits = {"a": [("France", "Rome")], "b": [("Italy", "Rome")]}
    assert detected(edits).questions == ()
    for policy in (Policy.FIRST, Policy.MAJORITY, Policy.DROP):
        assert remaining(edits, policy) == edits


# Policies


def expected_targets(edits: Edits, policy: Policy, prefer: str | None) -> dict[str, Any]:
    """By question, who may keep which target, from the policies' descriptions."""
    stays: dict[str, Any] = {}
    for question in {q for given in edits.values() for q, _ in given}:
        givers = {
            party: {t for q, t in given if q == question}
            for party, given in edits.items()
            if any(q == question for q, _ in given)
        }
        targets = set().union(*givers.values())
        if policy is Policy.DROP and len(targets) > 1:
            stays[question] = None
            continue
        party, choices = next(iter(givers)), targets
        if policy is Policy.PREFER and prefer in givers:
            party = prefer
        if policy is Policy.MAJORITY:
            votes = {t: sum(t in theirs for theirs in givers.values()) for t in targets}
            choices = {t for t in targets if votes[t] == max(votes.values())}
            party = next(name for name in givers if givers[name] & choices)
        stays[question] = (party, givers[party] & choices)
    return stays


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("policy", [p for p in Policy if p is not Policy.REPORT])
def test_policies_leave_one_edit_per_question(seed: int, policy: Policy) -> None:
    edits = random_edits(seed)
    prefer = "newsroom" if policy is Policy.PREFER else None
    kept = remaining(edits, policy, prefer)
    for question, stays in expected_targets(edits, policy, prefer).items():
        left = [(p, t) for p, given in kept.items() for q, t in given if q == question]
        if stays is None:
            assert left == []
        else:
            ((party, target),) = left
            assert party == stays[0]
            assert target in stays[1]


@pytest.mark.parametrize(
    ("policy", "prefer", "expected"),
    [
        (
            "first",
            None,
            [["France Rome", "Italy Paris", "Spain Wien"], ["Japan Wien"], ["Peru Wien"], []],
        ),
        (
            "majority",
            None,
            [["Italy Paris", "Spain Wien"], ["France Lyon", "Japan Wien"], ["Peru Wien"], []],
        ),
        (
            "prefer",
            "archive",
            [["France Rome", "Spain Wien"], ["Japan Wien"], [], ["Peru Rome", "Italy Wien"]],
        ),
        ("drop", None, [["Spain Wien"], ["Japan Wien"], [], []]),
    ],
)
def test_policies_on_an_example(policy: str, prefer: str | None, expected: list[list[str]]) -> None:
    kept = remaining(FOUR, parse_policy(policy), prefer)
    assert [[" ".join(edit) for edit in given] for given in kept.values()] == expected


def test_a_report_leaves_nothing_out() -> None:
    assert remaining(FOUR, Policy.REPORT) == FOUR


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_requests_does_not_matter(seed: int) -> None:
    edits = random_edits(seed)
    turned = {party: given[::-1] for party, given in edits.items()}
    for policy in (Policy.FIRST, Policy.MAJORITY, Policy.DROP):
        kept, again = remaining(edits, policy), remaining(turned, policy)
        assert {p: sorted(k) for p, k in kept.items()} == {p: sorted(k) for p, k in again.items()}


def test_the_first_of_repeated_edits_stays() -> None:
    edits = [("Italy", "Rome"), ("France", "Rome"), ("Italy", "Rome")]
    decision = decide(detected({"a": edits}), Policy.FIRST)
    assert left_out(prints_of(edits), decision) == {2}


def test_identical_parties_keep_their_edits_at_least_once() -> None:
    """They can't be distinguished; merging one of them gives every edit."""
    edits: Edits = {"a": [("Italy", "Rome")], "b": [("Italy", "Rome")]}
    for policy in (Policy.FIRST, Policy.MAJORITY, Policy.DROP):
        assert remaining(edits, policy) == edits


@pytest.mark.parametrize(
    ("policy", "prefer"), [(Policy.PREFER, None), (Policy.FIRST, "bank"), (Policy.REPORT, "bank")]
)
def test_a_preferred_party_is_given_only_with_that_policy(
    policy: Policy, prefer: str | None
) -> None:
    with pytest.raises(InputError, match="needs the party to prefer"):
        decide(detected(FOUR), policy, prefer)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown policy 'last'; choose one of: report"):
        parse_policy("last")
    with pytest.raises(UnknownNameError, match="unknown party 'x'; choose one of: hospital, bank"):
        decide(detected(FOUR), Policy.PREFER, "x")


# Updates that cannot be compared


def test_updates_without_fingerprints_are_refused() -> None:
    bare = about([("Italy", "Rome")]).model_copy(update={"fingerprints": ()})
    with pytest.raises(ContributionError, match="bank: it has no fingerprints"):
        detect({"hospital": about([("Italy", "Rome")]), "bank": bare})


def test_fingerprints_of_different_keys_are_not_compared() -> None:
    updates = {
        "hospital": about([("Italy", "Rome")]),
        "bank": about([("Italy", "Rome")], b"x" * 16),
    }
    with pytest.raises(ContributionError, match=r"bank and hospital: .* different keys"):
        detect(updates)


# The decision's file


def test_a_decision_survives_its_file_and_holds_no_fingerprint(tmp_path: Path) -> None:
    decision = decide(detected(FOUR), Policy.FIRST)
    decision.save(tmp_path / "decision.json")
    assert Decision.load(tmp_path / "decision.json") == decision
    stored = (tmp_path / "decision.json").read_text()
    for given in FOUR.values():
        for each in prints_of(given):
            assert each.question not in stored
            assert each.target not in stored


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "collabedit.round"}, "not a collabedit.decision file"),
        ({"version": 2}, "version 2 of collabedit.decision is not known"),
        ({"policy": "last"}, "policy: "),
        ({"leave_out": {"short": []}}, "leave_out.short"),
        ({"leave_out": {"a" * 64: [-1]}}, "greater than or equal to 0"),
        ({"leave_out": [1]}, "leave_out: "),
    ],
)
def test_hostile_decisions_are_refused_when_read(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "decision.json"
    values = decide(detected(FOUR), Policy.FIRST).model_dump(mode="json")
    path.write_text(json.dumps({**values, **changes}))
    with pytest.raises(RoundError, match=message) as caught:
        Decision.load(path)
    assert str(path) in str(caught.value)


def test_a_list_is_not_a_decision(tmp_path: Path) -> None:
    path = tmp_path / "decision.json"
    path.write_text("[]")
    with pytest.raises(RoundError, match=r"not a collabedit\.decision file"):
        Decision.load(path)


def test_a_decision_about_other_edits_is_refused() -> None:
    decision = decide(detected(FOUR), Policy.FIRST)
    with pytest.raises(RoundError, match="not about these edits"):
        left_out(prints_of(FOUR["bank"][1:]), decision)


def test_a_decision_beyond_a_partys_edits_is_refused() -> None:
    decision = decide(detected(FOUR), Policy.FIRST)
    beyond = dict.fromkeys(decision.leave_out, (4,))
    with pytest.raises(RoundError, match="more than these 4 edits"):
        left_out(prints_of(FOUR["bank"]), decision.model_copy(update={"leave_out": beyond}))


# Parties


def requests_of(party: str) -> list[EditRequest]:
    return [request(*edit, case_id=index) for index, edit in enumerate(FOUR[party])]


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_round_after_a_decision_uses_only_the_edits_that_stay(
    tiny_llama: LanguageModel, schedule: Schedule
) -> None:
    config = make_round(tiny_llama, schedule)
    names = ["hospital", "bank", "newsroom"]
    parties = [Party(tiny_llama, requests_of(n), config, fingerprint_key=KEY) for n in names]
    announced = {n: p.announce().metadata for n, p in zip(names, parties, strict=True)}
    decision = decide(detect(announced), Policy.MAJORITY)
    decided = [
        Party(tiny_llama, requests_of(n), config, fingerprint_key=KEY, decision=decision)
        for n in names
    ]
    assert [party.left_out for party in decided] == [1, 2, 1]
    assert detect({str(i): p.announce().metadata for i, p in enumerate(decided)}).questions == ()
    bank, stays = requests_of("bank"), requests_of("hospital")[1:]
    stays += [bank[0], bank[2], *requests_of("newsroom")[1:]]
    alone = Party(tiny_llama, stays, config)
    made, expected = edited_by("CollabEdit", decided), edited_by("GLOBAL", [alone])
    assert made.metadata.edits == 5
    for name, change in expected.changes.items():
        assert relative_distance(made.changes[name], change) < EXACT


def test_a_party_left_without_edits_says_so(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    twice = {"hospital": FOUR["hospital"], "bank": FOUR["hospital"][:2]}
    party = Party(
        tiny_llama,
        requests_of("hospital")[:2],
        config,
        fingerprint_key=KEY,
        decision=decide(detected(twice), Policy.FIRST),
    )
    with pytest.raises(RequestError, match="leaves out all 2 edits; there is nothing to send"):
        party.announce()


def test_a_decision_needs_the_key(tiny_llama: LanguageModel) -> None:
    decision = decide(detected(FOUR), Policy.FIRST)
    with pytest.raises(InputError, match="needs the key"):
        Party(tiny_llama, requests_of("bank"), make_round(tiny_llama), decision=decision)
