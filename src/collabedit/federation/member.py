"""A party's side of a round between organisations: it answers, in its own process."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from collabedit.editing import TargetCache
from collabedit.editors import editors
from collabedit.errors import InputError, RoundError
from collabedit.federation.settings import SETTINGS, MemberSettings
from collabedit.files import (
    cache_directory,
    read_json,
    sha256_of_json,
    tensors_from_bytes,
    write_private_text,
)
from collabedit.messages import (
    Delta,
    Evaluation,
    Joined,
    Opening,
    Request,
    RequestKind,
    RoundConfig,
    RoundState,
    Settled,
)
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Companions, Party, stored_secret
from collabedit.privacy import load_key
from collabedit.requests import Record, load_records

if TYPE_CHECKING:
    from collabedit.privacy.secure import SecureParty

__all__ = ["Member"]

logger = logging.getLogger(__name__)


class Member:
    """Answers a coordinator's requests with a party in this process.

    Args:
        settings: the party's settings; by default, those that its command left in the environment.
        records: its records, if they are already loaded.
        model: the unedited model, if it is already loaded.
    """

    def __init__(
        self,
        settings: MemberSettings | None = None,
        records: Sequence[Record] | None = None,
        model: LanguageModel | None = None,
    ) -> None:
        self._given = settings
        self._records = None if records is None else list(records)
        self._model = model
        self._name = ""
        self._opening: Opening | None = None
        self._party: Party | None = None
        self._secure: SecureParty | None = None
        self._begun = ExitStack()

    def begin(self, party: str) -> None:
        """Take the name in this party's certificate."""
        self._name = party

    def answer(self, request: bytes) -> bytes:
        """Answer one request.

        Raises:
            CollabEditError: when it is malformed, or cannot be answered.
        """
        _, about = tensors_from_bytes(request, "request")
        if about.get("format") == "collabedit.opening":
            return self._join(Opening.from_bytes(request, "opening")).to_bytes()
        if self._party is None:
            raise RoundError("the round was not opened here")
        asked = Request.from_bytes(request, "request")
        asked.delta.check_round(self._party.config)
        if asked.kind is RequestKind.EVALUATE:
            return self._evaluate(asked.delta).to_bytes()
        if asked.kind in (RequestKind.ACCEPT, RequestKind.ROLL_BACK):
            return self._settle(asked).to_bytes()
        reply = self._party.answer(request)
        if asked.kind is RequestKind.DECIDE:
            out, kept = self._party.left_out, len(self._party.requests)
            logger.warning("the decision leaves out %d of %d edits", out, out + kept)
            return reply
        if asked.kind is RequestKind.ANNOUNCE:
            return reply
        if asked.kind is RequestKind.CONFIRM:
            self._note_sum(self._party)
        self._remember()
        return reply

    def _note_sum(self, party: Party) -> None:
        """Refuse to confirm a sum whose difference from an earlier one would expose a party."""
        assert self._secure is not None
        Companions(party.name).join(
            party.config.sha256,
            party.requests,
            self._secure.state.survivors,
            again=self._settings.sum_again,
        )

    def _remember(self) -> None:
        """Save what it has said in the summation, before anything is sent."""
        if self._secure is not None and self._party is not None:
            memory = _memory_of(self._party.config, self._party.name)
            write_private_text(memory, self._secure.state.model_dump_json())

    @property
    def _settings(self) -> MemberSettings:
        if self._given is None:
            path = os.environ.get(SETTINGS)
            if path is None:
                raise InputError(
                    "no requests are given here; start with 'collabedit federation party join'"
                )
            self._given = MemberSettings.load(Path(path))
        return self._given

    def close(self) -> None:
        """Leave the model as it was."""
        self._begun.close()

    def _join(self, opening: Opening) -> Joined:
        if self._name not in opening.roster:
            raise RoundError("this party is not on the round's roster")
        model = self._load(opening)
        self._begun.close()
        self._begun = ExitStack()
        self._begun.enter_context(model.starting_from(opening.changes))
        self._opening, self._party = opening, None
        config = opening.config
        weights = model.fingerprint(model.weight_names(config.layers))
        if weights == config.model_sha256:
            self._party = self._as_party(model, opening)
        return Joined(
            round_sha256=config.sha256,
            model_sha256=weights,
            editors=tuple(editor.name for editor in editors()),
        )

    def _load(self, opening: Opening) -> LanguageModel:
        config, settings = opening.config, self._settings
        if self._records is None:
            self._records = load_records(settings.requests, skip_bad=settings.skip_bad)
        if self._model is None:
            self._model = load_model(
                settings.model or config.model,
                dtype=config.dtype,
                device=settings.device,
                trust_remote_code=settings.trust_remote_code,
            )
        return self._model

    def _as_party(self, model: LanguageModel, opening: Opening) -> Party:
        assert self._records is not None
        self._secure = self._summing(opening.config)
        settings = self._settings
        return Party(
            model,
            self._records,
            opening.config,
            cache=TargetCache() if settings.cache else None,
            skip_known=settings.skip_known,
            fingerprint_key=None if opening.policy is None else _key(settings),
            most_left_out=settings.most_left_out,
            name=self._name,
            secret=stored_secret(),
            secure=self._secure,
        )

    def _summing(self, config: RoundConfig) -> SecureParty | None:
        """Its half of the summations, continuing from what it has already said in this round."""
        settings = self._settings
        if config.secure_aggregation is None:
            if settings.identity is not None:
                raise RoundError(
                    "this party takes part in sums only, but the round asks for its own "
                    "contribution; open the round with --secure-aggregation"
                )
            return None
        from collabedit.privacy.secure import Identity, PartyState, SecureParty, load_roster

        if settings.identity is None:
            raise RoundError("the round asks for secure aggregation; join with --identity")
        memory = _memory_of(config, self._name)
        return SecureParty(
            Identity.load(settings.identity),
            config,
            roster=None if settings.roster is None else load_roster(settings.roster),
            state=PartyState.checked(read_json(memory, "state"), str(memory))
            if memory.exists()
            else None,
        )

    def _evaluate(self, delta: Delta) -> Evaluation:
        assert self._party is not None
        assert self._opening is not None
        if self._secure is not None:
            self._secure.vote_on(delta)
            self._remember()
        vote = self._party.evaluate(delta)
        return vote.model_copy(update={"next_sha256": self._next_weights(self._opening, delta)})

    def _next_weights(self, opening: Opening, delta: Delta) -> dict[str, str]:
        """The weights at the start of the next round: all changes added to the unedited ones.

        They are added at once, as a party that joins later does, since adding one round's change
        after another rounds differently.
        """
        assert self._model is not None
        changes = RoundState(1, opening.changes).after(delta.changes, {}).changes
        self._begun.close()
        with self._model.starting_from(changes):
            weights = self._model.fingerprint(opening.config.weight_names)
        self._begun = ExitStack()
        self._begun.enter_context(self._model.starting_from(opening.changes))
        return weights

    def _settle(self, asked: Request) -> Settled:
        asked.delta.require_complete()
        kept = asked.kind is RequestKind.ACCEPT
        about = asked.delta.metadata
        if kept:
            self._settings.out.mkdir(parents=True, exist_ok=True)
            path = self._settings.out / f"{about.round_sha256[:12]}.delta.safetensors"
            asked.delta.save(path)
            logger.warning("the round is accepted; its delta: %s", path)
        else:
            logger.warning("the round is rolled back; nothing was written")
        return Settled(round_sha256=about.round_sha256, kept=kept)


def _key(settings: MemberSettings) -> bytes:
    """The fingerprint key, which is needed only in rounds that compare fingerprints."""
    if settings.fingerprint_key is None:
        raise RoundError(
            "the round compares fingerprints; join with --fingerprint-key, the key that all "
            "parties share"
        )
    return load_key(settings.fingerprint_key)


def _memory_of(config: RoundConfig, party: str) -> Path:
    """Where a party remembers what it has said in a summation, in its own cache."""
    return cache_directory("secure") / f"{sha256_of_json([config.sha256, party])}.json"
