"""Prefixes: exact, as large as counted, and in a store whenever they are asked for."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from cache import FeatureStore, StoreWriter, verify_store
from configs import (
    BackboneConfig,
    ClipConfig,
    Config,
    ConfigError,
    DatasetConfig,
    ExtractionConfig,
    SDConfig,
    load_config,
)
from pipeline.cost import measure_cost
from pipeline.extraction.arrays import Geometry, array_specs, prefix_array
from pipeline.job import load_job
from pipeline.networks.backbone import Backbone
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.injection import adder, load_injection
from pipeline.networks.prefix import (
    inject_at,
    pack,
    prefix_shapes,
    run_to_site,
    site_digests,
    unpack,
)
from pipeline.networks.unet import advance, extract, site_channels
from pipeline.plan import make_plan
from pipeline.precompute import Part, precompute
from tests import tiny
from tests.support import as_module

LAYERS = ("s3", "s4", "s5")
MIB = 2**20


# The state at a site.


@pytest.fixture(scope="module", params=[("sd2", 1), ("sd2", 2), ("sd15", 2)], ids=str)
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    family, layers_per_block = request.param
    return tiny.build_tiny_unet(family=family, layers_per_block=layers_per_block)


@pytest.mark.parametrize("side", [8, 9, 7])
@pytest.mark.parametrize("site", tiny.SITES)
@torch.no_grad()
def test_starting_at_a_site_is_exact(unet: UNet2DConditionModel, site: str, side: int) -> None:
    generator = torch.Generator().manual_seed(1)
    z_t = torch.randn(2, 4, side, side, generator=generator)
    prompt = torch.randn(1, tiny.PROMPT_LENGTH, tiny.TEXT_WIDTH, generator=generator)
    tokens = torch.randn(2, 32, 5, 5, generator=generator)
    inject = adder(as_module(tiny.random_injection(), site_channels(unet)).project(tokens))
    whole = extract(unet, z_t, 195, prompt, LAYERS, inject)

    features, state = run_to_site(unet, z_t, 195, prompt, site, LAYERS, inject)
    parts = pack(unet, site, state)
    assert {name: tuple(value.shape[1:]) for name, value in parts.items()} == prefix_shapes(
        unet, side
    )[site]
    stored = {name: value.clone() for name, value in parts.items()}
    start = inject_at(site, unpack(unet, site, stored, (side, side)), inject)
    if site != "up.2":
        rest = [layer for layer in LAYERS if layer not in features]
        features |= advance(unet, start, 195, prompt, layers=rest, inject=inject)[0]
    else:
        features["s3"] = start.hidden
    if site in ("up.0", "up.1"):
        features[{"up.0": "s5", "up.1": "s4"}[site]] = start.hidden
    assert set(features) == set(whole)
    for layer, value in features.items():
        assert torch.equal(value, whole[layer]), layer


def test_the_papers_backbone_takes_the_bytes_that_are_known_of_it() -> None:
    config = load_config("demo", ["backbone=sd21-clip-l336"])
    prefixes = measure_cost(config.backbone, config.extraction).geometry.prefixes

    def mebibytes(site: str) -> float:
        return sum(2 * np.prod(shape) for shape in prefixes[site].values()) / MIB

    assert list(prefixes) == list(tiny.SITES)
    assert prefixes["down.0"] == {"hidden": (320, 21, 21)}
    assert mebibytes("down.0") == pytest.approx(0.27, abs=0.005)
    # With the last block's output counted as output and as skip it would be 2.44.
    hidden = 2 * np.prod(prefixes["down.3"]["hidden"]) / MIB
    assert mebibytes("down.3") + hidden == pytest.approx(2.44, abs=0.005)
    assert mebibytes("up.0") == pytest.approx(2.38, abs=0.005)


# The arrays.


def specs_of(geometry: Geometry, **extraction: Any) -> dict[str, str]:
    specs = array_specs(geometry, ExtractionConfig(**extraction))
    return {spec.name: spec.dtype for spec in specs if spec.name.startswith("prefix/")}


def test_arrays_are_named_by_timestep_site_and_draw() -> None:
    config = load_config("demo", ["backbone=nano"])
    geometry = measure_cost(config.backbone, config.extraction).geometry
    assert specs_of(geometry) == {}
    assert specs_of(geometry, prefix="down.0", timesteps=(5, 195), ensemble=2) == {
        f"prefix/t{t}/down0/draw{k}/hidden": "float16" for t in (5, 195) for k in (0, 1)
    }
    assert specs_of(geometry, prefix="down.1", store_dtype="float32", timesteps=(7,)) == {
        "prefix/t7/down1/draw0/hidden": "float32",
        "prefix/t7/down1/draw0/skip0": "float32",
        "prefix/t7/down1/draw0/skip1": "float32",
    }
    assert set(specs_of(geometry, prefix="up.2", store_dtype="int8").values()) == {"float16"}
    with pytest.raises(BackboneError, match=r"extraction\.prefix: this UNet has no site down\.3"):
        few = Geometry(
            geometry.latent, geometry.tokens, geometry.embedding, geometry.layers, {"down.0": {}}
        )
        specs_of(few, prefix="down.3")


@pytest.mark.parametrize("site", ["mid", "up.3", "down0", ""])
def test_only_injection_sites_have_a_prefix(site: str) -> None:
    with pytest.raises(ConfigError, match=r"extraction\.prefix"):
        load_config("demo", [f"extraction.prefix={site!r}"])


# In stores.


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("world")
    tiny.save_tiny_sd(root / "sd", layers_per_block=2)
    clip_json, clip_weights = tiny.save_tiny_clip(root / "clip", image_size=72, patch_size=24)
    tiny.save_injection(root / "injection.safetensors")
    tiny.write_images(root / "pictures", 5)
    (root / "pictures" / "broken.png").write_bytes(b"not a picture")
    return Config(
        backbone=BackboneConfig(
            sd=SDConfig(source=str(root / "sd")),
            clip=ClipConfig(model=str(clip_json), pretrained=str(clip_weights)),
            resolution=72,
        ),
        dataset=DatasetConfig(name="folder", root=root / "pictures"),
        extraction=ExtractionConfig(
            timesteps=(60, 195),
            ensemble=2,
            store_dtype="float32",
            shard_size=2,
            batch_size=3,
            workers=0,
            device="cpu",
        ),
    )


def with_(config: Config, **changes: Any) -> Config:
    """The configuration with some keys of its extraction changed."""
    extraction = config.extraction.model_copy(update=changes)
    return config.model_copy(update={"extraction": extraction})


def injection_of(config: Config) -> Path:
    return Path(config.backbone.sd.source).parent / "injection.safetensors"


def digests(store: Path, kinds: Sequence[str] = ("sd", "clip", "vae", "prefix")) -> dict[str, str]:
    """A digest of every file of every array by its path."""
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in kinds
        for path in sorted((store / kind).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that went through the VAE."""
    calls: list[int] = []
    encode = Backbone.encode_latents

    def counted(self: Backbone, squares: torch.Tensor) -> torch.Tensor:
        calls.append(len(squares))
        return encode(self, squares)

    monkeypatch.setattr(Backbone, "encode_latents", counted)
    return calls


@pytest.mark.parametrize("site", ["down.0", "down.3", "up.1"])
@pytest.mark.parametrize("injected", [False, True], ids=["plain", "injected"])
def test_a_prefix_joins_a_store_later_with_the_same_bytes(
    config: Config, tmp_path: Path, encoded: list[int], site: str, injected: bool
) -> None:
    """And the arrays beside it are those of a store without one."""
    base = with_(config, injection=injection_of(config)) if injected else config
    precompute(base, tmp_path / "grown")
    without = digests(tmp_path / "grown")
    precompute(with_(base, prefix=site), tmp_path / "whole")
    encoded.clear()
    report = precompute(with_(base, prefix=site), tmp_path / "grown")
    assert bool(encoded) == injected  # plain SD starts from the stored latents
    assert report.n_shards_pending == 0 and list(report.quarantined) == ["broken.png"]
    assert digests(tmp_path / "grown") == digests(tmp_path / "whole")
    assert digests(tmp_path / "whole", ("sd", "clip", "vae")) == without
    grown, whole = (FeatureStore.open(tmp_path / name) for name in ("grown", "whole"))
    assert grown.fingerprint == whole.fingerprint  # what is selected is not how it is computed
    assert verify_store(tmp_path / "grown").sound
    assert precompute(with_(base, prefix=site), tmp_path / "grown").n_computed == 0


def test_the_prefix_of_a_draw_is_the_unets_own_state(config: Config, tmp_path: Path) -> None:
    """Of each draw for itself: the layers are their mean, the prefixes are not averaged."""
    injected = with_(config, injection=injection_of(config), prefix="up.0", timesteps=(60,))
    precompute(injected, tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s")
    job = load_job(injected)
    backbone = job.extractor.backbone
    injection = load_injection(injection_of(config), backbone.clip.width, backbone.channels)
    image = store.images[store.ids.index("picture_001.jpg")]
    found = store.read([image.id], list(store.arrays))

    from pipeline.networks.noise import add_noise, draw_noise

    z0 = found["vae/latent"]
    inject = adder(injection.project(found["clip/tokens"]))
    parts = list(prefix_shapes(backbone.unet, 9)["up.0"])
    for draw in range(2):
        noise = draw_noise(tuple(z0.shape[1:]), 0, image.sha256, 60, draw)[None]
        z_t = add_noise(z0, noise, backbone.alphas_cumprod[60])
        with torch.no_grad():
            _, state = run_to_site(
                backbone.unet, z_t, 60, backbone.null_prompt, "up.0", inject=inject
            )
        expected = pack(backbone.unet, "up.0", state)
        assert list(expected) == parts
        for part, value in expected.items():
            ours = found[prefix_array(60, "up.0", draw, part)]
            torch.testing.assert_close(ours, value, atol=1e-5, rtol=0, msg=part)


def test_a_site_behind_the_last_layer_has_a_prefix_too(config: Config, tmp_path: Path) -> None:
    """The store's layers need not be those that live features are asked for."""
    precompute(with_(config, layers=("s5",), prefix="up.2"), tmp_path / "few")
    precompute(with_(config, prefix="up.2"), tmp_path / "all")
    assert digests(tmp_path / "few", ["prefix"]) == digests(tmp_path / "all", ["prefix"])


def test_parts_in_any_order_and_another_batch_size(config: Config, tmp_path: Path) -> None:
    asked = with_(config, prefix="down.1")
    precompute(asked, tmp_path / "whole")
    for index in (3, 1, 2):
        precompute(asked, tmp_path / "parts", Part(index, 3))
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    precompute(with_(asked, batch_size=1), tmp_path / "small")
    whole, small = (FeatureStore.open(tmp_path / name) for name in ("whole", "small"))
    ids, names = whole.readable(whole.arrays), list(whole.arrays)
    a, b = whole.read(ids, names), small.read(ids, names)
    for name in names:
        # Another batch size may take another code path of the same matrix product.
        torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=0, msg=name)


def test_growth_that_is_interrupted_goes_on(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = with_(config, prefix="down.2")
    precompute(config, tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "whole")
    precompute(asked, tmp_path / "whole")
    n_shards = 0
    shard = StoreWriter.shard

    def failing(self: StoreWriter, task: Any) -> Any:
        nonlocal n_shards
        n_shards += 1
        if n_shards > 1:
            raise KeyboardInterrupt
        return shard(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "shard", failing)
        with pytest.raises(KeyboardInterrupt):
            precompute(asked, tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s")
    assert store.committed[prefix_array(60, "down.2", 1, "hidden")].tolist() == [True] * 2 + (
        [False] * 4
    )
    assert verify_store(tmp_path / "s").sound
    precompute(asked, tmp_path / "s")
    assert digests(tmp_path / "s") == digests(tmp_path / "whole")


def test_the_plan_counts_prefixes(config: Config) -> None:
    without = make_plan(config)
    plan = make_plan(with_(config, prefix="down.0"))
    added = plan.bytes_by_array.keys() - without.bytes_by_array.keys()
    assert added == {f"prefix/t{t}/down0/draw{k}/hidden" for t in (60, 195) for k in (0, 1)}
    assert {plan.bytes_by_array[name] for name in added} == {4 * 32 * 5 * 5}
    assert plan.bytes_needed > without.bytes_needed


def test_the_store_says_what_was_injected_where(config: Config, tmp_path: Path) -> None:
    """Of the weights in the file, whatever precision they are used in."""
    backbone = load_job(config).extractor.backbone
    injection = load_injection(injection_of(config), backbone.clip.width, backbone.channels)
    half = with_(config, injection=injection_of(config), precision="bfloat16", timesteps=(60,))
    for name, asked in (("plain", config), ("half", half)):
        precompute(asked, tmp_path / name, Part(1, 3))
    plain, injected = (FeatureStore.open(tmp_path / name) for name in ("plain", "half"))
    assert plain.provenance["injection"] == {}
    assert injected.provenance["injection"] == site_digests(injection)
    assert injected.recipe.fields["injection"] == injection.digest()
    assert len(set(site_digests(injection).values())) == 7
