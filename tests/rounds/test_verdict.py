"""Votes are counted: who decides, and what silence does."""

from __future__ import annotations

import pytest

from collabedit.messages import Evaluation, Gate
from collabedit.rounds import COORDINATOR, judge

NAMES = ("bank", "clinic", "library")


def votes(**accepts: bool) -> dict[str, Evaluation]:
    return {
        party: Evaluation(
            round_sha256="r",
            delta_sha256="d",
            perplexity=1.0 if kept else 9.0,
            objections=() if kept else ("perplexity",),
        )
        for party, kept in accepts.items()
    }


@pytest.mark.parametrize(
    ("least_share", "accepts", "accepted"),
    [
        (1.0, {"bank": True, "clinic": True, "library": True}, True),
        (1.0, {"bank": True, "clinic": True, "library": False}, False),
        (1.0, {"bank": True, "clinic": True}, True),
        (0.6, {"bank": True, "clinic": True, "library": False}, True),
        (0.6, {"bank": True, "clinic": False, "library": False}, False),
        (0.0, {"bank": False, "clinic": False, "library": False}, True),
        (1.0, {"bank": True, "clinic": True, COORDINATOR: False}, False),
    ],
)
def test_the_share_of_the_votes_decides(
    least_share: float, accepts: dict[str, bool], accepted: bool
) -> None:
    verdict = judge(Gate(least_share=least_share), votes(**accepts), NAMES)
    assert verdict.accepted is accepted
    assert verdict.votes.keys() == accepts.keys()
    against = [party for party, kept in accepts.items() if not kept]
    assert all(
        f"{party} rejects: held-out perplexity is 9" in verdict.reason for party in against
    ) or (accepted and not verdict.reason)


@pytest.mark.parametrize("least_share", [0.0, 1.0])
def test_a_few_votes_do_not_decide_for_the_silent(least_share: float) -> None:
    few = votes(bank=True, **{COORDINATOR: True})
    verdict = judge(Gate(least_share=least_share), few, NAMES)
    assert not verdict.accepted
    assert verdict.reason == "1 of 3 parties voted; more than half must"
    assert not judge(Gate(), {}, ()).accepted
