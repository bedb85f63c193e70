"""Where a trainer's feature maps come from: read from stores, or computed with gradients.

    source, line = choose_source(stores, arrays, injection, load, device)
    maps = source.maps(ids)     # {"sd/t195/s3": float32 [B, C, h, w] on the device, ...}

All sources give the same thing. The live one is for training the injection, and starts where
the store has the constant part; the fine-tuned one is the baseline whose UNet learns itself.
`source.trained` is the module that learns in front of the head, if any.
"""

from heads.sources.base import FeatureSource, SourceError
from heads.sources.cached import CachedFeatures
from heads.sources.choose import choose_source
from heads.sources.finetuned import FinetunedFeatures
from heads.sources.live import LiveFeatures, LiveOptions, trained_sites

__all__ = [
    "CachedFeatures",
    "FeatureSource",
    "FinetunedFeatures",
    "LiveFeatures",
    "LiveOptions",
    "SourceError",
    "choose_source",
    "trained_sites",
]
