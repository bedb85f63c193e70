"""Where a trainer's feature maps come from: read from stores, or computed with gradients.

    source, line = choose_source(stores, arrays, injection, load, device)
    maps = source.maps(ids)     # {"sd/t195/s3": float32 [B, C, h, w] on the device, ...}

Both sources give the same thing. The live one is for training the injection, the only part in
front of the features that learns.
"""

from heads.sources.base import FeatureSource
from heads.sources.cached import CachedFeatures
from heads.sources.choose import choose_source
from heads.sources.live import LiveFeatures, LiveOptions, SourceError, trained_sites

__all__ = [
    "CachedFeatures",
    "FeatureSource",
    "LiveFeatures",
    "LiveOptions",
    "SourceError",
    "choose_source",
    "trained_sites",
]
