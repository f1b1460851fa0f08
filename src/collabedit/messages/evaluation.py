"""How a round over a network ends: what the parties measured, and that they heard the outcome."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from collabedit.errors import RoundError
from collabedit.messages.codec import JsonMessage

__all__ = ["Evaluation", "Hits", "Settled"]

Kind = Literal["rewrite", "paraphrase", "neighborhood"]


class Hits(BaseModel):
    """How many of a party's prompts the model takes as it should, before and after the round.

    Attributes:
        before: number of prompts before.
        after: number of prompts after.
        of: number of prompts.
    """

    model_config = ConfigDict(frozen=True)

    before: int = Field(ge=0)
    after: int = Field(ge=0)
    of: int = Field(ge=0)

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
    """What a party measured of the merged model: counts of hits, and nothing about an edit.

    Attributes:
        round_sha256: the round.
        delta_sha256: the delta that it tried.
        hits: by kind of prompt.
        next_sha256: SHA-256 of each edited weight with the delta, where the next round begins.
    """

    what: ClassVar[str] = "reply"
    error: ClassVar[type[RoundError]] = RoundError

    format: Literal["collabedit.evaluation"] = "collabedit.evaluation"
    version: Literal[1] = 1
    round_sha256: str
    delta_sha256: str
    hits: dict[Kind, Hits]
    next_sha256: dict[str, str]


class Settled(JsonMessage):
    """A party's word that it knows how the round ended.

    Attributes:
        round_sha256: the round.
        kept: whether it keeps the delta.
    """

    what: ClassVar[str] = "reply"
    error: ClassVar[type[RoundError]] = RoundError

    format: Literal["collabedit.settled"] = "collabedit.settled"
    version: Literal[1] = 1
    round_sha256: str
    kept: bool
