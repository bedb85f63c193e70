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
from cache.mend import MendReport, StoreMender
from cache.places import local_path, store_path
from cache.prune import (
    PrunePlan,
    plan_arrays,
    plan_temporaries,
    prune_arrays,
    prune_temporaries,
)
from cache.reader import FeatureStore
from cache.recipe import Recipe
from cache.records import ImageRecord
from cache.remote import RemotePath, StorePath
from cache.restore import Origin, restore_documents, stored_features
from cache.shardwriter import ShardWriter
from cache.verify import VerifyReport, verify_store
from cache.writer import ShardTask, StoreWriter, TaskWriter

__all__ = [
    "ArrayDescription",
    "ArraySpec",
    "CorruptShard",
    "DamagedStore",
    "FeatureStore",
    "ImageRecord",
    "MendReport",
    "NonFiniteError",
    "NotAStore",
    "NotCommitted",
    "Origin",
    "Problem",
    "PrunePlan",
    "QuarantinedImage",
    "Recipe",
    "RecipeMismatch",
    "RemotePath",
    "ShardTask",
    "ShardWriter",
    "StoreDescription",
    "StoreError",
    "StoreListing",
    "StoreMender",
    "StorePath",
    "StoreWriter",
    "TaskWriter",
    "UnknownImage",
    "VerifyReport",
    "describe_store",
    "list_stores",
    "local_path",
    "plan_arrays",
    "plan_temporaries",
    "prune_arrays",
    "prune_temporaries",
    "restore_documents",
    "store_path",
    "stored_features",
    "verify_store",
]
