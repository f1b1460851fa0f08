"""What a party sees of FLARE's output."""

from __future__ import annotations

import pytest

from collabedit.federation.joining import _meaning


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (
            "FederatedClient - INFO - Successfully registered client:bank for project demo.",
            "connected; waiting for a round",
        ),
        (
            "failed with exception ... [SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca",
            "the coordinator does not know who signed this kit's certificate",
        ),
        (
            "Cannot connect to host localhost:49483 ssl:True [SSLCertVerificationError: (1, ...)]",
            "the server that answers has no certificate of this federation",
        ),
        (
            "Cannot connect to host localhost:80 ssl:default [Connect call failed]",
            "the coordinator cannot be reached; trying again",
        ),
        (
            "ClientRunner - INFO - [identity=bank, run=1] - client runner started",
            "a round has begun",
        ),
        (
            "PartyExecutor - ERROR - [identity=bank, run=1] - this party is not on the roster",
            "this party is not on the roster",
        ),
        (
            "member - WARNING - the round is accepted; its delta: /a/b",
            "the round is accepted; its delta: /a/b",
        ),
        (
            "member - WARNING - the decision leaves out 1 of 3 edits",
            "the decision leaves out 1 of 3 edits",
        ),
        ("AuxRunner - INFO - registered aux handler", ""),
    ],
)
def test_what_matters_to_people_is_printed(line: str, meaning: str) -> None:
    assert _meaning(f"2026-11-25 09:57:55,814 - {line}\n") == meaning
