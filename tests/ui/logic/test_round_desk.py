"""A coordinator's round by files: whose files fit, which don't, and the merge."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from collabedit.errors import InputError
from collabedit.messages import Contribution, Delta
from collabedit.ui.logic import Job, Jobs, JobState, RoundDesk
from tests.cli.commands import collabedit
from tests.cli.test_by_files import exchange, new_round, work, write_requests  # noqa: F401

PARTIES = ["party0", "party1", "party2"]


@pytest.fixture(scope="module")
def one_shot(work: Path) -> Path:  # noqa: F811
    """A one-shot round with three contributions, and the delta that the command makes of them."""
    return exchange(work, new_round(work, "one-shot", "once.json"), PARTIES, [])


def desk_of(work: Path, round_file: str = "once.json") -> RoundDesk:  # noqa: F811
    desk = RoundDesk(Jobs(), str(work / round_file), str(work / "cov.safetensors"))
    for party in PARTIES:
        desk.add(work / f"{party}.update.safetensors")
    return desk


def done(job: Job) -> Job:
    assert job.wait(60)
    assert job.state is JobState.DONE, job.error
    return job


def test_the_delta_equals_the_commands(
    work: Path,  # noqa: F811
    one_shot: Path,
    tmp_path: Path,
) -> None:
    desk = desk_of(work)
    found = desk.review()
    assert "A one-shot MEMIT round" in found.about
    assert [each.edits for each in found.sent] == [1, 3, 2]
    assert found.hindrance == ""
    done(desk.merge(str(tmp_path / "delta.safetensors")))
    assert desk.news[-1] == "The round is complete"
    ours, theirs = Delta.load(tmp_path / "delta.safetensors"), Delta.load(one_shot)
    assert ours.sha256 == theirs.sha256
    assert desk.files == []


def test_each_file_has_its_own_fault(
    work: Path,  # noqa: F811
    one_shot: Path,
    tmp_path: Path,
) -> None:
    desk = desk_of(work)
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(ran),)

    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "cut.safetensors").write_bytes(
        (work / "party0.update.safetensors").read_bytes()[:-8]
    )
    other = new_round(work, "layerwise", "other.json")
    requests = write_requests(tmp_path / "other.jsonl", 0, 1)
    foreign = tmp_path / "foreign.safetensors"
    collabedit("contribute", "--round", other, "--requests", requests, "-o", foreign)
    twice = tmp_path / "twice.safetensors"
    Contribution.load(work / "party1.update.safetensors").save(twice)
    for name in ("evil", "cut", "foreign", "twice"):
        desk.add(tmp_path / f"{name}.safetensors")
    desk.add(one_shot)
    desk.add(work / "cov.safetensors")
    found = desk.review()
    faults = {each.path.stem: each.fault for each in found.sent}
    assert [faults[f"{party}.update"] for party in PARTIES] == ["", "", ""]
    assert faults["evil"]
    assert not ran.exists()
    assert faults["cut"]
    assert "it belongs to another round" in faults["foreign"]
    assert "repeats the contribution of" in faults["twice"]
    assert "a finished delta" in faults[one_shot.stem]
    assert "neither a contribution nor a delta" in faults["cov"]
    assert found.hindrance == "6 files do not fit; remove or replace them"
    with pytest.raises(InputError, match="6 files do not fit"):
        desk.merge(str(tmp_path / "delta.safetensors"))
    for each in found.sent:
        if each.fault:
            desk.remove(each.path)
    assert desk.review().hindrance == ""


def test_a_layerwise_round_continues_and_waits_for_its_parties(
    work: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = new_round(work, "layerwise", "layers.json")
    exchange(work, config, PARTIES, [])
    desk = desk_of(work, "layers.json")
    out = tmp_path / "first.safetensors"
    done(desk.merge(str(out)))
    assert desk.delta == str(out)
    assert "--delta first.safetensors" in desk.news[-1]
    found = desk.review()
    assert len(found.absent) == 3
    assert found.hindrance == "No contribution has arrived yet"
    assert "waits for layer 2" in found.about
    for party in ("party0", "party2", "party1"):
        requests = work / f"{party}.jsonl"
        sent = tmp_path / f"{party}.safetensors"
        collabedit(
            *("contribute", "--round", config, "--requests", requests, "-o", sent, "--delta", out)
        )
        assert desk.review().hindrance
        desk.add(sent)
        assert len(desk.review().absent) == 3 - len(desk.files)
    last = tmp_path / "last.safetensors"
    done(desk.merge(str(last)))
    assert desk.news[-1] == "The round is complete"
    assert Delta.load(last).metadata.layers == (1, 2)


def test_finished_deltas_are_merged_without_a_round(
    work: Path,  # noqa: F811
    one_shot: Path,
    tmp_path: Path,
) -> None:
    desk = RoundDesk(Jobs())
    assert desk.review().hindrance == "No contribution has arrived yet"
    desk.add(one_shot)
    assert "CollabEdit merges contributions" in desk.review().hindrance
    desk.method = "SA"
    done(desk.merge(str(tmp_path / "sa.safetensors")))
    assert Delta.load(tmp_path / "sa.safetensors").metadata.method == "SA"
    desk.add(work / "party0.update.safetensors")
    assert desk.review().hindrance == "Name the round file that the contributions belong to"


def test_missing_files_and_settings_are_refused(work: Path, tmp_path: Path) -> None:  # noqa: F811
    desk = RoundDesk(Jobs())
    for given in ("", str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(InputError):
            desk.add(given)
    new_round(work, "one-shot", "empty.json")
    desk.round_file = str(work / "empty.json")
    assert "Name the covariance file" in desk.review().hindrance
    desk.round_file = str(tmp_path / "none.json")
    assert "none.json" in desk.review().problem
    with pytest.raises(InputError, match="must end in"):
        desk.merge("delta.txt")
    with pytest.raises(InputError, match="name the delta file"):
        desk.merge("")


def test_the_files_of_a_folder_are_added_once(work: Path, one_shot: Path, tmp_path: Path) -> None:  # noqa: F811
    for party in PARTIES:
        (tmp_path / f"{party}.safetensors").write_bytes(
            (work / f"{party}.update.safetensors").read_bytes()
        )
    desk = RoundDesk(Jobs())
    assert desk.add(tmp_path) == 3
    with pytest.raises(InputError, match="has already been added"):
        desk.add(tmp_path / "party0.safetensors")
