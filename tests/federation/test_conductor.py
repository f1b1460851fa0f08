"""A round between organisations, from joining to the decision, and what may go wrong in it."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from secrets import token_bytes

import pytest
import torch

from collabedit.algebra import relative_distance
from collabedit.errors import InputError, RoundError
from collabedit.evaluation import evaluate
from collabedit.federation.conductor import RoundConductor
from collabedit.federation.folder import Report, RoundFolder
from collabedit.federation.running import next_round, open_rounds
from collabedit.files import read_json
from collabedit.merging import resolve_method
from collabedit.messages import (
    Contribution,
    Delta,
    Evaluation,
    Gate,
    Joined,
    Opening,
    Ready,
    Request,
    RequestKind,
    RoundConfig,
    RoundState,
    Schedule,
    SecureAggregation,
)
from collabedit.parties import Party
from collabedit.rounds import Coordinator, Dropout, Failure, dynamic_priors, static_priors
from collabedit.transports import run_in_process
from tests.conftest import make_model
from tests.federation.hostile import contribution, header, longer, put, wider
from tests.federation.settings import (
    NAMES,
    SHARES,
    Members,
    Spoil,
    assert_same_bits,
    conducted,
    delta_of,
    in_one_process,
    make_config,
    make_member,
    make_members,
    open_folder,
)
from tests.rounds.covariances import covariance_of


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_round_between_organisations_equals_one_in_a_single_process(
    tmp_path: Path, schedule: Schedule
) -> None:
    config = make_config(schedule)
    folder = open_folder(tmp_path, config)
    transport = Members(make_members(tmp_path))
    report = conducted(folder, transport)
    assert (report.status, report.parties, report.edits) == ("accepted", NAMES, 6)
    assert_same_bits(delta_of(folder), in_one_process(config))
    exchanges = 2 if schedule is Schedule.LAYERWISE else 1
    assert [stage for stage, _ in transport.stages] == [
        *("join", "prepare"),
        *["contribute"] * exchanges,
        *("evaluate", "accept"),
    ]


def test_the_parties_count_hits_and_get_the_delta(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT))
    report = conducted(folder, Members(make_members(tmp_path)))
    assert {kind: hits.of for kind, hits in report.hits.items()} == {
        "rewrite": 6,
        "paraphrase": 6,
        "neighborhood": 6,
    }
    model, records = make_model("llama"), [r for own in SHARES.values() for r in own]
    with model.edited(delta_of(folder).changes):
        cases = evaluate(model, records)
    wins = [
        pair["target_new"] < pair["target_true"]
        for case in cases
        for pair in case["paraphrase_prompts_probs"]
    ]
    assert report.hits["paraphrase"].after == sum(wins)
    near = [pair for case in cases for pair in case["neighborhood_prompts_probs"]]
    kept = sum(pair["target_true"] <= pair["target_new"] for pair in near)
    assert report.hits["neighborhood"].after == kept
    for name in NAMES:
        (kept,) = (tmp_path / name).glob("*.safetensors")
        assert_same_bits(Delta.load(kept), delta_of(folder))


def test_no_text_of_a_request_crosses(tmp_path: Path) -> None:
    """Neither its strings nor its tokens are in any of the coordinator's messages or files."""
    folder = open_folder(tmp_path, make_config())
    transport = Members(make_members(tmp_path))
    conducted(folder, transport)
    files = [path.read_bytes() for path in (tmp_path / "rounds").rglob("*") if path.is_file()]
    assert len(transport.crossed) > 15
    assert len(files) >= 5
    tokenizer = make_model("llama").tokenizer
    for records in SHARES.values():
        for request in (record.request for record in records):
            assert not [d for d in [*transport.crossed, *files] if spelled(request.text, d)]
            ids = tokenizer(request.text).input_ids
            for pattern in (str(ids)[1:-1], ",".join(map(str, ids)), " ".join(map(str, ids))):
                assert not [d for d in [*transport.crossed, *files] if pattern.encode() in d]
            for width in ("int32", "int64"):
                packed = torch.tensor(ids, dtype=getattr(torch, width)).numpy().tobytes()
                assert not [d for d in [*transport.crossed, *files] if packed in d]


def spelled(text: str, data: bytes) -> bool:
    return text.encode() in data or json.dumps(text)[1:-1].encode() in data


# What goes wrong


def of_library(stage: str, change: Callable[[bytes], bytes | Failure]) -> Spoil:
    def spoil(party: str, asked: str, reply: bytes) -> bytes | Failure:
        return change(reply) if (party, asked) == ("library", stage) else reply

    return spoil


BAD = [
    ("join", lambda _: Failure("it did not answer within 25 s"), "did not answer within 25 s"),
    ("join", lambda _: b"nonsense", "not UTF-8 text|not valid JSON"),
    ("join", lambda _: b" " * (1 << 17), "131,072 bytes, but a reply has at most 65,536"),
    ("prepare", lambda _: b"{}", "not a collabedit.ready"),
    ("prepare", lambda r: r + b" " * (1 << 17), "bytes, but a reply has at most 65,536"),
    ("prepare", lambda _: Failure("it did not answer within 25 s"), "did not answer within 25 s"),
    ("contribute", lambda _: b"nonsense", "not a safetensors file"),
    ("contribute", contribution(put(float("nan"))), "NaN or infinite"),
    ("contribute", contribution(put(float("inf"))), "NaN or infinite"),
    ("contribute", wider, "keys and residuals are 96 and 32 wide"),
    ("contribute", longer, "edits take at most"),
    ("contribute", header(round_sha256="0" * 64), "another round"),
    ("contribute", header(delta_sha256="0" * 64), "another state of the round"),
    ("contribute", header(party="hospital"), "it calls itself 'hospital'"),
    ("contribute", header(edits=7), "the party announced 2"),
    ("contribute", lambda r: r[:-9], "declares|truncated"),
]


@pytest.mark.parametrize(("stage", "change", "reason"), BAD)
def test_a_bad_party_is_named_and_the_round_continues(
    tmp_path: Path, stage: str, change: Callable[[bytes], bytes | Failure], reason: str
) -> None:
    config = make_config(Schedule.ONE_SHOT)
    folder = open_folder(tmp_path, config)
    report = conducted(folder, Members(make_members(tmp_path), of_library(stage, change)))
    assert report.status == "accepted"
    assert report.parties == ("bank", "hospital")
    assert list(report.left_out) == ["library"]
    assert re.search(reason, report.left_out["library"])
    assert_same_bits(delta_of(folder), in_one_process(config, ("bank", "hospital")))


class Recorded:
    """One party's replies by number of the contribution, to be replayed later."""

    def __init__(self, party: str, again: Callable[[list[bytes]], bytes]) -> None:
        self.party, self.again, self.sent = party, again, list[bytes]()

    def __call__(self, party: str, stage: str, reply: bytes) -> bytes:
        if (party, stage) != (self.party, "contribute"):
            return reply
        self.sent.append(reply)
        return self.again(self.sent)


def test_a_replay_of_an_earlier_exchange_is_refused(tmp_path: Path) -> None:
    config = make_config()
    folder = open_folder(tmp_path, config)
    replaying = Recorded("library", lambda sent: sent[0])
    report = conducted(folder, Members(make_members(tmp_path), replaying))
    assert "another state of the round" in report.left_out["library"]
    assert_same_bits(delta_of(folder), in_one_process(config, ("bank", "hospital")))


def test_the_contribution_of_another_party_is_refused(tmp_path: Path) -> None:
    config = make_config(Schedule.ONE_SHOT)
    stolen: list[bytes] = []

    def copy(party: str, stage: str, reply: bytes) -> bytes:
        if stage != "contribute":
            return reply
        stolen.append(reply)  # the library is asked first
        if party == "hospital":
            sent = Contribution.from_bytes(stolen[0])
            about = sent.metadata.model_copy(update={"party": ""})
            return Contribution(about, sent.statistics).to_bytes()
        return reply

    folder = open_folder(tmp_path, config)
    report = conducted(folder, Members(make_members(tmp_path), copy))
    assert len(report.left_out) == 1
    assert report.parties in (("bank", "hospital"), ("bank", "library"))


def test_other_edits_in_a_later_exchange_are_refused(tmp_path: Path) -> None:
    config = make_config()
    second = Recorded(
        "library", lambda sent: sent[0] if len(sent) == 1 else header(commitment="1" * 64)(sent[-1])
    )
    folder = open_folder(tmp_path, config)
    report = conducted(folder, Members(make_members(tmp_path), second))
    assert "did not take part in the first exchange" in report.left_out["library"]
    assert_same_bits(delta_of(folder), in_one_process(config, ("bank", "hospital")))


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_party_lost_late_is_left_out_exactly(tmp_path: Path, schedule: Schedule) -> None:
    lost: list[str] = []

    def spoil(party: str, stage: str, reply: bytes) -> bytes | Failure:
        if (party, stage) == ("library", "contribute"):
            lost.append(party)
            if len(lost) == (2 if schedule is Schedule.LAYERWISE else 1):
                return Failure("it did not answer within 5 s")
        return reply

    config = make_config(schedule)
    folder = open_folder(tmp_path, config)
    report = conducted(folder, Members(make_members(tmp_path), spoil))
    assert report.left_out == {"library": "it did not answer within 5 s"}
    assert_same_bits(delta_of(folder), in_one_process(config, ("bank", "hospital")))


@pytest.mark.parametrize("settings", [{"min_parties": 3}, {"on_dropout": Dropout.STOP}])
def test_a_round_that_stops_merges_nothing(tmp_path: Path, settings: dict[str, object]) -> None:
    folder = open_folder(tmp_path, make_config(), **settings)
    bad = of_library("contribute", lambda _: b"nonsense")
    report = conducted(folder, Members(make_members(tmp_path), bad))
    assert report.status == "stopped"
    assert report.reason
    assert not (folder.path / "delta.safetensors").exists()
    assert not (folder.path / "state.safetensors").exists()
    assert not [name for name in NAMES if (tmp_path / name).exists()]


def test_a_party_with_another_model_does_not_join(tmp_path: Path) -> None:
    members = make_members(tmp_path)
    other = make_model("llama", num_hidden_layers=6)
    members["library"] = make_member("library", tmp_path, SHARES["library"], other)
    config = make_config()
    folder = open_folder(tmp_path, config)
    report = conducted(folder, Members(members))
    assert "its model is not the round's" in report.left_out["library"]
    assert_same_bits(delta_of(folder), in_one_process(config, ("bank", "hospital")))


def test_a_party_of_another_version_says_so(tmp_path: Path) -> None:
    def older(reply: bytes) -> bytes:
        joined = Joined.from_bytes(reply)
        return joined.model_copy(update={"editors": ("ROME",), "collabedit": "0.0.1"}).to_bytes()

    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT))
    report = conducted(folder, Members(make_members(tmp_path), of_library("join", older)))
    assert "collabedit 0.0.1 does not know the editor MEMIT" in report.left_out["library"]


def test_a_round_that_nobody_joins_stops(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, make_config())
    report = conducted(folder, Members(make_members(tmp_path), lambda *_: Failure("gone")))
    assert report.status == "stopped"
    assert "0 parties joined, but 2 are needed" in report.reason


# The decision


def rejecting(reply: bytes) -> bytes:
    """The vote of a party none of whose edits took."""
    made = Evaluation.from_bytes(reply)
    none = {kind: hits.model_copy(update={"after": 0}) for kind, hits in made.hits.items()}
    return made.model_copy(update={"hits": none, "objections": ("efficacy",)}).to_bytes()


def test_one_party_that_got_nothing_can_roll_the_round_back(tmp_path: Path) -> None:
    config = make_config(Schedule.ONE_SHOT, Gate(least_efficacy=0.0, most_perplexity=100.0))
    folder = open_folder(tmp_path, config)
    transport = Members(make_members(tmp_path), of_library("evaluate", rejecting))
    report = conducted(folder, transport)
    assert report.status == "rolled back"
    assert report.reason == (
        "2 of 3 votes accept, 100% must; "
        "library rejects: 0 of 2 edited prompts give the new object, 0% must"
    )
    assert {party: vote.accepts for party, vote in report.votes.items()} == {
        "bank": True,
        "hospital": True,
        "library": False,
    }
    assert transport.stages[-1] == ("roll back", NAMES)
    assert not (folder.path / "state.safetensors").exists()
    assert not [name for name in NAMES if (tmp_path / name).exists()]
    again = next_round(folder.path.parent)
    assert again.config.model_sha256 == folder.config.model_sha256
    assert again.config.state_sha256 == ""


def test_a_majority_is_enough_if_the_round_says_so(tmp_path: Path) -> None:
    gate = Gate(least_efficacy=0.0, most_perplexity=100.0, least_share=0.6)
    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT, gate))
    report = conducted(folder, Members(make_members(tmp_path), of_library("evaluate", rejecting)))
    assert report.status == "accepted"
    assert [party for party, vote in report.votes.items() if not vote.accepts] == ["library"]


def test_a_round_that_hardly_anyone_tries_is_rolled_back(tmp_path: Path) -> None:
    def silent(party: str, stage: str, reply: bytes) -> bytes | Failure:
        gone = stage == "evaluate" and party != "library"
        return Failure("it did not answer within 5 s") if gone else reply

    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT))
    report = conducted(folder, Members(make_members(tmp_path), silent))
    assert report.status == "rolled back"
    assert report.reason == "1 of 3 parties voted; more than half must"


def test_impossible_counts_are_refused(tmp_path: Path) -> None:
    def boast(reply: bytes) -> bytes:
        made = Evaluation.from_bytes(reply).model_dump(mode="json")
        made["hits"]["rewrite"]["after"] = 10**9
        return json.dumps(made).encode()

    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT))
    report = conducted(folder, Members(make_members(tmp_path), of_library("evaluate", boast)))
    assert report.status == "accepted"
    assert report.hits["rewrite"].of == 4
    (silent,) = [event for event in folder.events() if event["event"] == "silent"]
    assert silent["party"] == "library"
    assert "more hits than prompts" in silent["reason"]


# Continuing


class CutOffError(RuntimeError):
    """The coordinator is killed."""


@pytest.mark.parametrize("after", range(1, 6))
def test_a_killed_coordinator_continues_with_the_same_result(tmp_path: Path, after: int) -> None:
    config = make_config()
    folder = open_folder(tmp_path, config)
    members = make_members(tmp_path)

    class Dying(Members):
        def exchange(self, request, to):
            if len(self.stages) == after:
                raise CutOffError
            return super().exchange(request, to)

    with pytest.raises(CutOffError):
        conducted(folder, Dying(members))
    assert folder.report is None
    rest = Members(make_members(tmp_path))  # parties are new processes as well
    report = conducted(RoundFolder(folder.path), rest)
    assert report.status == "accepted"
    assert_same_bits(delta_of(folder), in_one_process(config))
    finished = max(0, min(2, after - 2))
    assert [stage for stage, _ in rest.stages].count("contribute") == 2 - finished


def test_a_late_party_waits_for_the_next_round(tmp_path: Path) -> None:
    """It connects after the first exchange, and the coordinator is restarted after it."""
    config = make_config()
    folder = open_folder(tmp_path, config)
    members = make_members(tmp_path)
    early = {name: members[name] for name in ("bank", "hospital")}
    count = 0

    def killed(_party: str, stage: str, reply: bytes) -> bytes:
        nonlocal count
        count += stage == "contribute"
        if count > 2:
            raise CutOffError
        return reply

    with pytest.raises(CutOffError):
        conducted(folder, Members(early, killed))
    report = conducted(folder, Members(make_members(tmp_path)))
    assert report.parties == ("bank", "hospital")
    assert_same_bits(delta_of(folder), in_one_process(config, ("bank", "hospital")))


def test_a_finished_round_is_not_run_again(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT))
    conducted(folder, Members(make_members(tmp_path)))
    idle = Members(make_members(tmp_path))
    RoundConductor(str(folder.path)).conduct(idle)
    assert not idle.stages


def test_an_aborted_transport_leaves_the_round_open(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, make_config())

    class Aborted(Members):
        def exchange(self, request, to):
            raise RoundError("the job was aborted")

    with pytest.raises(RoundError, match="aborted"):
        conducted(folder, Aborted(make_members(tmp_path)))
    assert folder.report is None


def test_several_rounds_with_the_dynamic_covariance(tmp_path: Path) -> None:
    """Each starts from what the earlier ones wrote; a party that missed one can rejoin."""
    config = make_config(Schedule.ONE_SHOT)
    folder = open_folder(tmp_path, config)
    conducted(folder, Members(make_members(tmp_path)))
    second = next_round(folder.path.parent)
    members = make_members(tmp_path)
    conducted(second, Members({name: members[name] for name in ("bank", "hospital")}))
    third = next_round(folder.path.parent)
    report = conducted(third, Members(make_members(tmp_path)))
    assert report.status == "accepted"
    assert report.parties == NAMES
    assert third.before.finished == 2

    model, state = make_model("llama"), RoundState(base_sha256=dict(config.covariance_sha256))
    static = static_priors(config, covariance_of(config))
    for number, names in ((1, NAMES), (2, ("bank", "hospital")), (3, NAMES)):
        now = RoundFolder(folder.path.parent / f"round_{number:03}").config
        priors = dynamic_priors(static, state.keys, config.rules.beta)
        coordinator = Coordinator(now, priors, resolve_method("CollabEdit"))
        with model.starting_from(state.changes):
            requests = {name: [r.request for r in SHARES[name]] for name in names}
            parties = [Party(model, own, now, name=name) for name, own in requests.items()]
            delta = run_in_process(parties, coordinator)
        state = state.after(delta.changes, coordinator.keys)
    assert_same_bits(delta_of(third), delta)


def test_a_folder_of_other_rounds_is_refused(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, make_config())
    with pytest.raises(InputError, match="another round file"):
        open_rounds(folder.path.parent, make_config(Schedule.ONE_SHOT), folder.settings)


def test_a_ready_message_of_another_round_is_refused(tmp_path: Path) -> None:
    def other(reply: bytes) -> bytes:
        return Ready.from_bytes(reply).model_copy(update={"round_sha256": "0" * 64}).to_bytes()

    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT))
    report = conducted(folder, Members(make_members(tmp_path), of_library("prepare", other)))
    assert "prepared another round" in report.left_out["library"]


# Secure aggregation


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parties that have not taken part in anything yet."""
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def secure_config(folder: Path, schedule: Schedule) -> RoundConfig:
    pytest.importorskip("cryptography")
    from collabedit.privacy.secure import Identity

    identities = [Identity.new(name) for name in NAMES]
    for each in identities:
        each.save(folder / f"{each.party}.key")
    section = SecureAggregation(
        roster={each.party: each.public for each in identities},
        threshold=2,
        max_edits=10,
        form="dense",
    )
    config = make_config(schedule)
    return RoundConfig(
        **{**config.model_dump(exclude={"secure_aggregation"}), "secure_aggregation": section}
    )


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.usefixtures("own_cache")
def test_a_secure_round_shows_the_coordinator_only_sums(tmp_path: Path, schedule: Schedule) -> None:
    config = secure_config(tmp_path, schedule)
    folder = open_folder(tmp_path, config, on_dropout=Dropout.CONTINUE)
    transport = Members(make_members(tmp_path))
    report = conducted(folder, transport)
    assert report.status == "accepted", report.reason
    assert not [stage for stage, _ in transport.stages if stage == "contribute"]
    assert len(report.votes) == 3
    assert report.hits == {}  # they would reveal how many edits a party has
    expected = in_one_process(make_config(schedule))
    for name, change in expected.changes.items():
        # The parties' float32 model is what limits a layerwise round: 1e-7 a step.
        assert relative_distance(delta_of(folder).changes[name], change) < 1e-5


@pytest.mark.usefixtures("own_cache")
def test_a_party_without_an_identity_stays_out_of_a_secure_round(tmp_path: Path) -> None:
    config = secure_config(tmp_path, Schedule.ONE_SHOT)
    (tmp_path / "library.key").unlink()
    folder = open_folder(tmp_path, config, on_dropout=Dropout.CONTINUE)
    report = conducted(folder, Members(make_members(tmp_path)))
    assert "join with --identity" in report.left_out["library"]
    assert report.parties == ("bank", "hospital")


def test_a_party_with_an_identity_sends_no_contribution_of_its_own(tmp_path: Path) -> None:
    """A coordinator must not get in a plain round what a secure one would have hidden."""
    secure_config(tmp_path, Schedule.ONE_SHOT)
    folder = open_folder(tmp_path, make_config(Schedule.ONE_SHOT))
    transport = Members(make_members(tmp_path))
    report = conducted(folder, transport)
    assert report.status == "stopped"
    for name in NAMES:
        assert "takes part in sums only" in report.left_out[name]
    assert [stage for stage, _ in transport.stages] == ["join"]


def second_round(
    folder: Path, config: RoundConfig, names: tuple[str, ...], **own: object
) -> Report:
    shares = {name: SHARES[name] for name in names}
    other = config.model_copy(update={"seed": config.seed + 1})
    rounds = folder / f"again {other.seed}"
    rounds.mkdir()
    opened = open_folder(rounds, other, on_dropout=Dropout.CONTINUE)
    return conducted(opened, Members(make_members(folder, shares, **own)))


@pytest.mark.usefixtures("own_cache")
def test_the_same_edits_are_not_summed_with_other_parties(tmp_path: Path) -> None:
    """The difference of the two sums would be what the library sent."""
    config = secure_config(tmp_path, Schedule.ONE_SHOT)
    folder = open_folder(tmp_path, config, on_dropout=Dropout.CONTINUE)
    assert conducted(folder, Members(make_members(tmp_path))).status == "accepted"
    assert second_round(tmp_path, config, NAMES).status == "accepted"
    refused = second_round(tmp_path, config.model_copy(update={"seed": 7}), ("bank", "hospital"))
    assert refused.status == "stopped"
    assert "library is in only one of the two" in refused.left_out["bank"]
    knowing = config.model_copy(update={"seed": 9})
    agreed = second_round(tmp_path, knowing, ("bank", "hospital"), sum_again=True)
    assert agreed.status == "accepted", agreed.reason


def test_only_its_owner_can_read_what_a_party_remembers(tmp_path: Path, own_cache: Path) -> None:
    config = secure_config(tmp_path, Schedule.ONE_SHOT)
    folder = open_folder(tmp_path, config, on_dropout=Dropout.CONTINUE)
    conducted(folder, Members(make_members(tmp_path)))
    kept = list((own_cache / "secure").iterdir())
    assert len(kept) == 2 * len(NAMES)
    for path in kept:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for record in [record for own in SHARES.values() for record in own]:
            assert record.request.subject not in path.read_text()


@pytest.mark.usefixtures("own_cache")
def test_a_party_that_sums_votes_on_only_one_delta_per_round(tmp_path: Path) -> None:
    """A lying coordinator would learn from many votes which facts it holds."""
    config = secure_config(tmp_path, Schedule.ONE_SHOT)
    folder = open_folder(tmp_path, config, on_dropout=Dropout.CONTINUE)
    members = make_members(tmp_path)
    assert conducted(folder, Members(members)).status == "accepted"
    found = delta_of(folder)
    members["bank"].answer(Request(RequestKind.EVALUATE, found).to_bytes())  # the same once more
    name, change = next(iter(found.changes.items()))
    other = {**found.changes, name: replace(change, left=2 * change.left)}
    lie = Request(RequestKind.EVALUATE, replace(found, changes=other)).to_bytes()
    with pytest.raises(RoundError, match="only one per round"):
        members["bank"].answer(lie)
    restarted = make_member("bank", tmp_path, SHARES["bank"])
    restarted.answer(Opening(config, NAMES, {}).to_bytes())
    with pytest.raises(RoundError, match="only one per round"):
        restarted.answer(lie)


@pytest.mark.usefixtures("own_cache")
def test_no_key_or_seed_reaches_the_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in a message, its files, a log or a refusal, even if a party drops out."""
    pytest.importorskip("cryptography")
    from collabedit.privacy.secure import party as module

    made: list[bytes] = []
    monkeypatch.setattr(module, "new_secret", lambda: made.append(token_bytes(32)) or made[-1])
    config = secure_config(tmp_path, Schedule.LAYERWISE)
    folder = open_folder(tmp_path, config, on_dropout=Dropout.CONTINUE)
    transport = Members(make_members(tmp_path), of_library("mask", lambda _: Failure("gone")))
    with caplog.at_level("DEBUG"):
        report = conducted(folder, transport)
    assert (report.status, report.parties) == ("accepted", ("bank", "hospital"))
    assert len(made) == 3 * (3 + 2)  # of three parties in the first exchange, two in the second
    made += [bytes.fromhex(read_json(tmp_path / f"{name}.key")["secret"]) for name in NAMES]
    seen = [path.read_bytes() for path in (tmp_path / "rounds").rglob("*") if path.is_file()]
    seen += [*transport.crossed, caplog.text.encode(), report.model_dump_json().encode()]
    for secret in made:
        assert not [data for data in seen if secret in data or secret.hex().encode() in data]
