"""Recognition of sketches: which are trained on, and which must be told apart afterwards."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from heads.metrics.recognition import accuracy, correct
from heads.protocols.base import Images, Parts, Protocol, ProtocolError, Score, Units, some
from heads.protocols.partition import groups, held_back, shuffled, validation_ids
from pipeline.datasets.base import Annotations, Label, normalise_category

N_FOLDS = 3
TEST_SHARE = 0.2


@dataclass(frozen=True)
class RecognitionPart:
    """Images with their categories; `classes` are those of all parts, sorted."""

    ids: tuple[str, ...]
    categories: tuple[str, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def labels(self) -> Tensor:
        """The place of each image's category in `classes`, int64 [N]."""
        label_of = {name: label for label, name in enumerate(self.classes)}
        return torch.tensor([label_of[name] for name in self.categories], dtype=torch.int64)


@dataclass(frozen=True)
class RecognitionProtocol(Protocol[RecognitionPart]):
    """Accuracy over sketches of all classes; images of unknown domain count as sketches.

    Images of one photo stay in one part.
    """

    task = "recognition"
    metrics = ("acc@1", "acc@5")

    seed: int = 0
    n_classes: int | None = None
    """Of the whole benchmark."""

    def score(self, part: RecognitionPart, scores: Tensor) -> Score:
        """Accuracy of class scores [N, C], rows in the order of the part, columns of `classes`."""
        labels = part.labels.to(scores.device)
        right = correct(scores, labels).cpu().double().numpy()
        units = Units(right, part.labels.numpy(), part.classes)
        return Score(accuracy(scores, labels), len(part), units=units)

    def chance(self, part: RecognitionPart) -> dict[str, float]:
        """k of C classes."""
        return {f"acc@{k}": min(1.0, k / len(part.classes)) for k in (1, 5)}

    def apply(self, annotations: Annotations, images: Images) -> Parts[RecognitionPart]:
        labels = {
            image_id: Label(
                normalise_category(label.category), label.domain, label.source, label.split
            )
            for image_id in sorted(images)
            if (label := annotations.labels.get(image_id))
            and label.category is not None
            and label.domain != "photo"
        }
        n_found = len({label.category for label in labels.values()})
        if n_found < 2:
            raise self._error(
                f"{len(labels)} sketches of {n_found} classes among {len(images)} images;"
                " it needs two classes or more, each a folder of sketches"
            )
        notes: list[str] = []
        part_of = self._divided(labels, notes)
        classes = {labels[name].category or "" for name, part in part_of.items() if part == "train"}
        strangers = {labels[name].category or "" for name in part_of} - classes
        if strangers:
            notes.append(f"{len(strangers)} classes without training sketches left out")
        untested = classes - {
            labels[name].category or "" for name, part in part_of.items() if part == "test"
        }
        if untested:
            notes.append(f"{len(untested)} classes without test sketches: {some(list(untested))}")
        if untested == classes:
            raise self._error(
                f"no class has sketches to train on and others to test on among {len(labels)}"
                f" of {n_found} classes; add sketches"
            )
        ordered = tuple(sorted(classes))
        train, val, test = (
            _part(labels, [name for name, its in part_of.items() if its == part], ordered)
            for part in ("train", "val", "test")
        )
        n_tested = len(classes) - len(untested)
        complete = self.n_classes in (None, n_tested)
        if not complete:
            notes.append(f"{n_tested} of {self.n_classes} classes are tested")
        return Parts(train, val, test, tuple(notes), complete)

    @abstractmethod
    def _divided(self, labels: Mapping[str, Label], notes: list[str]) -> dict[str, str]:
        """`train`, `val` or `test` of each image that is in one of them."""


@dataclass(frozen=True)
class Stratified(RecognitionProtocol):
    """By seed, a fifth of every class tests, and a tenth of the rest chooses."""

    @property
    def variants(self) -> dict[str, str]:
        return {"seed": str(self.seed)}

    def _divided(self, labels: Mapping[str, Label], notes: list[str]) -> dict[str, str]:
        group_of = groups(labels)
        strata = {group_of[name]: label.category for name, label in labels.items()}
        test = held_back(strata, TEST_SHARE, self.seed)
        return _rest_divided(labels, {name for name in labels if group_of[name] in test}, self.seed)


@dataclass(frozen=True)
class Fold(RecognitionProtocol):
    """One fold of three-fold cross-validation by seed; the result is the mean over all three."""

    fold: int = 1
    """Which third tests, from 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.fold <= N_FOLDS:
            raise ProtocolError(f"{self.name}: fold is {self.fold}; give 1 to {N_FOLDS}")

    @property
    def variants(self) -> dict[str, str]:
        return {"fold": f"{self.fold}/{N_FOLDS}", "seed": str(self.seed)}

    def differences(self, part: RecognitionPart) -> list[str]:
        return [f"published {N_FOLDS}-fold accuracies are means over folds; this is {self.fold}"]

    def _divided(self, labels: Mapping[str, Label], notes: list[str]) -> dict[str, str]:
        group_of = groups(labels)
        members: dict[str | None, set[str]] = defaultdict(set)
        for name, label in labels.items():
            members[label.category].add(group_of[name])
        test: set[str] = set()
        for names in members.values():
            test.update(shuffled(names, self.seed)[self.fold - 1 :: N_FOLDS])
        return _rest_divided(labels, {name for name in labels if group_of[name] in test}, self.seed)


@dataclass(frozen=True)
class OwnParts(RecognitionProtocol):
    """The dataset's own parts, over the classes that it has training images of."""

    @property
    def variants(self) -> dict[str, str]:
        return {}

    def _divided(self, labels: Mapping[str, Label], notes: list[str]) -> dict[str, str]:
        own = {name: label.split for name, label in labels.items() if label.split is not None}
        if not own:
            raise self._error("no sketch is in a part of its own dataset; use stratified")
        return own


def _rest_divided(labels: Mapping[str, Label], test: set[str], seed: int) -> dict[str, str]:
    rest = {name: label for name, label in labels.items() if name not in test}
    val = validation_ids(rest, seed)
    return {name: "test" if name in test else "val" if name in val else "train" for name in labels}


def _part(
    labels: Mapping[str, Label], names: list[str], classes: tuple[str, ...]
) -> RecognitionPart:
    known = set(classes)
    kept = [name for name in names if labels[name].category in known]
    return RecognitionPart(
        tuple(kept), tuple(labels[name].category or "" for name in kept), classes
    )
