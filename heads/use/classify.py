"""What a sketch shows: the likeliest classes of a recognition run."""

from __future__ import annotations

import torch

from heads.plots.records import Guess
from heads.tasks.recognition import build_classifier
from heads.use.pictures import PictureSource, load_picture
from heads.use.trained import Trained, check_task

TOP = 5


def classify(trained: Trained, sketch: PictureSource, k: int = TOP) -> Guess:
    """The k likeliest classes with their probabilities, best first; ties go by name.

    Raises UseError for a run of another task or an unusable picture, RunError where the run does
    not hold its classes.
    """
    check_task(trained.run, trained.task, "recognition")
    picture = load_picture(sketch)
    classes = trained.fitted.classes
    settings = trained.config.train
    classifier = build_classifier(settings.recognition, trained.width, len(classes))
    trained.restore(classifier, "layers")
    scores = classifier(trained.describe([picture], "sketch").pooled)[0].cpu()
    shares = torch.softmax(scores.double(), 0)
    order = shares.sort(descending=True, stable=True).indices[:k]
    return Guess(picture, tuple((classes[i], float(shares[i])) for i in order.tolist()))
