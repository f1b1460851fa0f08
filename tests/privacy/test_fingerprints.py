"""Fingerprints: equal for equal edits under one key, and revealing nothing else."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from collabedit.errors import ContributionError, InputError
from collabedit.files import tensor_metadata
from collabedit.messages import Contribution, ContributionMetadata, Delta, Fingerprint
from collabedit.models import LanguageModel
from collabedit.parties import Party
from collabedit.privacy import fingerprint, key_id, load_key, normalise
from collabedit.requests import EditRequest
from tests.editing.facts import REQUESTS
from tests.rounds.test_round import make_round

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
FRANCE = EditRequest(0, "The capital of {} is", "France", "Rome", relation_id="P36")


def by_hand(*parts: str) -> str:
    return hmac.new(KEY, json.dumps(parts).encode(), hashlib.sha256).hexdigest()


def test_a_fingerprint_is_the_hmac_of_subject_and_relation() -> None:
    made = fingerprint(FRANCE, KEY)
    assert made.question == by_hand("collabedit.question", "relation", "france", "p36")
    assert made.target == by_hand("collabedit.target", made.question, "rome")


def test_without_a_relation_the_subject_and_the_prompt_count() -> None:
    made = fingerprint(replace(FRANCE, relation_id=None), KEY)
    assert made.question == by_hand(
        "collabedit.question", "prompt", "france", "the capital of", "is"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The   Capital\tof\n", "the capital of"),
        ("“Lyon”.", "lyon"),
        ("(Paris)", "paris"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("ﬁlm", "film"),
        ("\uff32\uff4f\uff4d\uff45\uff01", "rome"),  # full-width "Rome!"
        ("e\u0301cole", "école"),
        ("Τέλος", "τέλοσ"),
        ("日本。", "日本"),
        ("O'Neill's", "o'neill's"),
        ("C#", "c#"),
        ("-5 °C", "-5 °c"),
        ("100%", "100%"),
        ("?", "?"),
        (" !!! ", "!!!"),
    ],
)
def test_texts_are_normalised(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(normalise(text)) == expected


@pytest.mark.parametrize(
    "same",
    [
        replace(FRANCE, case_id=9),
        replace(FRANCE, subject=" FRANCE "),
        replace(FRANCE, target_new="rome."),
        replace(FRANCE, prompt="{} is governed from"),
        replace(FRANCE, target_true="Paris"),
    ],
)
def test_spelling_and_wording_of_a_known_relation_do_not_matter(same: EditRequest) -> None:
    assert fingerprint(same, KEY) == fingerprint(FRANCE, KEY)


@pytest.mark.parametrize(
    "other",
    [
        replace(FRANCE, subject="Italy"),
        replace(FRANCE, relation_id="P37"),
        replace(FRANCE, relation_id=None),
    ],
)
def test_equal_targets_of_different_questions_do_not_match(other: EditRequest) -> None:
    ours, theirs = fingerprint(FRANCE, KEY), fingerprint(other, KEY)
    assert ours.question != theirs.question
    assert ours.target != theirs.target


def test_another_target_of_the_same_question_differs_in_the_target_only() -> None:
    ours, theirs = fingerprint(FRANCE, KEY), fingerprint(replace(FRANCE, target_new="Lyon"), KEY)
    assert ours.question == theirs.question
    assert ours.target != theirs.target


def test_prompts_without_a_relation_match_by_wording_and_subject_position() -> None:
    prompts = ["{} is", "is {}", "{} was", "is {} is"]
    questions = {fingerprint(EditRequest(0, p, "Rome", "x"), KEY).question for p in prompts}
    assert len(questions) == len(prompts)
    spelled = EditRequest(0, "{}  IS:", "rome", "x")
    assert fingerprint(spelled, KEY).question in questions


def test_parts_do_not_run_into_each_other() -> None:
    """Moving letters from the subject to the relation makes another question."""
    first = EditRequest(0, "{}", "a b", "x", relation_id="c")
    second = EditRequest(0, "{}", "a", "x", relation_id="b c")
    assert fingerprint(first, KEY).question != fingerprint(second, KEY).question


def test_different_keys_give_disjoint_fingerprints() -> None:
    digests = [
        {part for r in REQUESTS for part in vars(fingerprint(r, key)).values()}
        for key in (KEY, OTHER_KEY)
    ]
    subjects = {r.subject.casefold() for r in REQUESTS}
    assert len(digests[0]) == len(digests[1]) == 2 * len(REQUESTS) + len(subjects)
    assert digests[0].isdisjoint(digests[1])
    assert key_id(KEY) != key_id(OTHER_KEY)


# The key's file


def test_white_space_around_a_key_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "shared.key"
    path.write_bytes(b" 0123456789abcdef\r\n")
    assert load_key(path) == b"0123456789abcdef"


@pytest.mark.parametrize("content", [b"", b"   \n", b"0123456789abcde\n", b"secret            \n"])
def test_a_short_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shared.key"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"at least 16 bytes.*openssl rand -hex 32") as caught:
        load_key(path)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.key: No such file"):
        load_key(tmp_path / "nowhere.key")


# In an update


def stored(model: LanguageModel, path: Path, requests: list[EditRequest]) -> ContributionMetadata:
    party = Party(model, requests, make_round(model), fingerprint_key=KEY)
    party.contribute(Delta.empty(party.config)).save(path)
    return ContributionMetadata.load(path)


def test_an_update_carries_fingerprints_and_no_text(
    tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "update.safetensors"
    about = stored(tiny_llama, path, REQUESTS)
    assert set(about.fingerprints) == {fingerprint(request, KEY) for request in REQUESTS}
    assert Contribution.load(path).metadata == about
    content = path.read_bytes()
    for request in REQUESTS:
        for text in (request.prompt, request.subject, request.target_new):
            assert text.encode() not in content
    assert KEY not in content
    assert KEY.hex().encode() not in content


def test_the_order_of_requests_is_not_revealed(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    forwards = stored(tiny_llama, tmp_path / "a.safetensors", REQUESTS)
    backwards = stored(tiny_llama, tmp_path / "b.safetensors", REQUESTS[::-1])
    assert forwards.fingerprints == backwards.fingerprints


def test_fingerprints_are_off_by_default(tiny_llama: LanguageModel) -> None:
    party = Party(tiny_llama, REQUESTS[:1], make_round(tiny_llama))
    assert party.contribute(Delta.empty(party.config)).metadata.fingerprints == ()
    with pytest.raises(InputError, match="need a key"):
        party.announce()


def test_a_party_refuses_a_short_key(tiny_llama: LanguageModel) -> None:
    for key in (b"", b"short"):
        with pytest.raises(InputError, match="at least 16 bytes"):
            Party(tiny_llama, REQUESTS[:1], make_round(tiny_llama), fingerprint_key=key)


def test_an_announcement_is_the_update_without_statistics(
    tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    party = Party(tiny_llama, REQUESTS[:2], make_round(tiny_llama), fingerprint_key=KEY)
    announced = party.announce()
    assert "targets" not in vars(party)  # nothing was optimised for it
    announced.save(tmp_path / "update.safetensors")
    about = ContributionMetadata.load(tmp_path / "update.safetensors")
    full = party.contribute(Delta.empty(party.config))
    assert about.model_copy(update={"created": ""}) == full.metadata.model_copy(
        update={"created": ""}
    )
    with pytest.raises(ContributionError, match="without --fingerprints-only"):
        announced.check(party.config, "", party.config.pending_layers(0))


def digest(letter: str) -> dict[str, str]:
    return {"question": letter * 64, "target": letter * 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprints": [digest("A"), digest("b")]}, r"fingerprints\.0\.question: .*pattern"),
        ({"fingerprints": [digest("a"), digest("g")]}, r"fingerprints\.1\.question: .*pattern"),
        (
            {"fingerprints": [{"question": "a" * 64, "target": "b" * 64 + "\n"}, digest("b")]},
            r"fingerprints\.0\.target: .*pattern",
        ),
        ({"fingerprints": [digest("a"), {"question": "b" * 64}]}, r"1\.target: Field required"),
        ({"fingerprints": [digest("a"), "b" * 64]}, r"fingerprints\.1"),
        ({"fingerprints": [digest("a")]}, "1 fingerprints of 2 edits"),
        ({"fingerprints": [digest("a")] * 3}, "3 fingerprints of 2 edits"),
        ({"fingerprints": [digest("b"), digest("a")]}, "not sorted"),
        ({"fingerprints": []}, "come together"),
        ({"fingerprint_key_id": ""}, "come together"),
        ({"fingerprint_key_id": "short"}, "fingerprint_key_id"),
        ({"skipped": -1}, "skipped: .*greater than or equal to 0"),
    ],
)
def test_tampered_fingerprints_are_refused_when_read(
    tiny_llama: LanguageModel, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "update.safetensors"
    stored(tiny_llama, path, REQUESTS[:2])
    values = {**tensor_metadata(path), **changes}
    save_file(load_file(path), path, metadata={k: json.dumps(v) for k, v in values.items()})
    for read in (Contribution.load, ContributionMetadata.load):
        with pytest.raises(ContributionError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_fingerprints_sort_by_question_then_target() -> None:
    prints = [Fingerprint("b" * 64, "a" * 64), Fingerprint("a" * 64, "c" * 64)]
    assert sorted([*prints, Fingerprint("a" * 64, "b" * 64)]) == [
        Fingerprint("a" * 64, "b" * 64),
        prints[1],
        prints[0],
    ]
