"""``collabedit audit`` on a tiny model: plain uploads reveal everything, masked sums nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.commands import collabedit, fails
from tests.cli.test_by_files import work, write_requests  # noqa: F401
from tests.cli.test_secure import PARTIES, _covariance, contribute, keys, open_round, secure_options  # noqa: F401
from tests.cli.test_withdraw import contributions
from tests.editing.facts import REQUESTS


def candidates(folder: Path) -> Path:
    """All facts, and as many others with the same wording."""
    path = write_requests(folder / "candidates.jsonl", 0, 6)
    others = [
        {"prompt": r.prompt, "subject": r.subject + " Junior", "target": r.target_new}
        for r in REQUESTS[:6]
    ]
    path.write_text(path.read_text() + "\n" + "\n".join(map(json.dumps, others)))
    return path


def test_plain_uploads_are_found_out(work: Path, tmp_path: Path) -> None:  # noqa: F811
    round_file = open_round(work, tmp_path, "one-shot")
    sent = contributions(tmp_path, round_file)
    members = [word for party in PARTIES for word in ("--members", tmp_path / f"{party}.jsonl")]
    common = ("--round", round_file, "--candidates", candidates(tmp_path))
    found = json.loads(
        collabedit(
            *("audit", *sent.values(), *common, *members, "--json"),
            *("--attacks", "span,residual", "--plot", tmp_path / "roc.png"),
        )
    )
    assert {(each["attack"], each["question"]) for each in found} == {
        (attack, question)
        for attack in ("span", "residual")
        for question in ("membership", "attribution")
    }
    for each in found:
        if each["attack"] == "span":
            assert each["curve"]["auc"]["value"] == 1.0, each
            assert each["verdict"] == "finds out"
    assert (tmp_path / "roc.png").stat().st_size > 1000
    merge = ("--round", round_file, "-C", work / "cov64.safetensors")
    collabedit("merge", *sent.values(), *merge, "-o", tmp_path / "delta")
    everyone = write_requests(tmp_path / "all.jsonl", 0, 6)
    table = collabedit(
        *("audit", tmp_path / "delta", *common, "--members", everyone),
        *("-C", work / "cov64.safetensors"),
    )
    assert "behaviour" in table
    assert "AUC" in table
    listed = json.loads(collabedit("audit", sent["bank"], *common, "--attacks", "span", "--json"))
    assert [row["fact"] for row in listed[:1]] == [f"{REQUESTS[2].text} {REQUESTS[2].target_new}"]
    assert listed[0]["score"] > 0.999 > listed[1]["score"]
    assert "likeliest" in collabedit("audit", sent["bank"], *common, "--attacks", "span")
    assert "--plot needs --members" in fails(
        *("audit", sent["bank"], *common, "--plot", tmp_path / "roc.png")
    )
    assert "one for each file" in fails("audit", tmp_path / "delta", *common, *members)
    assert "members and candidates that are not" in fails(
        *("audit", tmp_path / "delta", "--round", round_file),
        *("--candidates", everyone, "--members", everyone),
    )


def test_masked_sums_have_nothing_in_their_span(work: Path, keys: Path) -> None:  # noqa: F811
    secure = (*secure_options(keys), "--sum-form", "sketched")
    round_file = open_round(work, keys, "one-shot", *secure)
    request = None
    for step in range(1, 4):
        answers = [keys / f"{party}.{step}" for party in PARTIES]
        for party, out in zip(PARTIES, answers, strict=True):
            contribute(keys, round_file, party, request, out)
        request = keys / f"request{step}"
        merge = ("merge", *answers, "--round", round_file, "-C", work / "cov64.safetensors")
        collabedit(*merge, "-o", request)
    members = [word for party in PARTIES for word in ("--members", keys / f"{party}.jsonl")]
    found = json.loads(
        collabedit(
            *("audit", *answers, "--round", round_file, "--candidates", candidates(keys)),
            *(*members, "--json", "--attacks", "span"),
        )
    )
    (attribution,) = [each for each in found if each["question"] == "attribution"]
    auc = attribution["curve"]["auc"]
    assert auc["low"] <= 0.5 <= auc["high"]
