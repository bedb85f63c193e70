"""How results are counted: torch tensors in, fractions of 1 out, never a NaN.

`docs/protocols.md` says the same in words.
"""

from heads.metrics.correspondence import PCKScores, pck
from heads.metrics.ranking import cosine_similarity, positions, rank, rank_similarity
from heads.metrics.recognition import accuracy, confusion_matrix
from heads.metrics.retrieval import (
    InstanceScores,
    RetrievalScores,
    average_precision,
    category_scores,
    depth,
    instance_positions,
    instance_scores,
    precision_at,
)
from heads.metrics.segmentation import SegmentationMeter, SegmentationScores, iou

__all__ = [
    "InstanceScores",
    "PCKScores",
    "RetrievalScores",
    "SegmentationMeter",
    "SegmentationScores",
    "accuracy",
    "average_precision",
    "category_scores",
    "confusion_matrix",
    "cosine_similarity",
    "depth",
    "instance_positions",
    "instance_scores",
    "iou",
    "pck",
    "positions",
    "precision_at",
    "rank",
    "rank_similarity",
]
