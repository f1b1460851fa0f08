"""The start of a round over a network: the coordinator's announcement, and who joins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor
from typing_extensions import Self

from collabedit.algebra import LowRankUpdate
from collabedit.errors import RoundError
from collabedit.messages.codec import SHORT, JsonMessage, TensorMessage
from collabedit.messages.decision import Policy
from collabedit.messages.delta import low_rank_updates, packed_updates
from collabedit.messages.metadata import Header, parse_header
from collabedit.messages.round import RoundConfig

__all__ = ["Joined", "Opening"]


class _OpeningHeader(Header):
    format: Literal["collabedit.opening"] = "collabedit.opening"
    version: Literal[1] = 1
    round: dict[str, Any]
    roster: tuple[str, ...]
    policy: Policy | None = None


@dataclass(frozen=True, eq=False)
class Opening(TensorMessage):
    """A coordinator's announcement of a round.

    Attributes:
        config: the round.
        roster: names of the parties that are asked to join.
        changes: by weight name, what earlier rounds wrote into the unedited model, which this round
            starts from. The keys of those rounds stay with the coordinator.
        policy: whose edit of a shared question is kept; ``None`` if no fingerprints are compared.
    """

    what: ClassVar[str] = "opening"

    config: RoundConfig
    roster: tuple[str, ...]
    changes: Mapping[str, LowRankUpdate] = field(default_factory=dict)
    policy: Policy | None = None

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The changes of earlier rounds, and the metadata."""
        about = _OpeningHeader(
            round=self.config.model_dump(mode="json"), roster=self.roster, policy=self.policy
        )
        return packed_updates(self.changes), about.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read an announcement, trusting nothing in it.

        Raises:
            RoundError: when anything in it is malformed.
        """
        about = parse_header(_OpeningHeader, metadata, source, RoundError)
        config = parse_header(RoundConfig, about.round, source, RoundError)
        changes = low_rank_updates(tensors, source)
        if not set(changes) <= set(config.weight_names):
            raise RoundError(f"{source}: it changes weights that the round does not edit")
        for name, change in changes.items():
            if change.shape != (config.d_out, config.d_in):
                raise RoundError(f"{source}: {name} has the shape {list(change.shape)}")
        return cls(config, about.roster, changes, about.policy)


class Joined(JsonMessage):
    """A party's statement that it takes part.

    Attributes:
        round_sha256: the round.
        model_sha256: SHA-256 of each edited weight of its model at the start of the round.
        editors: names of the editors that its version supports.
    """

    what: ClassVar[str] = "reply"
    error: ClassVar[type[RoundError]] = RoundError
    most_bytes: ClassVar[int | None] = SHORT

    format: Literal["collabedit.joined"] = "collabedit.joined"
    version: Literal[1] = 1
    round_sha256: str
    model_sha256: dict[str, str]
    editors: tuple[str, ...]

    def check(self, config: RoundConfig) -> None:
        """Check that the party can take part.

        Raises:
            RoundError: when it can't.
        """
        if self.round_sha256 != config.sha256:
            raise RoundError("it joined another round")
        if config.editor not in self.editors:
            raise RoundError(
                f"its collabedit {self.collabedit} does not know the editor {config.editor}; "
                "upgrade it"
            )
        if self.model_sha256 != config.model_sha256:
            raise RoundError(
                f"its model is not the round's ({config.model}, {config.dtype}): "
                "its weights at the edited layers differ"
            )
