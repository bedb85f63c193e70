"""The protocol that a dataset's results are usually counted by, where nobody names one."""

from __future__ import annotations

from collections.abc import Container, Mapping

from heads.protocols.base import Task
from pipeline.datasets.base import Dataset

_USUAL: Mapping[str, Mapping[str, str]] = {
    "shapes": {
        "correspondence": "shapes",
        "retrieval": "shapes-24-8",
        "fine_grained": "shapes-24-8",
        "recognition": "shapes",
        "segmentation": "shapes-24-8",
    },
    "shapes, second unseen set": {
        "correspondence": "shapes-24-10",
        "retrieval": "shapes-24-10",
        "fine_grained": "shapes-24-10",
        "recognition": "shapes",
        "segmentation": "shapes-24-10",
    },
    "sketchy": {
        "retrieval": "sketchy-104-21",
        "fine_grained": "sketchy-104-21",
        "segmentation": "sketchy-104-21",
    },
    "tuberlin": {"retrieval": "tuberlin-220-30", "recognition": "tuberlin-stratified"},
    "quickdraw": {"retrieval": "quickdraw-80-30", "recognition": "quickdraw-stratified"},
}
HELD_OUT_SHARE = 4
"""One category in so many is held apart where no published list applies."""


def default_protocol(task: Task, dataset: Dataset, images: Container[str]) -> str:
    """The name of the protocol; for a dataset without a usual one, a quarter of the images'
    categories is held apart, or the images are split by class."""
    usual = _USUAL.get(dataset.benchmark, {}).get(task)
    if usual is not None:
        return usual
    if task == "correspondence":
        return "psc6k-official"
    if task == "recognition":
        return "stratified"
    found: dict[str, set[str]] = {"sketch": set(), "photo": set()}
    for image_id, label in dataset.annotations.labels.items():
        if image_id in images and label.category and label.domain:
            found[label.domain].add(label.category)
    n_both = len(found["sketch"] & found["photo"])
    return f"held-out-{max(1, n_both // HELD_OUT_SHARE)}"
