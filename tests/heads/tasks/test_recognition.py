"""Recognition: the loss and the scores against scikit-learn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, pairwise_distances_argmin
from torch import nn

from heads.protocols import Parts, RecognitionPart, find_protocol
from heads.tasks import Fitted, TaskError
from heads.tasks.base import pooled_descriptors
from heads.tasks.recognition import Classifier, Recognition
from tests.heads.tasks.small import MadeUp, frame_of, generator, settings

CLASSES = ("ant", "bee", "cat", "dog")


def part(name: str, **counts: int) -> RecognitionPart:
    """Images of classes, in an order that mixes them."""
    images = [(f"{name}/{c}/{i}", c) for c, n in counts.items() for i in range(n)]
    order = torch.randperm(len(images), generator=generator(5)).tolist()
    images = [images[i] for i in order]
    return RecognitionPart(tuple(i for i, _ in images), tuple(c for _, c in images), CLASSES)


TRAIN = part("train", ant=4, bee=1, cat=6, dog=3)
TEST = part("test", ant=5, bee=7, cat=2, dog=1)
NONE = RecognitionPart((), (), CLASSES)


def task_of(train: RecognitionPart = TRAIN, **keys) -> Recognition:
    protocol = find_protocol("recognition", "stratified")
    return Recognition(
        protocol, Parts(train, NONE, TEST), frame_of({}), settings("recognition", **keys)
    )


# The classifier


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_classifier_gives_a_score_for_every_class(kind: str) -> None:
    layers = task_of(classifier=kind, hidden=7).layers(6)
    shapes = [tuple(p.shape) for p in layers.parameters()]
    expected = [(4, 6), (4,)] if kind == "linear" else [(7, 6), (7,), (4, 7), (4,)]
    assert shapes == expected
    scores = layers(torch.randn(3, 6))
    assert scores.shape == (3, 4) and scores.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layers(torch.randn(3, 6)).dtype == torch.float32


def test_a_linear_classifier_is_linear_on_standardised_descriptors() -> None:
    """However little descriptors differ, scores begin at a moderate size."""
    torch.manual_seed(0)
    wide = Classifier(512, 10)
    alike = nn.functional.normalize(1 + 0.05 * torch.randn(100, 512), dim=1)
    assert 0.2 < float(wide(alike).detach().std()) < 2
    weight, bias = (p.detach() for p in wide.layers.parameters())
    spread = (alike.var(0, unbiased=False) + wide.standardise.eps).sqrt()
    expected = (alike - alike.mean(0)) / spread @ weight.T + bias
    torch.testing.assert_close(wide(alike), expected, atol=1e-4, rtol=1e-4)


def test_one_image_is_classified_and_trained_on_by_what_is_known_of_earlier_ones() -> None:
    torch.manual_seed(0)
    classifier = Classifier(6, 3)
    for _ in range(200):
        classifier(2 + 3 * torch.randn(64, 6))
    one = torch.randn(1, 6)
    trained = classifier(one)
    trained.sum().backward()
    torch.testing.assert_close(trained, classifier.eval()(one))


def test_another_hidden_layer_bends() -> None:
    torch.manual_seed(0)
    bent = Classifier(6, 3, hidden=20)
    one, other = torch.randn(2, 1, 6)
    zero = bent(torch.zeros(1, 6))
    assert not torch.allclose(bent(one + other) - zero, bent(one) + bent(other) - 2 * zero)


# The loss


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_loss_is_scikit_learns_log_loss(kind: str) -> None:
    torch.manual_seed(0)
    task, known = task_of(classifier=kind), MadeUp(TRAIN.ids)
    layers = task.layers(6)
    batch = list(TRAIN.ids[3:12])
    located, leaves = known.located(task.images(batch))
    loss = task.loss(batch, located, layers)
    scores = layers(torch.stack([known.pooled[name] for name in batch])).detach().double()
    shares = scores.softmax(1).numpy()
    truth = [name.split("/")[1] for name in batch]
    expected = log_loss(truth, shares, labels=list(CLASSES))
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert leaves.pooled.grad is not None and leaves.pooled.grad.any(1).all()
    assert all(p.grad is not None for p in layers.parameters())


def test_label_smoothing_shares_the_truth_with_all_classes() -> None:
    task, known = task_of(label_smoothing=0.2), MadeUp(TRAIN.ids)
    layers = task.layers(6)
    batch = list(TRAIN.ids[:5])
    located, _ = known.located(batch)
    logs = layers(located.pooled(batch)).log_softmax(1).detach().numpy()
    rows = [CLASSES.index(name.split("/")[1]) for name in batch]
    truth = np.full((5, 4), 0.05)
    truth[range(5), rows] += 0.8
    loss = float(task.loss(batch, located, layers).detach())
    assert loss == pytest.approx(-(truth * logs).sum(1).mean(), abs=1e-5)


def test_every_training_image_comes_once_an_epoch() -> None:
    task = task_of(batch_size=4)
    epoch = task.batches(generator(1))
    assert [len(batch) for batch in epoch] == [4, 4, 4, 2]
    order = [name for batch in epoch for name in batch]
    assert Counter(order) == Counter(TRAIN.ids) and order != list(TRAIN.ids)
    assert task.batches(generator(1)) == epoch != task.batches(generator(2))
    assert task.images(epoch[0]) == tuple(epoch[0])


def test_without_training_images_there_is_one_line() -> None:
    with pytest.raises(TaskError, match="recognition by stratified: no training images"):
        task_of(NONE).batches(generator())


# Evaluation


def test_the_score_of_a_classifier_is_scikit_learns_accuracy() -> None:
    torch.manual_seed(1)
    task, known = task_of(), MadeUp(TEST.ids)
    layers = task.layers(6).eval()
    fitted = task.fit(known, layers)
    assert not known.asked and not fitted.tensors
    score = task.evaluate(TEST, known, layers, fitted)
    inputs = torch.stack([known.pooled[name] for name in TEST.ids])
    found = layers(inputs).argmax(1).tolist()
    assert score.metrics["acc@1"] == pytest.approx(accuracy_score(TEST.labels.tolist(), found))
    assert score.metrics["acc@5"] == 1.0 and score.n == 15
    assert known.asked == list(TEST.ids)


def test_rows_of_scores_are_the_ids_in_order() -> None:
    torch.manual_seed(1)
    task, known = task_of(), MadeUp(TEST.ids)
    layers = task.layers(6).eval()
    ids = TEST.ids[::-1]
    scores = task.scores(pooled_descriptors(known, ids), layers, Fitted())
    assert scores.shape == (15, 4) and not scores.requires_grad
    for name, row in zip(ids, scores, strict=True):
        torch.testing.assert_close(row, layers(known.pooled[name][None])[0].detach())
    untrained = task.fit(known_of_all(), None)
    means = task.scores(pooled_descriptors(known, ids), None, untrained)
    backwards = task.scores(pooled_descriptors(known, TEST.ids), None, untrained)
    assert torch.equal(means, backwards.flip(0)) and not torch.equal(means, backwards)


def known_of_all(**keys) -> MadeUp:
    return MadeUp([*TRAIN.ids, *TEST.ids], **keys)


def test_without_a_classifier_the_nearest_class_mean_is_taken() -> None:
    """Also of the class that has a single training image."""
    task, known = task_of(), known_of_all(seed=3)
    fitted = task.fit(known, None)
    assert known.asked == list(TRAIN.ids)
    score = task.evaluate(TEST, known, None, fitted)
    means = []
    for name in CLASSES:
        own = [known.pooled[i] for i in TRAIN.ids if i.split("/")[1] == name]
        means.append(nn.functional.normalize(torch.stack(own).double().mean(0), dim=0).numpy())
    # On the unit sphere the nearest mean is that of the highest cosine.
    inputs = torch.stack([known.pooled[name] for name in TEST.ids]).double().numpy()
    found = pairwise_distances_argmin(inputs, np.stack(means))
    expected = accuracy_score(TEST.labels.tolist(), found)
    assert 0 < expected < 1
    assert score.metrics["acc@1"] == pytest.approx(expected)


def test_more_images_than_go_at_once_are_all_classified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heads.tasks.recognition.CLASSIFIED_AT_ONCE", 4)
    torch.manual_seed(1)
    task, known = task_of(), MadeUp(TEST.ids)
    layers = task.layers(6).eval()
    scores = task.scores(pooled_descriptors(known, TEST.ids), layers, Fitted())
    torch.testing.assert_close(
        scores, layers(torch.stack([known.pooled[name] for name in TEST.ids])).detach()
    )


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("trained", [True, False])
def test_descriptors_that_are_all_the_same_are_scored(value: float, trained: bool) -> None:
    task, known = task_of(), known_of_all().all_the_same(value)
    layers = task.layers(6) if trained else None
    score = task.evaluate(TEST, known, layers, task.fit(known, layers))
    assert all(0 <= metric <= 1 for metric in score.metrics.values())
