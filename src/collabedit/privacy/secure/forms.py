"""What is summed in an exchange: which numbers, in which form, and the exchange's identifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from collabedit.algebra import Factors, Statistics
from collabedit.algebra.sketch import OVERSAMPLING, DenseSum, SketchedSum, SumForm
from collabedit.errors import RoundError
from collabedit.files import sha256_of_json
from collabedit.messages import RoundConfig, SecureAggregation
from collabedit.messages.secure import digest_of

__all__ = ["Exchanged", "secure_of"]


def secure_of(config: RoundConfig) -> SecureAggregation:
    """A round's settings for secure aggregation.

    Raises:
        RoundError: when it has none.
    """
    if config.secure_aggregation is None:
        raise RoundError("the round file does not ask for secure aggregation")
    return config.secure_aggregation


@dataclass(frozen=True, eq=False)
class Exchanged:
    """One exchange under secure aggregation: the layers whose statistics are summed.

    Attributes:
        config: the round.
        delta_sha256: identifies what is merged so far.
        layers: the layers of the exchange.
        sketches: by weight name, ``S [d_in, m]``; none in the dense form.

    Raises:
        RoundError: when the sketches are not those that the round needs.
    """

    config: RoundConfig
    delta_sha256: str
    layers: tuple[int, ...]
    sketches: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        secure_of(self.config)  # raises if the round is a plain one
        expected = set(self.names) if self.config.sketched else set()
        if set(self.sketches) != expected:
            raise RoundError(f"the request must hold sketches of exactly {sorted(expected)}")
        shape = (self.config.d_in, self.config.summed_directions + OVERSAMPLING)
        for name, sketch in self.sketches.items():
            if tuple(sketch.shape) != shape:
                raise RoundError(
                    f"the sketch of {name} is {list(sketch.shape)}; the round agreed on "
                    f"{list(shape)}"
                )

    @property
    def names(self) -> list[str]:
        """Names of the weights, lowest layer first."""
        return [self.config.weight_of(layer) for layer in self.layers]

    @cached_property
    def sha256(self) -> str:
        """Identifies the exchange: the round, its state, the layers and the sketches."""
        sketches = {name: digest_of(sketch) for name, sketch in self.sketches.items()}
        return sha256_of_json([self.config.sha256, self.delta_sha256, list(self.layers), sketches])

    @cached_property
    def forms(self) -> Mapping[str, SumForm]:
        """The form of the sum by weight name."""
        config, most = self.config, self.config.summed_directions
        if not self.sketches:
            return {name: DenseSum(config.d_in, config.d_out) for name in self.names}
        return {name: SketchedSum(self.sketches[name], config.d_out, most) for name in self.names}

    @property
    def length(self) -> int:
        """How many numbers a party adds: those of all weights, and its number of edits."""
        return sum(form.length for form in self.forms.values()) + 1

    def pack(self, statistics: Mapping[str, Factors], edits: int) -> Tensor:
        """A party's numbers, ``[length]``, float64."""
        numbers = torch.empty(self.length, dtype=torch.float64)
        lengths = [form.length for form in self.forms.values()]
        *parts, count = numbers.split([*lengths, 1])
        for (name, form), part in zip(self.forms.items(), parts, strict=True):
            part.copy_(form.pack(statistics[name]))
        count.fill_(float(edits))
        return numbers

    def unpack(self, total: Tensor) -> tuple[dict[str, Statistics], int]:
        """The pooled statistics by weight name and the number of all edits, from a total.

        Raises:
            RoundError: when the sum has more edits than the round allows, or none.
        """
        edits, most = float(total[-1]), secure_of(self.config).max_edits
        if not 1 <= edits <= most or edits != int(edits):
            raise RoundError(
                f"the sum claims {edits:.15g} edits, but the round allows 1 to {most}; nothing was "
                "merged. Start a round with a higher --max-edits, or ask the parties how many "
                "edits they hold"
            )
        parts = total[:-1].split([form.length for form in self.forms.values()])
        summed = {
            name: form.unpack(part)
            for (name, form), part in zip(self.forms.items(), parts, strict=True)
        }
        return summed, int(edits)
