"""What a run says of single examples adds up to what evaluation says of all of them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from heads.explain import (
    Explained,
    ExplainError,
    Remembered,
    find,
    find_confusion,
    find_guesses,
    find_masks,
    find_matches,
    find_rankings,
)
from heads.tasks import TASKS
from tests.heads.explain.conftest import Ask, metrics, score

ALL = 10**6


def test_right_points_add_up_to_pck(ask: Ask) -> None:
    """Pictures show the way from sketch to photo."""
    explained = ask("correspondence")
    matches = find_matches(explained, ALL)
    shares = [match.right.mean() for match in matches]
    assert np.mean(shares) == pytest.approx(score(explained).beside["pck@10 sketch to photo"])
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]


def test_points_are_those_of_the_annotations_in_pixels(ask: Ask) -> None:
    explained = ask("correspondence")
    known = {(p.sketch, p.photo): p for p in explained.experiment.dataset.annotations.pairs}
    for match in find_matches(explained, 4):
        pair = known[match.sketch.name, match.photo.name]
        np.testing.assert_allclose(match.sketch_points, pair.sketch_points[pair.visible])
        np.testing.assert_allclose(match.truth, pair.photo_points[pair.visible])
        assert len(match.found) == len(match.right) == len(match.truth)
        errors = np.linalg.norm((match.found - match.truth) / match.photo.image.size, axis=1)
        np.testing.assert_array_equal(match.right, errors <= 0.1)


def test_rankings_add_up_to_mean_average_precision(ask: Ask) -> None:
    explained = ask("retrieval")
    gallery = explained.experiment.task.parts.test.gallery
    rankings = find_rankings(explained, ALL, n_hits=len(gallery))
    precisions = []
    for ranking in rankings:
        scores = [hit.score for hit in ranking.hits]
        assert scores == sorted(scores, reverse=True)
        assert {hit.photo.name for hit in ranking.hits} == set(gallery)
        # Places instead of scores: among equals the gallery's order decides.
        places = -np.arange(len(scores))
        precisions.append(average_precision_score([h.relevant for h in ranking.hits], places))
    assert np.mean(precisions) == pytest.approx(metrics(explained)["map@all"])


def test_the_own_photo_is_searched_among_those_of_its_category(ask: Ask) -> None:
    explained = ask("fine_grained")
    part = explained.experiment.task.parts.test
    rankings = find_rankings(explained, ALL)
    source = dict(zip(part.queries, part.sources, strict=True))
    category = dict(zip(part.queries, part.query_categories, strict=True))
    for ranking in rankings:
        relevant = [hit.photo.name for hit in ranking.hits if hit.relevant]
        assert relevant == [source[ranking.sketch.name]]
        photos = {hit.photo.name.split("/")[1] for hit in ranking.hits}
        assert photos == {category[ranking.sketch.name]}
    first = np.mean([ranking.hits[0].relevant for ranking in rankings])
    assert first == pytest.approx(metrics(explained)["acc@1"])


def test_masks_add_up_to_mean_iou(ask: Ask) -> None:
    explained = ask("segmentation")
    part = explained.experiment.task.parts.test
    masks = find_masks(explained, ALL, part.gallery)
    by_category: dict[str, list[float]] = defaultdict(list)
    for mask in masks:
        assert mask.found.shape == mask.truth.shape == mask.photo.image.size[::-1]
        both, either = (mask.found & mask.truth).sum(), (mask.found | mask.truth).sum()
        assert mask.iou == pytest.approx(both / either)
        by_category[mask.photo.name.split("/")[1]].append(mask.iou)
    assert len(masks) == len(list(part.combinations()))
    mean = np.mean([np.mean(values) for values in by_category.values()])
    assert mean == pytest.approx(metrics(explained)["miou"])


def test_shown_masks_are_of_different_photos(ask: Ask) -> None:
    masks = find_masks(ask("segmentation"), 5)
    assert len({mask.photo.name for mask in masks}) == 5
    for mask in masks:
        assert mask.sketch.name.split("/")[1] == mask.photo.name.split("/")[1]


def test_confusion_and_guesses_add_up_to_accuracy(ask: Ask) -> None:
    explained = ask("recognition")
    part = explained.experiment.task.parts.test
    confusion = find_confusion(explained)
    expected = metrics(explained)["acc@1"]
    assert confusion.counts.sum() == len(part)
    assert confusion.counts.trace() / len(part) == pytest.approx(expected)
    np.testing.assert_array_equal(
        confusion.counts.sum(1), np.bincount(part.labels, minlength=len(part.classes))
    )
    guesses = find_guesses(explained, ALL)
    assert {guess.sketch.name for guess in guesses} == set(part.ids)
    right = np.mean([guess.classes[0][0] == guess.truth for guess in guesses])
    assert right == pytest.approx(expected)
    for guess in guesses:
        shares = [share for _, share in guess.classes]
        assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
        assert guess.truth == guess.sketch.name.split("/")[1].replace("_", " ")


@pytest.mark.parametrize(
    ("task", "finder", "image"),
    [
        ("correspondence", find_matches, lambda found: found.photo.name),
        ("retrieval", find_rankings, lambda found: found.sketch.name),
        ("segmentation", find_masks, lambda found: found.sketch.name),
        ("recognition", find_guesses, lambda found: found.sketch.name),
    ],
)
def test_an_image_can_be_asked_for(ask: Ask, task: str, finder, image) -> None:  # type: ignore[no-untyped-def]
    explained = ask(task)
    wanted = image(finder(explained, 3)[-1])
    found = finder(explained, ALL, [wanted])
    assert found and {image(one) for one in found} == {wanted}
    with pytest.raises(ExplainError, match="not in the run's test part"):
        finder(explained, 3, ["photo/none.png"])


@pytest.mark.parametrize(
    ("finder", "what"),
    [
        (find_matches, "matches"),
        (find_masks, "masks"),
        (find_guesses, "classes"),
        (lambda explained, n: find_confusion(explained), "confusion matrix"),
    ],
)
def test_a_run_of_another_task_is_refused(ask: Ask, finder, what: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ExplainError, match=f"a run of retrieval has no {what}"):
        finder(ask("retrieval"), 3)


def test_rankings_need_a_search(ask: Ask) -> None:
    with pytest.raises(ExplainError, match="a run of recognition has no rankings"):
        find_rankings(ask("recognition"), 3)


@pytest.mark.parametrize("task", TASKS)
def test_findings_are_of_the_runs_own_kind(ask: Ask, task: str) -> None:
    found = find(ask(task), 3)
    kinds = {"correspondence": "matches", "segmentation": "masks", "recognition": "guesses"}
    own = kinds.get(task, "rankings")
    for kind in ("matches", "rankings", "masks", "guesses"):
        assert len(getattr(found, kind)) == (3 if kind == own else 0)
    assert (found.confusion is not None) == (task == "recognition")
    assert sum(found.mixing.values()) == pytest.approx(1) and found.missing is None
    names = [one.sketch.name for one in getattr(found, own)]
    assert names == [one.sketch.name for one in getattr(find(ask(task), 3), own)]


def test_pictures_that_are_gone_are_no_error(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    explained = ask("recognition")

    def gone(self: object, image_id: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", image_id)

    monkeypatch.setattr(type(explained.experiment.dataset), "read", gone)
    found = find(explained, 3)
    assert not found.guesses and found.confusion is not None
    assert found.missing is not None and "No such file" in found.missing
    assert "\n" not in found.missing


def test_what_was_described_is_not_described_again(ask: Ask) -> None:
    learner, asked = ask("retrieval").experiment.learner, []

    def describe(ids):  # type: ignore[no-untyped-def]
        asked.extend(ids)
        return learner.describe(ids)

    experiment = ask("retrieval").experiment
    remembered = Remembered(describe)
    task = experiment.task
    fitted = task.fit(remembered, learner.layers)
    task.evaluate(task.parts.test, remembered, learner.layers, fitted)
    before = len(asked)
    find_rankings(Explained(experiment, fitted, remembered), 4)
    assert before == len(task.parts.test.ids) and len(asked) == before


def test_a_linear_head_has_no_mixing_weights(world, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from heads.evaluation.evaluate import reopen
    from heads.training.run import open_run

    world.train(tmp_path / "run", "task=retrieval", "train.aggregation=linear", "train.epochs=1")
    run = open_run(tmp_path / "run")
    experiment = reopen(run, lambda line: None)
    fitted = run.read_fitted(run.weights_digest())
    explained = Explained(experiment, fitted, Remembered(experiment.learner.describe))
    with pytest.raises(ExplainError, match="no mixing weights"):
        explained.mixing()
    assert find(explained, 2).mixing == {}
