"""The same head on SD alone and on CLIP alone: what a fusion must beat."""

from __future__ import annotations

from configs import Config
from configs.train import Family

ALONE: dict[str, tuple[Family, ...]] = {
    "sd": ("sd",),
    "clip": ("clip", "clip_pooled"),
}
"""What each part reads; a head that describes cells leaves global descriptors out."""


def alone_configs(config: Config) -> dict[str, Config]:
    """The configuration with one part's features at a time, by part; nothing else differs.

    Weights of parts are chosen anew: those of the fusion say nothing about a part alone. Empty if
    the head reads only one part.
    """
    train = config.train
    parts = {family.removesuffix("_pooled") for family in train.features}
    if not set(ALONE) <= parts:
        return {}
    statistics = train.statistics.model_copy(update={"weights": None})
    pooled = any(family.endswith("_pooled") for family in train.features)
    return {
        name: config.model_copy(
            update={
                "name": f"{config.name}-{name}",
                "train": train.model_copy(
                    update={
                        "features": families if pooled else families[:1],
                        "statistics": statistics,
                    }
                ),
            }
        )
        for name, families in ALONE.items()
    }
