"""Overlaps and conflicts between organisations, found and settled over a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from collabedit.algebra import relative_distance
from collabedit.errors import InputError
from collabedit.federation.conductor import RoundConductor
from collabedit.federation.folder import RoundFolder, Settings
from collabedit.federation.member import Member
from collabedit.federation.running import open_rounds
from collabedit.federation.tables import report_lines
from collabedit.merging import resolve_method
from collabedit.messages import (
    Contribution,
    ContributionMetadata,
    Decision,
    Delta,
    Policy,
    Ready,
    Request,
    RequestKind,
    RoundConfig,
    Schedule,
)
from collabedit.parties import Party, stored_secret
from collabedit.privacy import decide, detect, load_key
from collabedit.requests import EditRequest, Record
from collabedit.rounds import Coordinator, Dropout, Failure, static_priors
from collabedit.transports import run_in_process
from tests.conftest import make_model
from tests.federation.settings import (
    Members,
    assert_same_bits,
    conducted,
    delta_of,
    make_config,
    make_member,
    open_folder,
)
from tests.federation.test_conductor import CutOffError, secure_config
from tests.rounds.covariances import covariance_of

PROMPT = "The capital of {} is"
FACTS = {
    "bank": [("FRANCE", "Lyon"), ("Italy", "paris."), ("Japan", "Wien"), ("Japan", "Wien")],
    "hospital": [("France", "Rome"), ("Italy", "Paris"), ("Spain", "Wien")],
    "library": [("France", "Lyon")],
}
#: By majority: the bank's Lyon, Paris and one Wien, the hospital's Wien for Spain.
KEPT = {"bank": 3, "hospital": 1, "library": 0}
SHARES = {
    name: [
        Record(EditRequest(number, PROMPT, subject, target, target_true="Berlin"))
        for number, (subject, target) in enumerate(facts)
    ]
    for name, facts in FACTS.items()
}
EDITS = {name: len(records) for name, records in SHARES.items()}
ANY = {"most_left_out": 1.0}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "shared.key"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    return path


def make_members(folder: Path, key: Path, **own: object) -> dict[str, Member]:
    return {
        name: make_member(name, folder, records, fingerprint_key=key, **{**ANY, **own})
        for name, records in SHARES.items()
    }


def by_files(folder: Path, config: RoundConfig, key: Path, policy: Policy) -> Decision:
    """The result of ``contribute --fingerprints-only`` and ``detect``."""
    announced = {}
    for name, records in SHARES.items():
        party = Party(make_model("llama"), records, config, fingerprint_key=load_key(key))
        path = folder / f"by-files-{name}.safetensors"
        party.announce().save(path)
        announced[name] = ContributionMetadata.load(path)
    return decide(detect(announced), policy)


def in_one_process(config: RoundConfig, key: Path, decision: Decision, *names: str) -> Delta:
    model = make_model("llama")
    parties = [
        Party(
            model,
            SHARES[name],
            config,
            name=name,
            secret=stored_secret(),
            fingerprint_key=load_key(key),
            decision=decision,
        )
        for name in names
    ]
    coordinator = Coordinator(
        config, static_priors(config, covariance_of(config)), resolve_method("CollabEdit")
    )
    return run_in_process(parties, coordinator)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_settled_round_equals_one_by_files(tmp_path: Path, key: Path, schedule: Schedule) -> None:
    config = make_config(schedule)
    folder = open_folder(tmp_path, config, policy=Policy.MAJORITY)
    transport = Members(make_members(tmp_path, key))
    report = conducted(folder, transport)
    assert (report.status, report.parties, report.edits) == ("accepted", ("bank", "hospital"), 4)
    assert report.shared is not None
    assert (report.shared.overlaps, report.shared.conflicts) == (3, 1)
    assert (report.shared.edits, report.shared.kept) == (EDITS, KEPT)
    decision = by_files(tmp_path, config, key, Policy.MAJORITY)
    assert folder.decision is not None
    assert folder.decision.leave_out == decision.leave_out
    assert_same_bits(delta_of(folder), in_one_process(config, key, decision, "bank", "hospital"))
    asked = [(stage, to) for stage, to in transport.stages if stage in ("announce", "decide")]
    assert asked == [("announce", tuple(SHARES)), ("decide", tuple(SHARES))]
    lines = list(report_lines(folder, report))
    assert "  hospital keeps 1 of 3 edits" in lines


def test_a_party_whose_edits_others_hold_gets_the_delta(tmp_path: Path, key: Path) -> None:
    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT), policy=Policy.MAJORITY)
    transport = Members(make_members(tmp_path, key))
    report = conducted(folder, transport)
    assert transport.stages[-1] == ("accept", tuple(SHARES))
    assert ("evaluate", ("bank", "hospital")) in transport.stages
    assert "library" not in report.votes
    (kept,) = (tmp_path / "library").glob("*.safetensors")
    assert_same_bits(Delta.load(kept), delta_of(folder))


def test_a_report_leaves_nothing_out(tmp_path: Path, key: Path) -> None:
    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT), policy=Policy.REPORT)
    transport = Members(make_members(tmp_path, key))
    report = conducted(folder, transport)
    assert report.edits == 8
    assert report.shared is not None
    assert report.shared.kept == EDITS
    assert "decide" not in [stage for stage, _ in transport.stages]


def test_people_may_look_before_they_decide(tmp_path: Path, key: Path) -> None:
    """A comparison ends without a report; the round then continues with the same fingerprints."""
    config = make_config()
    folder = open_folder(tmp_path, config, compare_only=True)
    transport = Members(make_members(tmp_path, key))
    RoundConductor(str(folder.path)).conduct(transport)
    assert [stage for stage, _ in transport.stages] == ["join", "announce"]
    assert folder.report is None
    announced = folder.fingerprints
    assert announced is not None
    assert detect(announced).overlaps_between("bank", "library") == 1
    again = open_folder(tmp_path, config, policy=Policy.MAJORITY)
    assert again.path == folder.path
    rest = Members(make_members(tmp_path, key))
    assert conducted(again, rest).status == "accepted"
    assert "announce" not in [stage for stage, _ in rest.stages]
    decision = by_files(tmp_path, config, key, Policy.MAJORITY)
    assert_same_bits(delta_of(folder), in_one_process(config, key, decision, "bank", "hospital"))


def test_neither_key_nor_text_leaves_a_party(tmp_path: Path, key: Path) -> None:
    folder = open_folder(tmp_path, make_config(), policy=Policy.MAJORITY)
    transport = Members(make_members(tmp_path, key))
    conducted(folder, transport)
    files = [path.read_bytes() for path in (tmp_path / "rounds").rglob("*") if path.is_file()]
    private = [load_key(key), b"Lyon", b"Wien", b"FRANCE", b"Spain", b"capital of"]
    for data in [*files, *transport.crossed]:
        assert not [text for text in private if text in data]


def test_fingerprints_are_made_only_where_a_round_compares_them(tmp_path: Path, key: Path) -> None:
    transport = Members(make_members(tmp_path, key))
    conducted(open_folder(tmp_path, make_config(Schedule.ONE_SHOT)), transport)
    assert not [data for data in transport.crossed if b"fingerprint_key_id" in data and _has(data)]


def _has(data: bytes) -> bool:
    try:
        return bool(Contribution.from_bytes(data).metadata.fingerprints)
    except Exception:
        return False


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_secure_round_is_settled_too(tmp_path: Path, key: Path, schedule: Schedule) -> None:
    config = secure_config(tmp_path, schedule)
    folder = open_folder(
        tmp_path, config, on_dropout=Dropout.CONTINUE, policy=Policy.FIRST, min_parties=2
    )
    report = conducted(folder, Members(make_members(tmp_path, key)))
    assert report.status == "accepted", report.reason
    assert report.parties == ("bank", "hospital")
    decision = by_files(tmp_path, config, key, Policy.FIRST)
    plain = make_config(schedule)
    decided = by_files(tmp_path, plain, key, Policy.FIRST)
    assert decided.leave_out == decision.leave_out
    expected = in_one_process(plain, key, decided, "bank", "hospital")
    for name, change in expected.changes.items():
        # Sums are in fixed point; a layerwise round's float32 model limits accuracy to 1e-7 a step.
        assert relative_distance(delta_of(folder).changes[name], change) < 1e-5


# What goes wrong


Answer = Callable[[bytes], "bytes | Failure"]


def of_hospital(stage: str, change: Answer) -> Callable[[str, str, bytes], bytes | Failure]:
    def spoil(party: str, asked: str, reply: bytes) -> bytes | Failure:
        return change(reply) if (party, asked) == ("hospital", stage) else reply

    return spoil


def _statistics(reply: bytes) -> bytes:
    """A whole contribution where only fingerprints were asked for."""
    import torch

    from collabedit.algebra import Factors

    sent = Contribution.from_bytes(reply)
    factors = Factors(torch.ones(96, 1).double(), torch.ones(32, 1).double())
    return Contribution(sent.metadata, {"w": factors}).to_bytes()


def _header(**changes: object) -> Answer:
    def changed(reply: bytes) -> bytes:
        sent = Contribution.from_bytes(reply)
        return Contribution(sent.metadata.model_copy(update=changes), {}).to_bytes()

    return changed


def _keeps(edits: int) -> Answer:
    def changed(reply: bytes) -> bytes:
        return Ready.from_bytes(reply).model_copy(update={"edits": edits}).to_bytes()

    return changed


@pytest.mark.parametrize(
    ("stage", "change", "reason"),
    [
        ("announce", lambda _: Failure("it did not answer within 5 s"), "did not answer"),
        ("announce", lambda _: b"nonsense", "not a safetensors file"),
        ("announce", _statistics, "only fingerprints were asked for"),
        ("announce", _header(round_sha256="0" * 64), "belongs to another round"),
        ("announce", _header(party="bank"), "it calls itself 'bank'"),
        ("announce", _header(fingerprint_key_id="0" * 64), "another key than the others"),
        (
            "announce",
            _header(fingerprints=(), fingerprint_key_id=""),
            "it holds no fingerprints",
        ),
        ("decide", lambda _: Failure("it did not answer within 5 s"), "did not answer"),
        ("decide", _keeps(3), "it keeps 3 edits, but the decision leaves it"),
    ],
)
def test_a_bad_party_is_named_and_the_round_continues(
    tmp_path: Path, key: Path, stage: str, change: Answer, reason: str
) -> None:
    config = make_config(Schedule.ONE_SHOT)
    folder = open_folder(tmp_path, config, policy=Policy.DROP, min_parties=1)
    spoiled = Members(make_members(tmp_path, key), of_hospital(stage, change))
    report = conducted(folder, spoiled)
    assert report.status == "accepted", report.reason
    assert list(report.left_out) == ["hospital"]
    assert reason in report.left_out["hospital"]
    assert folder.decision is not None
    expected = in_one_process(config, key, folder.decision, *report.parties)
    assert_same_bits(delta_of(folder), expected)


def test_a_lost_party_stops_the_round_if_configured(tmp_path: Path, key: Path) -> None:
    folder = open_folder(tmp_path, make_config(), policy=Policy.FIRST, on_dropout=Dropout.STOP)
    gone = of_hospital("announce", lambda _: Failure("it did not answer within 5 s"))
    report = conducted(folder, Members(make_members(tmp_path, key), gone))
    assert report.status == "stopped"
    assert report.reason == "hospital: it did not answer within 5 s; nothing was merged"


def test_a_party_without_the_key_stays_out(tmp_path: Path, key: Path) -> None:
    members = make_members(tmp_path, key)
    members["hospital"] = make_member("hospital", tmp_path, SHARES["hospital"])
    folder = open_folder(tmp_path, make_config(), policy=Policy.FIRST, min_parties=1)
    report = conducted(folder, Members(members))
    assert "join with --fingerprint-key" in report.left_out["hospital"]


def test_a_party_refuses_to_leave_out_most_of_its_edits(tmp_path: Path, key: Path) -> None:
    """Few remaining edits would reveal a lot about each; a party that keeps none shows nothing."""
    folder = open_folder(tmp_path, make_config(), policy=Policy.MAJORITY, min_parties=1)
    report = conducted(folder, Members(make_members(tmp_path, key, most_left_out=0.5)))
    assert report.parties == ("bank",)
    assert "leaves out 2 of 3 edits, but the party allows 50%" in report.left_out["hospital"]
    assert report.shared is not None
    assert report.shared.kept == {"bank": 3, "library": 0}


def test_the_preferred_party_must_take_part(tmp_path: Path, key: Path) -> None:
    folder = open_folder(tmp_path, make_config(), policy=Policy.PREFER, prefer="museum")
    report = conducted(folder, Members(make_members(tmp_path, key)))
    assert report.status == "stopped"
    assert "unknown party 'museum'" in report.reason


def test_too_few_parties_left_with_edits_stop_the_round(tmp_path: Path, key: Path) -> None:
    folder = open_folder(tmp_path, make_config(), policy=Policy.MAJORITY, min_parties=3)
    report = conducted(folder, Members(make_members(tmp_path, key)))
    assert report.status == "stopped"
    assert report.reason == "2 parties have edits to merge, but 3 are needed; nothing was merged"


def test_only_one_of_several_identical_parties_is_merged(tmp_path: Path, key: Path) -> None:
    config = make_config(Schedule.ONE_SHOT)
    shares = {"bank": SHARES["bank"][:3], "twin": SHARES["bank"][:3], "zoo": SHARES["hospital"]}
    members = {
        name: make_member(name, tmp_path, own, fingerprint_key=key, **ANY)
        for name, own in shares.items()
    }
    folder = open_folder(tmp_path, config, policy=Policy.FIRST)
    report = conducted(folder, Members(members))
    assert report.parties == ("bank", "zoo")
    assert report.shared is not None
    assert report.shared.kept == {"bank": 3, "twin": 0, "zoo": 1}


# Continuing


@pytest.mark.parametrize("after", range(1, 8))
def test_a_killed_coordinator_keeps_its_decision(tmp_path: Path, key: Path, after: int) -> None:
    config = make_config()
    folder = open_folder(tmp_path, config, policy=Policy.MAJORITY)

    class Dying(Members):
        def exchange(self, request: bytes, to: object) -> Mapping[str, bytes | Failure]:
            if len(self.stages) == after:
                raise CutOffError
            return super().exchange(request, to)  # type: ignore[arg-type]

    with pytest.raises(CutOffError):
        conducted(folder, Dying(make_members(tmp_path, key)))
    before = folder.decision
    rest = Members(make_members(tmp_path, key))
    report = conducted(RoundFolder(folder.path), rest)
    assert report.status == "accepted"
    assert before in (None, folder.decision)
    assert ("announce" in [stage for stage, _ in rest.stages]) == (after == 1)
    assert folder.decision is not None
    expected = in_one_process(config, key, folder.decision, "bank", "hospital")
    assert_same_bits(delta_of(folder), expected)


def test_a_party_that_joins_after_the_comparison_waits(tmp_path: Path, key: Path) -> None:
    config = make_config()
    folder = open_folder(tmp_path, config, compare_only=True)
    early = {n: m for n, m in make_members(tmp_path, key).items() if n != "hospital"}
    RoundConductor(str(folder.path)).conduct(Members(early))
    again = open_folder(tmp_path, config, policy=Policy.FIRST, min_parties=1)
    report = conducted(again, Members(make_members(tmp_path, key)))
    assert "it waits for the next round" in report.left_out["hospital"]
    assert report.parties == ("bank",)


def test_a_round_has_one_decision(tmp_path: Path, key: Path) -> None:
    """Two decisions would reveal the difference of two contributions: single edits."""
    config = make_config()
    folder = open_folder(tmp_path, config, policy=Policy.MAJORITY)
    members = make_members(tmp_path, key)
    cut = Members(members, lambda _party, stage, reply: _cut(stage, reply))
    with pytest.raises(CutOffError):
        conducted(folder, cut)
    with pytest.raises(InputError, match="already settled by --policy majority"):
        open_rounds(
            tmp_path / "rounds",
            config,
            Settings(covariance=tmp_path / "covariance.safetensors", policy=Policy.DROP),
        )
    assert folder.decision is not None
    other = folder.decision.model_copy(update={"policy": Policy.DROP})
    ask = Request(RequestKind.DECIDE, Delta.empty(config), decision=other)
    refused = Members(members)
    (answer,) = refused.exchange(ask.to_bytes(), ["bank"]).values()
    assert isinstance(answer, Failure)
    assert "only one decision per round" in answer.reason


def _cut(stage: str, reply: bytes) -> bytes:
    if stage == "prepare":
        raise CutOffError
    return reply


def test_the_log_counts_and_names_no_edit(tmp_path: Path, key: Path) -> None:
    folder = open_folder(tmp_path, make_config(), policy=Policy.MAJORITY)
    conducted(folder, Members(make_members(tmp_path, key)))
    (compared,) = [event for event in folder.events() if event["event"] == "compared"]
    assert {k: compared[k] for k in ("overlaps", "conflicts", "subjects")} == {
        "overlaps": 3,
        "conflicts": 1,
        "subjects": 0,
    }
    (decided,) = [event for event in folder.events() if event["event"] == "decided"]
    assert (decided["edits"], decided["kept"]) == (EDITS, KEPT)
    assert json.dumps(decided)
