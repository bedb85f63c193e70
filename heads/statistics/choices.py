"""What a statistics head chooses for each array that it reads, and how that is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from heads.statistics.moments import CENTRINGS, Centring
from heads.statistics.pooling import POOLINGS, Pooling

DEFAULT_SHRINKAGE = 0.1
_CENTRED = {"none": "not centred", "common": "centred", "kind": "centred by kind"}


class ChoiceError(ValueError):
    """Choices that no head can be made of; the message says what is wrong with them."""


@dataclass(frozen=True)
class PartChoice:
    """How one array becomes a part of the descriptor."""

    centring: Centring = "common"
    """What is taken off: nothing, the training images' mean, or that of the picture's kind."""
    shrinkage: float | None = None
    """Of the whitening; None does not whiten."""
    weight: float = 1.0
    """Length of the part in the descriptor; 0 leaves it out."""
    pooling: Pooling = "mean"
    """Statistics of a map's channels; without meaning for a global descriptor, and where cells
    are described."""

    @classmethod
    def parse(cls, document: Any) -> PartChoice:
        """What `asdict` wrote. Raises ChoiceError if it is something else."""
        try:
            choice = cls(**document)
            weight, shrinkage = float(choice.weight), choice.shrinkage
            fits = (
                choice.centring in CENTRINGS
                and choice.pooling in POOLINGS
                and math.isfinite(weight)
                and weight >= 0
                and (shrinkage is None or 0 < float(shrinkage) < math.inf)
            )
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ChoiceError(f"not the choices of a statistics head: {document!r:.80}")
        return choice


Choices = Mapping[str, PartChoice]
"""By array name."""


def choices_document(choices: Choices) -> dict[str, Any]:
    """Choices as plain JSON."""
    return {name: asdict(choice) for name, choice in choices.items()}


def parse_choices(document: Any) -> dict[str, PartChoice]:
    """What `choices_document` gave. Raises ChoiceError."""
    if not isinstance(document, dict) or not document:
        raise ChoiceError("not the choices of a statistics head: no arrays")
    return {str(name): PartChoice.parse(choice) for name, choice in document.items()}


def describe_choice(choice: PartChoice, is_map: bool) -> str:
    """One part in words, such as `extremes, centred by kind, whitened (0.1), weight 1.5`."""
    words: list[str] = [choice.pooling] if is_map else []
    words.append(_CENTRED[choice.centring])
    shrinkage = choice.shrinkage
    words.append("not whitened" if shrinkage is None else f"whitened ({shrinkage:g})")
    return ", ".join([*words, f"weight {choice.weight:g}"])
