"""The feature store: what it is, how it is written, read and checked.

docs/store-format.md is the normative text; where the code differs, the code is wrong.
"""

from cache.describe import (
    ArrayDescription,
    StoreDescription,
    StoreListing,
    describe_store,
    list_stores,
)
from cache.errors import (
    CorruptShard,
    DamagedStore,
    NonFiniteError,
    NotAStore,
    NotCommitted,
    QuarantinedImage,
    RecipeMismatch,
    StoreError,
    UnknownImage,
)
from cache.findings import Problem
from cache.layout import ArraySpec
from cache.reader import FeatureStore
from cache.recipe import Recipe
from cache.records import ImageRecord
from cache.shardwriter import ShardWriter
from cache.verify import VerifyReport, verify_store
from cache.writer import ShardTask, StoreWriter

__all__ = [
    "ArrayDescription",
    "ArraySpec",
    "CorruptShard",
    "DamagedStore",
    "FeatureStore",
    "ImageRecord",
    "NonFiniteError",
    "NotAStore",
    "NotCommitted",
    "Problem",
    "QuarantinedImage",
    "Recipe",
    "RecipeMismatch",
    "ShardTask",
    "ShardWriter",
    "StoreDescription",
    "StoreError",
    "StoreListing",
    "StoreWriter",
    "UnknownImage",
    "VerifyReport",
    "describe_store",
    "list_stores",
    "verify_store",
]
