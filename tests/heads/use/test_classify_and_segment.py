"""Classes and masks by a trained run are those of its task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from heads.evaluation.evaluate import reopen
from heads.tasks.base import pooled_descriptors
from heads.tasks.recognition import Recognition
from heads.tasks.segmentation import Segmentation
from heads.training.run import open_run
from heads.use import classify, load_picture, open_trained, segment
from tests.heads.use.conftest import Open
from tests.heads.worlds import World, complaint, ok


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_classes_are_those_of_the_heads_scores(
    world: World, opened: Open, pictures: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "linear":
        trained = opened("recognition")
    else:
        world.train(tmp_path / "run", "task=recognition", "train.recognition.classifier=mlp",
                    "train.recognition.hidden=12")  # fmt: skip
        trained = open_trained(tmp_path / "run")
    experiment = reopen(open_run(trained.run.folder), lambda line: None)
    task, learner = experiment.task, experiment.learner
    assert isinstance(task, Recognition)
    ids = task.parts.test.ids[:6]
    fitted = task.fit(learner.describe, learner.layers)
    scores = task.scores(pooled_descriptors(learner.describe, ids), learner.layers, fitted)
    classes = task.parts.test.classes
    for image_id, row in zip(ids, scores, strict=True):
        guess = classify(trained, pictures / image_id, k=len(classes))
        expected = dict(zip(classes, row.double().softmax(0).tolist(), strict=True))
        assert dict(guess.classes) == pytest.approx(expected, abs=1e-4)
        shares = [share for _, share in guess.classes]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    assert len(classify(trained, pictures / ids[0]).classes) == 5


def test_the_classify_command(runs: Open, pictures: Path, tmp_path: Path) -> None:
    sketches = sorted(pictures.rglob("sketch/*/*.png"))[:3]
    folder = tmp_path / "sketches"
    folder.mkdir()
    for number, path in enumerate(sketches):
        shutil.copy(path, folder / f"{number}.png")
    (folder / "bad.png").write_text("none")
    run = runs("recognition")
    result = ok("classify", run, folder, "--json")
    printed = json.loads(result.stdout)["results"]
    assert [Path(entry["sketch"]).name for entry in printed] == ["0.png", "1.png", "2.png"]
    assert "left out" in result.stderr and "bad.png" in result.stderr
    guess = classify(open_trained(run), sketches[1])
    assert printed[1]["classes"][0]["name"] == guess.classes[0][0]
    assert printed[1]["classes"][0]["probability"] == pytest.approx(guess.classes[0][1], abs=1e-6)
    lines = ok("classify", run, sketches[1]).stdout.splitlines()
    assert len(lines) == 6 and guess.classes[0][0] in lines[1]


def test_a_mask_is_the_one_that_evaluation_makes(opened: Open, pictures: Path) -> None:
    trained = opened("segmentation")
    experiment = reopen(open_run(trained.run.folder), lambda line: None)
    task, learner = experiment.task, experiment.learner
    assert isinstance(task, Segmentation)
    part = task.parts.test
    threshold = task.fit(learner.describe, learner.layers).numbers["threshold"]
    combinations = [combination[:2] for combination in part.combinations()]
    made = task._masks(part, learner.describe, threshold)
    n_compared = 0
    shares = []
    for (sketch, photo), (expected, _, _) in list(zip(combinations, made, strict=True))[::7]:
        found = segment(trained, pictures / sketch, pictures / photo)
        # A pixel that lies on the threshold to the last digit may fall on either side.
        assert (torch.from_numpy(found.found) != expected).float().mean() < 2e-3
        assert found.threshold == pytest.approx(threshold)
        assert found.share == found.found.mean()
        shares.append(found.share)
        n_compared += 1
    assert n_compared > 3 and 0 < np.mean(shares) < 1


def test_masks_have_the_photos_size_and_say_how_similar(
    opened: Open, pictures: Path, tmp_path: Path
) -> None:
    trained = opened("segmentation")
    sketch = next(pictures.rglob("sketch/*/*.png"))
    photo = Image.open(next(pictures.rglob("photo/*/*.png"))).resize((150, 70))
    found = segment(trained, sketch, photo)
    assert found.found.shape == (70, 150)
    pooled = trained.describe([load_picture(sketch)]).pooled
    spatial = trained.describe([load_picture(photo)]).spatial
    cosines = torch.einsum("bp,bphw->bhw", pooled, spatial)
    if found.mean_similarity is not None:
        assert found.threshold <= found.mean_similarity <= float(cosines.max()) + 1e-5


def test_the_segment_command_writes_masks_and_overlays(
    runs: Open, pictures: Path, tmp_path: Path
) -> None:
    sketch = next(pictures.rglob("sketch/*/*.png"))
    for name, size in (("a", (40, 90)), ("b", (64, 64))):
        path = tmp_path / "photos" / name / "same.png"
        path.parent.mkdir(parents=True)
        Image.open(next(pictures.rglob("photo/*/*.png"))).resize(size).save(path)
    out, run = tmp_path / "masks", runs("segmentation")
    result = ok("segment", run, sketch, tmp_path / "photos", "--out", out, "--json")
    printed = json.loads(result.stdout)
    assert [Path(entry["mask"]).name for entry in printed["photos"]] == [
        "same-mask.png", "same-2-mask.png",
    ]  # fmt: skip
    for entry, size in zip(printed["photos"], ((40, 90), (64, 64)), strict=True):
        mask = np.asarray(Image.open(entry["mask"]))
        assert mask.shape == size[::-1] and set(np.unique(mask)) <= {0, 255}
        assert (mask > 0).mean() == pytest.approx(entry["share"])
        assert Image.open(entry["overlay"]).width > 200
    assert not ok("segment", run, sketch, tmp_path / "photos").stderr.count("wrote")


def test_runs_of_other_tasks_and_bad_input_are_one_line(
    runs: Open, pictures: Path, tmp_path: Path
) -> None:
    picture = next(pictures.rglob("*.png"))
    run = runs("retrieval")
    assert "is a run of retrieval" in complaint("classify", run, picture)
    assert "is a run of retrieval" in complaint("segment", run, picture, picture)
    (tmp_path / "text.png").write_text("none")
    (tmp_path / "empty").mkdir()
    for run, command in ((runs("recognition"), "classify"), (runs("segmentation"), "segment")):
        first = [picture] if command == "segment" else []
        assert "not an image" in complaint(command, run, *first, tmp_path / "text.png")
        assert "no images under" in complaint(command, run, *first, tmp_path / "empty")
        assert "no such file" in complaint(command, run, *first, tmp_path / "nowhere.png")
        old = Path(shutil.copytree(run, tmp_path / command))
        (old / "fitted.json").unlink()
        line = complaint(command, old, *first, picture)
        assert f"`sketchfusion evaluate {old}` writes it" in line
