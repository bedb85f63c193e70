"""The keys of `train`: defaults per task, paths, and errors that say which key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from configs import ConfigError, load_config, preset_names
from heads.tasks import TASKS
from heads.training.run import dump_config


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_task_has_its_defaults_and_the_file_and_set_come_after(tmp_path: Path) -> None:
    assert set(preset_names("task")) == set(TASKS)
    assert load_config("demo", ["task=correspondence"]).train.epochs == 50
    assert load_config("demo", ["task=retrieval"]).train.epochs == 20
    path = write(
        tmp_path / "c.yaml",
        "{backbone: nano, dataset: shapes, task: retrieval, train: {epochs: 3}}",
    )
    assert load_config(path).train.epochs == 3
    assert load_config(path).train.batch_size == 32
    assert load_config(path, ["train.epochs=4"]).train.epochs == 4
    assert load_config(path, ["task=segmentation"]).train.batch_size == 8
    assert load_config(path, ["train.retrieval.margin=0.3"]).train.retrieval.margin == 0.3
    assert load_config(path, ["train.retrieval={margin: 0.3}"]).train.epochs == 3


@pytest.mark.parametrize("task", [None, *TASKS])
def test_a_written_configuration_reads_back_the_same(task: str | None, tmp_path: Path) -> None:
    items = [
        "train.injection.sites=up", "train.variants.unseen=[a, b]", "train.timesteps=195",
        "dataset.also=[{name: shapes, seed: 4}]", "train.learning_rate=1e-3",
    ]  # fmt: skip
    config = load_config("demo", [*items, *([f"task={task}"] if task else [])])
    again = load_config(write(tmp_path / "config.yaml", dump_config(config)))
    assert again == config
    assert yaml.safe_load(dump_config(again)) == yaml.safe_load(dump_config(config))


def test_file_lists_are_found_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("beside/zeroshot1", "cwd/zeroshot2"):
        (tmp_path / folder).mkdir(parents=True)
    path = write(
        tmp_path / "beside" / "c.yaml",
        "{backbone: nano, dataset: {name: sketchy, root: pictures, extended: all}, "
        "train: {protocol: file-lists, variants: {lists: zeroshot1}}}",
    )
    monkeypatch.chdir(tmp_path / "cwd")
    config = load_config(path)
    assert config.train.variants == {"lists": str(tmp_path / "beside" / "zeroshot1")}
    assert config.dataset.options() == {"extended": "all"}
    # What is not there is relative to the working directory, as `--set` is; a run keeps it whole.
    config = load_config(path, ["train.variants.lists=zeroshot2"])
    assert config.train.variants == {"lists": "zeroshot2"}
    kept = load_config(write(tmp_path / "run.yaml", dump_config(config)))
    assert kept.train.variants == {"lists": str(tmp_path / "cwd" / "zeroshot2")}
    with pytest.raises(ConfigError, match=r"dataset\.extended"):
        load_config(path, ["dataset.extended=some"])


def test_stores_are_found_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plain", "dino", "pictures"):
        (tmp_path / name).mkdir()
    path = write(
        tmp_path / "c.yaml",
        "{backbone: nano, dataset: {name: shapes, also: [{name: folder, root: pictures}]}, "
        "train: {caches: plain, baseline_caches: [dino, elsewhere]}}",
    )
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    config = load_config(path)
    assert config.train.caches == (tmp_path / "plain",)
    assert config.train.baseline_caches == (tmp_path / "dino", Path("elsewhere"))
    assert config.dataset.also[0].root == tmp_path / "pictures"
    assert load_config(path, ["train.caches=[here]"]).train.caches == (Path("here"),)
    remote = load_config(path, ["train.caches=[s3://bucket/store]"])
    assert remote.train.caches == ("s3://bucket/store",)
    assert remote.model_dump(mode="json")["train"]["caches"] == ["s3://bucket/store"]


@pytest.mark.parametrize(
    ("value", "sites"),
    [
        ("all", 7), ("down", 4), ("up", 3), ("none", 0), ("null", 0), ("[]", 0), ("up.1", 1),
        ("[up.1, down.0, up.1]", 2),
    ],
)  # fmt: skip
def test_sites_by_name(value: str, sites: int) -> None:
    found = load_config("demo", [f"train.injection.sites={value}"]).train.injection.sites
    assert len(found) == sites
    if sites == 2:
        assert found == ("down.0", "up.1")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epoch=3", "did you mean train.epochs"),
        ("train.injection.site=all", "train.injection.sites"),
        ("train.injection.sites=up.9", "no site 'up.9'"),
        ("train.injection.sites=[all]", "no site 'all'"),
        ("train.injection.sites={a: 1}", "train.injection.sites"),
        ("train.injection.sites=3", "train.injection.sites"),
        ("train.injection=all", "section with keys"),
        ("train.epochs=0", "train.epochs"),
        ("train.epochs=2.5", "train.epochs"),
        ("train.batch_size=0", "train.batch_size"),
        ("train.width=30", "multiple of 4"),
        ("train.grid=1", "train.grid"),
        ("train.dropout=1", "train.dropout"),
        ("train.learning_rate=0", "train.learning_rate"),
        ("train.learning_rate=.nan", "train.learning_rate"),
        ("train.learning_rate=.inf", "train.learning_rate"),
        ("train.patience=0", "train.patience"),
        ("train.features=[]", "empty"),
        ("train.features=[sd, vit]", "'dino' or 'dino_pooled'"),
        ("train.layers=[s3, s9]", "s5"),
        ("train.variants=3", "section with keys"),
        ("train.precision=fp8", "train.precision"),
        ("train.correspondence.matcher=best", "windowed"),
        ("train.retrieval.negatives=soft", "semi-hard"),
        ("train.caches=[3]", "path"),
        ("train=3", "train"),
        ("task=retreival", "task"),
        ("task=3", "task"),
        ("task=[retrieval]", "task"),
    ],
)
def test_a_bad_key_is_named_in_one_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [override])
    assert says in str(caught.value)
    assert override.partition("=")[0] in str(caught.value)
    assert "\n" not in str(caught.value)
