"""A party: holds private requests and answers each exchange with statistics of them."""

from __future__ import annotations

import hmac
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from collabedit.algebra import Factors, compress
from collabedit.editing.anchors import find_targets
from collabedit.editing.gradients import answer_features
from collabedit.editing.keys import Measurement, measure
from collabedit.editing.targets import Solve, TargetCache
from collabedit.editing.texts import check_requests
from collabedit.editors import Procedure
from collabedit.errors import InputError, RequestError, RoundError
from collabedit.evaluation import score
from collabedit.messages import (
    SUMMATION_STEPS,
    Contribution,
    ContributionMetadata,
    Decision,
    Delta,
    Evaluation,
    Fingerprint,
    Normaliser,
    Ready,
    Request,
    RequestKind,
    RoundConfig,
    Schedule,
    Settled,
)
from collabedit.models.language_model import LanguageModel
from collabedit.parties.opening import check_round_model
from collabedit.parties.trial import try_delta
from collabedit.privacy import checked_key, fingerprint, key_id, left_out
from collabedit.requests import EditRequest, Record

if TYPE_CHECKING:
    from collabedit.privacy.secure import SecureParty

__all__ = ["Party", "checked_threshold"]

#: A party's edits, with or without evaluation prompts.
Edits = Sequence[EditRequest] | Sequence[Record]


class Party:
    """One party of a round.

    Args:
        model: the round's model, unedited; several parties of one process may share it.
        requests: its edits, which never leave it; records also provide prompts for trying a merged
            delta, otherwise only the edited prompts are tried.
        config: the round.
        cache: keeps its targets between exchanges.
        targets: ``Z [d_out, n]``, if already known.
        skip_known: skip edits whose new object the unedited model already gives at least this mean
            probability per token, after the bare prompt.
        fingerprint_key: add fingerprints of the edits under this key, which all parties share.
        decision: leave out the edits that it lists; it identifies them by the fingerprints
            of those that are not skipped.
        most_left_out: the largest share of its edits that it lets a coordinator leave out in
            :meth:`follow`, unless it is all of them: a contribution of few edits reveals a lot
            about each.
        name: what the party calls itself in its contributions; may be empty.
        secure: its half of the summations, in a round with secure aggregation.
        secret: key of its commitment to the edits; the same in all exchanges of a
            round, and known to nobody else. Random by default.

    Raises:
        RequestError: when it has no requests, or the text of one does not fit the model.
        InputError: when the threshold or the key is unusable, or a decision comes without a key.
        RoundError: when the model is not the round's.
    """

    def __init__(
        self,
        model: LanguageModel,
        requests: Edits,
        config: RoundConfig,
        *,
        cache: TargetCache | None = None,
        targets: Tensor | None = None,
        skip_known: float | None = None,
        fingerprint_key: bytes | None = None,
        decision: Decision | None = None,
        most_left_out: float = 1.0,
        name: str = "",
        secret: bytes | None = None,
        secure: SecureParty | None = None,
    ) -> None:
        if not requests:
            raise RequestError("a party without requests has no part in a round")
        if decision is not None and fingerprint_key is None:
            raise InputError("a decision needs the key of the fingerprints that it was made from")
        check_round_model(config, model)
        self._records = [each if isinstance(each, Record) else Record(each) for each in requests]
        self._given = [record.request for record in self._records]
        check_requests(model, self._given, config.contexts)
        self.model = model
        self.config = config
        self._given_targets = targets
        self._cache = cache
        self._skip_known = checked_threshold(skip_known)
        self._key = (
            None if fingerprint_key is None else checked_key(fingerprint_key, "fingerprint_key")
        )
        self._decision = decision
        self._most_left_out = most_left_out
        if secure is not None and name not in ("", secure.name):
            raise InputError(f"the party is called {name} and its identity {secure.name}")
        self.name = name if secure is None else secure.name
        self._secure = secure
        self._secret = secrets.token_bytes(32) if secret is None else secret
        self._targets: Tensor | None = None
        self._features: Mapping[int, Tensor] | None = None
        self._measured: dict[tuple[str, tuple[int, ...]], Measurement] = {}
        self._unedited: Tensor | None = None

    @classmethod
    def together(
        cls,
        model: LanguageModel,
        shares: Sequence[Edits],
        config: RoundConfig,
        names: Sequence[str] | None = None,
        secure: Sequence[SecureParty] | None = None,
        solve: Solve | None = None,
    ) -> list[Party]:
        """Parties of one process; their targets are found together if the editor allows it.

        A target depends on the model and on the party's edits that begin alike, so this only saves
        time.

        Args:
            model: the unedited model.
            shares: each party's requests, or records.
            config: the round.
            names: of the parties; none by default.
            secure: their halves of the summations, in a round with secure aggregation.
            solve: finds the targets elsewhere, such as on workers.
        """
        party_names = [""] * len(shares) if names is None else names
        cache = TargetCache()
        if not config.rules.at_once:
            return [
                cls(model, edits, config, cache=cache, name=name)  # never with secure aggregation
                for edits, name in zip(shares, party_names, strict=True)
            ]
        flat = [r.request if isinstance(r, Record) else r for edits in shares for r in edits]
        check_requests(model, flat, config.contexts)
        found = find_targets(
            model,
            flat,
            config.contexts,
            config.hyperparameters,
            cache=cache,
            solve=solve,
            owners=[owner for owner, edits in enumerate(shares) for _ in edits],
        )
        targets = found.split([len(edits) for edits in shares], dim=1)
        halves = [None] * len(shares) if secure is None else secure
        return [
            cls(model, edits, config, targets=known, name=name, secure=half)
            for edits, known, name, half in zip(shares, targets, party_names, halves, strict=True)
        ]

    @classmethod
    def pooled(cls, parties: Sequence[Party]) -> Party:
        """A single party that holds all edits of several, with the same targets."""
        first = parties[0]
        together = first.config.rules.at_once
        pooled = cls(
            first.model,
            [request for party in parties for request in party.requests],
            first.config,
            cache=first._cache,
            targets=torch.cat([p.targets for p in parties], dim=1) if together else None,
        )
        for key in first._measured:
            if all(key in party._measured for party in parties):
                parts = [party._measured[key] for party in parties]
                pooled._measured[key] = Measurement.concatenate(parts)
        return pooled

    def holding(self, request: EditRequest, config: RoundConfig) -> Party:
        """The party with only one of its edits, in a round on the model as it is now."""
        return Party(self.model, [request], config, cache=self._cache, name=self.name)

    @cached_property
    def requests(self) -> list[EditRequest]:
        """The edits that it takes part with: neither skipped nor left out.

        Determined on first use, on the unedited model, and the same in every exchange.
        """
        return [self._given[index] for index in self._kept]

    @property
    def skipped(self) -> int:
        """Number of its edits that the model already knows."""
        return len(self._given) - len(self._unknown)

    @property
    def left_out(self) -> int:
        """Number of its edits that the decision leaves out."""
        return len(self._unknown) - len(self._kept)

    @property
    def targets(self) -> Tensor:
        """``Z [d_out, n]`` of the remaining requests; prepares the party if necessary."""
        self.prepare()
        assert self._targets is not None
        return self._targets

    def prepare(self, solve: Solve | None = None) -> None:
        """Determine which edits take part; find their targets or features on the unedited model.

        Known edits and targets must not depend on when this runs: a model with merged layers would
        give different targets. A second call does nothing.

        Args:
            solve: finds the targets elsewhere, such as on workers.

        Raises:
            RequestError: when all its edits are skipped or left out, or a target is not finite.
            RoundError: when the model is edited, when the decision is about other edits, or when
                the editor has no statistics for so many edits.
        """
        if self._targets is not None or self._features is not None:
            return
        self._require_unedited()
        self._require_requests()
        self._require_statistics()
        if self.config.rules.normalises:
            self._features = answer_features(self.model, self.requests, self.config.layers)
            return
        targets = self._find_targets(solve)
        self._check_targets(targets)
        self._targets = targets

    def _find_targets(self, solve: Solve | None) -> Tensor:
        if self._given_targets is not None:
            return self._given_targets[:, self._kept]
        return find_targets(
            self.model,
            self.requests,
            self.config.contexts,
            self.config.hyperparameters,
            cache=self._cache,
            solve=solve,
        )

    def answer(self, request: bytes) -> bytes:
        """Answer a coordinator's request, as bytes in both directions.

        Args:
            request: a :class:`collabedit.messages.Request` as bytes.

        Returns:
            A :class:`collabedit.messages.Ready`, :class:`collabedit.messages.Normaliser` or
            :class:`collabedit.messages.Contribution` (with fingerprints only, if nothing else is
            asked for); under secure aggregation, what the step asks for; for a complete delta, an
            :class:`collabedit.messages.Evaluation` or :class:`collabedit.messages.Settled`.

        Raises:
            CollabEditError: when the request is malformed, or can't be answered.
        """
        asked = Request.from_bytes(request, "request")
        asked.delta.check_round(self.config)
        if asked.kind in SUMMATION_STEPS:
            return self._require_secure().answer(asked, lambda: self._summands(asked.delta))
        if asked.kind is RequestKind.CONTRIBUTE:
            if self._secure is not None:
                raise RoundError(
                    "the coordinator asks for this party's own contribution, but the party takes "
                    "part in sums only; refused"
                )
            return self.contribute(asked.delta, normaliser=asked.normaliser).to_bytes()
        if asked.kind is RequestKind.SUMMARISE:
            return self.summarise().to_bytes()
        if asked.kind is RequestKind.EVALUATE:
            if self._secure is not None:
                self._secure.vote_on(asked.delta)
            return self.evaluate(asked.delta).to_bytes()
        if asked.kind in (RequestKind.ACCEPT, RequestKind.ROLL_BACK):
            kept = asked.kind is RequestKind.ACCEPT
            return Settled(round_sha256=self.config.sha256, kept=kept).to_bytes()
        if asked.kind is RequestKind.ANNOUNCE:
            return self.announce().to_bytes()
        if asked.kind is RequestKind.DECIDE:
            if asked.decision is None:
                raise RoundError("the coordinator asks to follow a decision, but encloses none")
            return self.follow(asked.decision).to_bytes()
        self.prepare()
        if self._secure is not None:  # the number of its edits is private too
            return Ready(round_sha256=self.config.sha256, edits=0).to_bytes()
        return self._ready().to_bytes()

    def _ready(self) -> Ready:
        return Ready(
            round_sha256=self.config.sha256, edits=len(self.requests), skipped=self.skipped
        )

    def follow(self, decision: Decision) -> Ready:
        """Leave out the edits that a decision names, before the targets are found.

        Args:
            decision: of the coordinator, about the fingerprints that :meth:`announce` gave.

        Returns:
            The number of edits that are left, which may be none.

        Raises:
            InputError: when it has no fingerprint key.
            RoundError: when the decision is about other edits or leaves out too many, when the
                party follows another one already, or when its targets are found, since the
                difference of two contributions would show single edits.
        """
        if self._key is None:
            raise InputError("a decision needs the key of the fingerprints that it was made from")
        if self._decision == decision:
            return self._ready()
        if self._decision is not None or self._targets is not None or self._features is not None:
            raise RoundError(
                "a party follows only one decision per round, before it prepares; refused"
            )
        self._check_share(len(decision.places(self._fingerprints())))
        self._decision = decision
        for settled in ("requests", "_kept"):
            self.__dict__.pop(settled, None)
        return self._ready()

    def _check_share(self, left_out: int) -> None:
        edits = len(self._unknown)
        if left_out < edits and left_out > self._most_left_out * edits:
            raise RoundError(
                f"the decision leaves out {left_out} of {edits} edits, but the party allows "
                f"{self._most_left_out:.0%} (--most-left-out); refused"
            )

    def summarise(self) -> Normaliser:
        """The mean and deviation of its features, of all edited layers together.

        Raises:
            RequestError: when all its edits are skipped or left out.
            RoundError: when the model is edited, or the editor normalises no features.
        """
        return Normaliser.of(self.config.sha256, torch.cat([*self._own_features.values()], dim=1))

    @property
    def _own_features(self) -> Mapping[int, Tensor]:
        self.prepare()
        if self._features is None:
            raise RoundError(f"{self.config.editor} normalises no features")
        return self._features

    def contribute(
        self,
        delta: Delta,
        dtype: Literal["float32", "float64"] = "float64",
        normaliser: Normaliser | None = None,
    ) -> Contribution:
        """Answer one exchange.

        Args:
            delta: what the round has merged so far.
            dtype: type of the arrays once they are written to a file.
            normaliser: of all parties' features, if the editor normalises them.

        Raises:
            RequestError: when all its edits are skipped or left out.
            RoundError: when the delta is from another round, or already complete; when the decision
                is about other edits; when the editor has no statistics for so many edits; or when
                it needs a normaliser and none is given, or one of another round.
        """
        config = self.config
        delta.check_round(config)
        layers = config.pending_layers(len(delta.changes))
        if not layers:
            raise RoundError("the round is complete: all its layers are merged")
        if config.rules.normalises:
            statistics = self._normalised(layers, normaliser)
        else:
            statistics = self._towards_targets(delta, layers)
        return Contribution(self._metadata(delta, layers, dtype), statistics)

    def _towards_targets(self, delta: Delta, layers: Sequence[int]) -> dict[str, Factors]:
        config = self.config
        measurement = self._measure(delta, tuple(layers))
        residual = self._residual(delta, measurement)
        return {
            config.weight_of(layer): compress(
                measurement.keys[layer], config.residual_share(layer) * residual
            )
            for layer in layers
        }

    def _residual(self, delta: Delta, measurement: Measurement) -> Tensor:
        """What is still lacking at each key, ``[d_out, n k]``.

        At the first key of an edit, that is what separates the bare prompt from the target. In
        conversations, the same change is wanted of the hidden state that they begin with.
        """
        targets, keys = self.targets.double(), self.config.keys_per_edit
        if keys == 1:
            return targets - measurement.hidden
        if not delta.changes:
            self._unedited = measurement.hidden
        if self._unedited is None:  # in a process that saw no earlier exchange
            self._unedited = self._measure(Delta.empty(self.config), ()).hidden
        wanted = (targets - self._unedited[:, ::keys]).repeat_interleave(keys, dim=1)
        return wanted - (measurement.hidden - self._unedited)

    def _normalised(
        self, layers: Sequence[int], normaliser: Normaliser | None
    ) -> dict[str, Factors]:
        """UltraEdit's statistics: ``v = -rate |h^|^2 g^`` of normalised keys and gradients."""
        config = self.config
        if normaliser is None:
            raise RoundError(f"{config.editor} needs the normaliser of all parties' features")
        normaliser.check(config.sha256, config.d_in + config.d_out)
        statistics = {}
        for layer in layers:
            features = self._own_features[layer]
            keys, gradients = normaliser.normalise(features).split([config.d_in, config.d_out])
            rate = config.hyperparameters.gradient_rate * keys.square().sum(dim=0)
            statistics[config.weight_of(layer)] = compress(
                features[: config.d_in], -rate * gradients
            )
        return statistics

    def _summands(self, delta: Delta) -> tuple[Mapping[str, Factors], int, str]:
        contribution = self.contribute(delta)
        about = contribution.metadata
        return contribution.statistics, about.edits, about.commitment

    def _require_secure(self) -> SecureParty:
        if self._secure is None:
            raise RoundError(
                "the coordinator asks for secure aggregation, but this party has no identity for it"
            )
        return self._secure

    def evaluate(self, delta: Delta) -> Evaluation:
        """Try a complete delta on the edits that it takes part with, and vote.

        Raises:
            RoundError: when the delta is from another round or incomplete, or the model is edited.
        """
        records = [self._records[index] for index in self._kept]
        return try_delta(self.model, delta, self.config, records, party=self.name)

    def announce(self) -> Contribution:
        """A contribution without statistics, for detection before anything is measured.

        Raises:
            InputError: when it has no fingerprint key.
            RequestError: when all its edits are skipped or left out.
        """
        if self._key is None:
            raise InputError("fingerprints need a key that all parties share")
        self._require_requests()
        first = self.config.pending_layers(0)
        return Contribution(self._metadata(Delta.empty(self.config), first, "float64"), {})

    @cached_property
    def _unknown(self) -> list[int]:
        """Indices of the requests that are not skipped."""
        if self._skip_known is None:
            return list(range(len(self._given)))
        self._require_unedited()  # an edited model knows the edits
        scores = score(self.model, [(r.text, r.target_new) for r in self._given])
        known = [math.exp(-each.nll) >= self._skip_known for each in scores]
        return [index for index, is_known in enumerate(known) if not is_known]

    @cached_property
    def _kept(self) -> list[int]:
        """Indices of the requests that are neither skipped nor left out."""
        if self._decision is None or self._key is None:
            return self._unknown
        fingerprints = [fingerprint(self._given[index], self._key) for index in self._unknown]
        out = left_out(fingerprints, self._decision)
        return [index for position, index in enumerate(self._unknown) if position not in out]

    def _metadata(
        self, delta: Delta, layers: tuple[int, ...], dtype: Literal["float32", "float64"]
    ) -> ContributionMetadata:
        return ContributionMetadata(
            model=self.config.model,
            model_sha256=self.config.model_sha256,
            round_sha256=self.config.sha256,
            delta_sha256=delta.sha256,
            layers=layers,
            edits=len(self.requests),
            schedule=self.config.schedule,
            contexts_sha256=self.config.contexts_sha256,
            dtype=dtype,
            party=self.name,
            commitment=self._commitment,
            skipped=self.skipped,
            fingerprints=self._fingerprints(),
            fingerprint_key_id="" if self._key is None else key_id(self._key),
        )

    @property
    def _commitment(self) -> str:
        """HMAC-SHA256 of round, name and edits; it reveals nothing without the secret."""
        edits = [(r.prompt, r.subject, r.target_new) for r in self.requests]
        bound = json.dumps([self.config.sha256, self.name, edits]).encode()
        return hmac.new(self._secret, bound, "sha256").hexdigest()

    def _fingerprints(self) -> tuple[Fingerprint, ...]:
        if self._key is None:
            return ()
        return tuple(sorted(fingerprint(request, self._key) for request in self.requests))

    def _require_unedited(self) -> None:
        try:
            check_round_model(self.config, self.model)
        except RoundError as error:
            raise RoundError(
                f"{error}; targets are found on the unedited model, so prepare() comes before any "
                "layer is merged"
            ) from None

    def _require_requests(self) -> None:
        if self.requests:
            if self.config.bounds is not None:
                self.config.bounds.check_edits(self.name or "this party", len(self.requests))
            return
        if self.left_out:
            raise RequestError(
                f"the decision leaves out all {self.left_out} edits; there is nothing to send"
            )
        raise RequestError(
            f"the model already knows all {self.skipped} edits; there is nothing to send"
        )

    def _require_statistics(self) -> None:
        rules = self.config.rules
        if not rules.has_statistics:
            raise RoundError(f"{rules.name} has no statistics to send")
        if rules.procedure is Procedure.ONE_BY_ONE and len(self.requests) > 1:
            raise RoundError(
                f"{rules.name} takes one edit at a time, but this party has {len(self.requests)}; "
                "EMMET with one layer takes them together"
            )

    def _measure(self, delta: Delta, layers: tuple[int, ...]) -> Measurement:
        key = (delta.sha256, layers)
        if key not in self._measured:
            with self.model.edited(delta.changes):
                measurement = measure(
                    self.model,
                    self.requests,
                    self.config.contexts,
                    layers,
                    self.config.layers[-1],
                    separate=self.config.separate_keys,
                )
            if self.config.schedule is not Schedule.ONE_SHOT:
                return measurement
            self._measured[key] = measurement
        return self._measured[key]

    def _check_targets(self, targets: Tensor) -> None:
        bad = (~torch.isfinite(targets)).any(dim=0).nonzero().flatten().tolist()
        if bad:
            raise RequestError(
                f"no finite target was found for case {self.requests[bad[0]].case_id}; "
                "lower target_learning_rate or clamp_factor"
            )


def checked_threshold(skip_known: float | None) -> float | None:
    """A threshold for skipping known edits, if there is one.

    Raises:
        InputError: when it is not a probability above 0.
    """
    if skip_known is not None and not 0 < skip_known <= 1:
        raise InputError(
            f"skip_known must be a probability above 0 and at most 1, found {skip_known}"
        )
    return skip_known
