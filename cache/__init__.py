"""The feature store: what it is, how it is written, read and checked.

`format/` says what a store is and `storage/` where its files lie; on them stand `writing/`,
`reading/`, `checking/`, `exchange/` and `insight/`. Users import from here.

docs/store-format.md is the normative text; where the code differs, the code is wrong.
"""

from cache.checking.findings import Problem
from cache.checking.mend import MendReport, StoreMender
from cache.checking.restore import Origin, restore_documents, stored_features
from cache.checking.verify import VerifyReport, verify_store
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
from cache.format.layout import ArraySpec
from cache.format.recipe import Recipe
from cache.format.records import ImageRecord
from cache.insight.describe import (
    ArrayDescription,
    StoreDescription,
    StoreListing,
    describe_store,
    list_stores,
)
from cache.reading.reader import FeatureStore
from cache.storage.files import Claim
from cache.storage.hashindex import HashIndex
from cache.storage.places import local_path, store_path
from cache.storage.remote import RemotePath, StorePath
from cache.writing.prune import (
    PrunePlan,
    plan_arrays,
    plan_temporaries,
    prune_arrays,
    prune_temporaries,
)
from cache.writing.shardwriter import ShardWriter
from cache.writing.writer import ShardTask, StoreWriter, TaskWriter

__all__ = [
    "ArrayDescription",
    "ArraySpec",
    "Claim",
    "CorruptShard",
    "DamagedStore",
    "FeatureStore",
    "HashIndex",
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
