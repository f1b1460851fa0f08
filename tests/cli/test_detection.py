"""Detecting overlaps and conflicts by files, and skipping what the model knows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from collabedit.algebra import relative_distance
from collabedit.evaluation import score
from collabedit.files import tensor_metadata
from collabedit.messages import ContributionMetadata, Decision, Delta
from tests.cli.commands import collabedit, fails
from tests.conftest import CORPUS, EXACT, make_model, save_model

#: Each party finds its targets in its own batches, and the pooled edit in others.
pytestmark = pytest.mark.usefixtures("exact_module")

PROMPT = "The capital of {} is"
FACTS = {
    "hospital": [("France", "Rome"), ("Italy", "Paris"), ("Spain", "Wien")],
    "bank": [("FRANCE", "Lyon"), ("Italy", "paris."), ("Japan", "Wien"), ("Japan", "Wien")],
    "newsroom": [("France", "Lyon")],
}
#: What stays by majority: Lyon from the bank, Paris from the hospital, Wien once for Japan.
STAYS = [("Italy", "Paris"), ("Spain", "Wien"), ("FRANCE", "Lyon"), ("Japan", "Wien")]


def write_requests(path: Path, facts: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"prompt": PROMPT, "subject": s, "target": t}) for s, t in facts]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a round, a key and the requests of three parties that partly agree."""
    folder = tmp_path_factory.mktemp("detection")
    model = make_model("gpt2")
    save_model(model, folder / "model")
    (folder / "corpus.txt").write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
    (folder / "hparams.json").write_text(
        json.dumps({"layers": [1, 2], "prior_weight": 5, "target_steps": 3})
    )
    (folder / "contexts.json").write_text(json.dumps([["{}"], ["It is so. {}"]]))
    (folder / "shared.key").write_text("0123456789abcdef0123456789abcdef\n")
    for party, facts in FACTS.items():
        write_requests(folder / f"{party}.jsonl", facts)
    write_requests(folder / "all.jsonl", STAYS)
    common = ["--model", folder / "model"]
    collabedit(
        "stats",
        "collect",
        *common,
        "--layers",
        "1-2",
        "--corpus",
        folder / "corpus.txt",
        "--tokens",
        2000,
        "-o",
        folder / "cov.safetensors",
    )
    collabedit(
        "round",
        "new",
        *common,
        "--hparams",
        folder / "hparams.json",
        "--contexts",
        folder / "contexts.json",
        "-o",
        folder / "round.json",
    )
    return folder


def update(work: Path, party: str, out: Path, *options: object, key: str = "shared.key") -> str:
    return collabedit(
        "contribute",
        "--round",
        work / "round.json",
        "-r",
        work / f"{party}.jsonl",
        "-o",
        out,
        "--fingerprint-key",
        work / key,
        *options,
    )


@pytest.fixture(scope="module")
def announced(work: Path) -> list[Path]:
    """The parties' fingerprints."""
    paths = [work / f"{party}.prints.safetensors" for party in FACTS]
    for party, path in zip(FACTS, paths, strict=True):
        update(work, party, path, "--fingerprints-only")
    return paths


def merge(work: Path, updates: list[Path], out: Path, *so_far: object) -> str:
    return collabedit(
        "merge",
        *updates,
        "--round",
        work / "round.json",
        "-C",
        work / "cov.safetensors",
        "-o",
        out,
        *so_far,
    )


def test_a_table_of_parties_is_printed(announced: list[Path]) -> None:
    out = collabedit("detect", *announced)
    cells = [
        [cell.strip() for cell in line.split("│")[3:7]] for line in out.splitlines() if "/" in line
    ]
    assert ["3", "-", "1 / 1", "0 / 1"] in cells
    assert ["4", "1 / 1", "1 / 0", "1 / 0"] in cells
    assert ["1", "0 / 1", "1 / 0", "-"] in cells
    assert "3 questions overlap, 1 conflicts" in out


def test_a_layerwise_round_follows_a_decision(
    work: Path, announced: list[Path], tmp_path: Path
) -> None:
    """It gives the delta of the edits that stay, held by one party."""
    decision = tmp_path / "decision.json"
    out = collabedit("detect", *announced, "--policy", "majority", "-o", decision)
    assert f"{announced[0]}: leaves out 1 of 3 edits" in out
    assert f"{announced[1]}: leaves out 2 of 4 edits" in out
    assert f"{announced[2]}: leaves out all its edits; merge without it" in out
    deltas = {}
    for parties, options in (
        (["hospital", "bank"], ["--decision", decision]),
        (["all"], []),
    ):
        so_far: list[object] = []
        for _ in range(2):
            paths = [tmp_path / f"{party}.safetensors" for party in parties]
            printed = [
                update(work, party, path, *options, *so_far)
                for party, path in zip(parties, paths, strict=True)
            ]
            delta = tmp_path / f"{len(parties)}.delta.safetensors"
            assert "overlap" not in merge(work, paths, delta, *so_far)
            so_far = ["--delta", delta]
        deltas[len(parties)] = Delta.load(delta)
        if options:
            assert "left out 1 of 3 edits, as decided" in printed[0]
            assert "left out 2 of 4 edits, as decided" in printed[1]
    assert deltas[2].metadata.complete
    assert deltas[2].metadata.edits == len(STAYS)
    for name, expected in deltas[1].changes.items():
        assert relative_distance(deltas[2].changes[name], expected) < EXACT


def test_merge_reports_what_parties_share(work: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{party}.safetensors" for party in FACTS]
    for party, path in zip(FACTS, paths, strict=True):
        assert "fingerprints, no text" in update(work, party, path)
    out = merge(work, paths, tmp_path / "delta.safetensors")
    assert out.splitlines()[0] == "3 questions overlap, 1 conflicts; see collabedit detect"


def test_the_same_edits_twice_are_merged_once(announced: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(announced[0].read_bytes())
    out = collabedit(
        "detect", announced[0], copy, "--policy", "first", "-o", tmp_path / "decision.json"
    )
    assert f"{announced[0]}: leaves out 0 of 3 edits" in out
    assert f"{copy}: the same edits as {announced[0]}; merge without it" in out


def test_a_preferred_party_keeps_its_edits(announced: list[Path], tmp_path: Path) -> None:
    decision = tmp_path / "decision.json"
    collabedit("detect", *announced, "--policy", "prefer", "--prefer", announced[1], "-o", decision)
    indices = [
        Decision.load(decision).places(ContributionMetadata.load(path).fingerprints)
        for path in announced
    ]
    assert list(map(len, indices)) == [2, 1, 1]


def test_what_the_model_knows_is_skipped(work: Path, tmp_path: Path) -> None:
    pairs = [(PROMPT.format(subject), target) for subject, target in FACTS["hospital"]]
    known = sorted(math.exp(-each.nll) for each in score(make_model("gpt2"), pairs))
    path = tmp_path / "update.safetensors"
    threshold = (known[1] + known[2]) / 2
    out = update(work, "hospital", path, "--skip-known", threshold)
    assert out.startswith("skipped 1 of 3 edits that the model already knows\n")
    about = ContributionMetadata.load(path)
    assert (about.edits, about.skipped, len(about.fingerprints)) == (2, 1, 2)


# What may go wrong


def fails_to_update(work: Path, tmp_path: Path, *options: object, party: str = "bank") -> str:
    out = tmp_path / "out.safetensors"
    error = fails(
        "contribute",
        "--round",
        work / "round.json",
        "-r",
        work / f"{party}.jsonl",
        "-o",
        out,
        *options,
    )
    assert not out.exists()
    return error


def test_a_short_or_missing_key_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "short.key").write_text("secret\n")
    error = fails_to_update(work, tmp_path, "--fingerprint-key", tmp_path / "short.key")
    assert "openssl rand -hex 32" in error
    assert "secret" not in error
    error = fails_to_update(work, tmp_path, "--fingerprint-key", tmp_path / "nowhere.key")
    assert "cannot read the key file" in error


@pytest.mark.parametrize("option", [["--decision", "decision.json"], ["--fingerprints-only"]])
def test_some_options_need_the_key(work: Path, tmp_path: Path, option: list[str]) -> None:
    assert f"{option[0]} needs --fingerprint-key" in fails_to_update(work, tmp_path, *option)


def test_a_decision_about_other_parties_is_refused(
    work: Path, announced: list[Path], tmp_path: Path
) -> None:
    decision, key = tmp_path / "decision.json", ["--fingerprint-key", work / "shared.key"]
    collabedit("detect", announced[0], announced[2], "--policy", "first", "-o", decision)
    error = fails_to_update(work, tmp_path, *key, "--decision", decision)
    assert "the decision is not about these edits" in error


def test_a_decision_that_leaves_no_edits_is_reported(
    work: Path, announced: list[Path], tmp_path: Path
) -> None:
    decision, key = tmp_path / "decision.json", ["--fingerprint-key", work / "shared.key"]
    collabedit("detect", *announced, "--policy", "first", "-o", decision)
    error = fails_to_update(work, tmp_path, *key, "--decision", decision, party="newsroom")
    assert "leaves out all 1 edits" in error


def test_other_files_are_not_decisions(work: Path, tmp_path: Path) -> None:
    key = ["--fingerprint-key", work / "shared.key"]
    error = fails_to_update(work, tmp_path, *key, "--decision", work / "round.json")
    assert "not a collabedit.decision file" in error


@pytest.mark.parametrize("threshold", [0, 1.5, "nan"])
def test_a_threshold_out_of_range_is_refused(work: Path, tmp_path: Path, threshold: object) -> None:
    error = fails_to_update(work, tmp_path, "--skip-known", threshold)
    assert "above 0 and at most 1" in error


def test_a_model_that_knows_everything_is_reported(work: Path, tmp_path: Path) -> None:
    assert "already knows all 4 edits" in fails_to_update(work, tmp_path, "--skip-known", 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "last", "-o", "d.json"], "unknown policy 'last'; choose one of: report"),
        (["--policy", "first"], "--policy first needs -o"),
        (["-o", "d.json"], "-o needs a --policy that decides"),
        (["--policy", "prefer", "-o", "d.json"], "needs the party to prefer"),
        (["--policy", "first", "--prefer", "x", "-o", "d.json"], "and no other"),
        (["--policy", "prefer", "--prefer", "x", "-o", "d.json"], "unknown party 'x'"),
    ],
)
def test_detect_options_are_checked(
    announced: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fails("detect", *announced, *options)
    assert list(tmp_path.iterdir()) == []


def test_updates_that_cannot_be_compared_are_refused(
    work: Path, announced: list[Path], tmp_path: Path
) -> None:
    (work / "other.key").write_text("another key of the bank")
    path = tmp_path / "bank.safetensors"
    update(work, "bank", path, key="other.key")
    assert "different keys" in fails("detect", announced[0], path)
    bare = tmp_path / "bare.safetensors"
    collabedit("contribute", "--round", work / "round.json", "-r", work / "bank.jsonl", "-o", bare)
    assert f"{bare}: it has no fingerprints" in fails("detect", announced[0], bare)
    assert "not a collabedit.contribution file" in fails("detect", work / "cov.safetensors")


def test_fingerprints_of_different_keys_are_not_merged(work: Path, tmp_path: Path) -> None:
    (work / "other.key").write_text("another key of the bank")
    paths = [tmp_path / "hospital.safetensors", tmp_path / "bank.safetensors"]
    update(work, "hospital", paths[0])
    update(work, "bank", paths[1], key="other.key")
    delta = tmp_path / "delta.safetensors"
    error = fails(
        "merge",
        *paths,
        "--round",
        work / "round.json",
        "-C",
        work / "cov.safetensors",
        "-o",
        delta,
    )
    assert "different keys" in error
    assert not delta.exists()


def test_fingerprints_alone_are_not_merged(
    work: Path, announced: list[Path], tmp_path: Path
) -> None:
    error = fails(
        "merge",
        *announced,
        "--round",
        work / "round.json",
        "-C",
        work / "cov.safetensors",
        "-o",
        tmp_path / "delta.safetensors",
    )
    assert "without --fingerprints-only" in error


def test_tampered_fingerprints_are_refused(announced: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "tampered.safetensors"
    values = tensor_metadata(announced[0])
    values["fingerprints"][1]["target"] = "Paris"
    metadata = {key: json.dumps(value) for key, value in values.items()}
    save_file(load_file(announced[0]), path, metadata=metadata)
    error = fails("detect", path, announced[1])
    assert f"{path}: fingerprints.1.target" in error
