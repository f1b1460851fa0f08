"""The end of a round: the parties' evaluations, and their acknowledgements of the outcome."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from collabedit.errors import RoundError
from collabedit.messages.codec import SHORT, JsonMessage

__all__ = ["Evaluation", "Hits", "Kind", "Objection", "Settled"]

Kind = Literal["rewrite", "paraphrase", "neighborhood"]
#: The limits that a trial of the merged model can fail.
Objection = Literal["efficacy", "neighborhood", "perplexity"]


class Hits(BaseModel):
    """How many of a party's prompts give the expected object, before and after the round.

    Attributes:
        before: number of prompts before.
        after: number of prompts after.
        of: number of prompts.
    """

    model_config = ConfigDict(frozen=True)

    before: int = Field(default=0, ge=0)
    after: int = Field(default=0, ge=0)
    of: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if max(self.before, self.after) > self.of:
            raise ValueError("more hits than prompts")
        return self

    def __add__(self, other: Hits) -> Hits:
        return Hits(
            before=self.before + other.before, after=self.after + other.after, of=self.of + other.of
        )


class Evaluation(JsonMessage):
    """A party's trial of the merged model, which is its vote: counts and a ratio.

    Attributes:
        round_sha256: the round.
        delta_sha256: the delta that it tried.
        party: its name for itself; may be empty if the transport knows.
        hits: by kind of prompt. Empty under secure aggregation, where the number of a party's edits
            is private, and from a coordinator, which has no edits.
        perplexity: of held-out text, the ratio to that of the unedited model.
        objections: the limits of the round's gate that the trial fails; with none, it accepts.
        next_sha256: SHA-256 of each edited weight with the delta, from which the next round starts;
            over a network only.
    """

    what: ClassVar[str] = "vote"
    error: ClassVar[type[RoundError]] = RoundError
    most_bytes: ClassVar[int | None] = SHORT

    format: Literal["collabedit.evaluation"] = "collabedit.evaluation"
    version: Literal[2] = 2
    round_sha256: str
    delta_sha256: str
    party: str = ""
    hits: dict[Kind, Hits] = Field(default_factory=dict)
    perplexity: float = Field(gt=0, allow_inf_nan=False)
    objections: tuple[Objection, ...] = ()
    next_sha256: dict[str, str] = Field(default_factory=dict)

    @property
    def accepts(self) -> bool:
        """Whether it votes to keep the delta."""
        return not self.objections

    def check(self, round_sha256: str, delta_sha256: str) -> None:
        """Check that it is about a given round and its delta.

        Raises:
            RoundError: when it is not.
        """
        if self.round_sha256 != round_sha256:
            raise RoundError("it evaluated another round")
        if self.delta_sha256 != delta_sha256:
            raise RoundError("it evaluated another delta")


class Settled(JsonMessage):
    """A party's acknowledgement of the round's outcome.

    Attributes:
        round_sha256: the round.
        kept: whether it keeps the delta.
    """

    what: ClassVar[str] = "reply"
    error: ClassVar[type[RoundError]] = RoundError
    most_bytes: ClassVar[int | None] = SHORT

    format: Literal["collabedit.settled"] = "collabedit.settled"
    version: Literal[1] = 1
    round_sha256: str
    kept: bool
