"""A small world for the tests of feature sources: pictures, checkpoints, injection, stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from cache import FeatureStore
from configs import BackboneConfig, ClipConfig, Config, DatasetConfig, ExtractionConfig, SDConfig
from heads.sources import FeatureSource, LiveFeatures, LiveOptions
from pipeline.networks.backbone import Backbone, load_backbone
from pipeline.networks.injection import Injection, load_injection
from pipeline.precompute import precompute
from tests import tiny

TIMESTEPS = (60, 195)
LAYERS = ("s3", "s4", "s5")
SD_ARRAYS = [f"sd/t{t}/{layer}" for t in TIMESTEPS for layer in LAYERS]
ARRAYS = [*SD_ARRAYS, "clip/tokens", "clip/pooled"]
CPU = torch.device("cpu")
PLAIN = LiveOptions()


@dataclass(frozen=True)
class World:
    """Pictures, tiny checkpoints, an injection file and float32 stores: plain and injected."""

    root: Path
    config: Config
    backbone: Backbone
    plain: FeatureStore
    injected: FeatureStore

    def injection(self, trained: Sequence[str] = tiny.SITES, path: Path | None = None) -> Injection:
        """The injection of the file, some sites of which may learn."""
        path = path or self.root / "injection.safetensors"
        module = load_injection(path, self.backbone.clip.width, self.backbone.channels)
        for site in trained:
            module[site].requires_grad_(True)
        return module

    def live(
        self,
        trained: Sequence[str] = tiny.SITES,
        options: LiveOptions = PLAIN,
        arrays: Sequence[str] = ARRAYS,
    ) -> LiveFeatures:
        """The live source on the store that was made without injection."""
        return LiveFeatures(
            [self.plain], arrays, self.backbone, self.injection(trained), options=options
        )


def stage_one(config: Config, out: Path, **changes: Any) -> FeatureStore:
    """Precompute with some keys of the extraction changed, and open the store."""
    extraction = config.extraction.model_copy(update=changes)
    precompute(config.model_copy(update={"extraction": extraction}), out)
    return FeatureStore.open(out)


def make_world(
    root: Path,
    family: tiny.Family = "sd2",
    resolution: int = 72,  # latents of 9 x 9: odd sizes on the way down
    patch_size: int = 24,
    ensemble: int = 2,
) -> World:
    """Write checkpoints, five pictures and a broken one below `root`, and two stores of them."""
    tiny.save_tiny_sd(root / "sd", family=family, layers_per_block=2)
    clip_json, clip_weights = tiny.save_tiny_clip(
        root / "clip", image_size=resolution, patch_size=patch_size
    )
    injection = tiny.save_injection(root / "injection.safetensors")
    tiny.write_images(root / "pictures", 5)
    (root / "pictures" / "broken.png").write_bytes(b"not a picture")
    config = Config(
        backbone=BackboneConfig(
            sd=SDConfig(source=str(root / "sd")),
            clip=ClipConfig(model=str(clip_json), pretrained=str(clip_weights)),
            resolution=resolution,
        ),
        dataset=DatasetConfig(name="folder", root=root / "pictures"),
        extraction=ExtractionConfig(
            timesteps=TIMESTEPS,
            ensemble=ensemble,
            seed=3,
            store_dtype="float32",
            shard_size=2,
            batch_size=4,
            workers=0,
            device="cpu",
        ),
    )
    return World(
        root,
        config,
        load_backbone(config.backbone),
        stage_one(config, root / "plain"),
        stage_one(config, root / "injected", injection=injection),
    )


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-4
) -> None:
    """The same arrays in the same order, and the same values."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=tolerance, rtol=0, msg=name)


def loss_of(maps: dict[str, Tensor]) -> Tensor:
    """A scalar that depends on every map."""
    return sum((value.square().mean() for value in maps.values()), torch.zeros(()))


def gradients(source: FeatureSource, ids: Sequence[str]) -> dict[str, Tensor | None]:
    """The gradient of `loss_of` in every parameter of what the source trains."""
    assert source.trained is not None
    source.trained.zero_grad()
    loss_of(source.maps(ids)).backward()
    return {name: p.grad for name, p in source.trained.named_parameters()}


def state_of(*models: torch.nn.Module) -> list[Tensor]:
    """Copies of everything that could change."""
    return [value.clone() for model in models for value in model.state_dict().values()]


@contextmanager
def watched_blocks(unet: UNet2DConditionModel) -> Iterator[list[str]]:
    """Names of the UNet's blocks in the order they run."""
    calls: list[str] = []
    blocks = {f"down.{i}": b for i, b in enumerate(unet.down_blocks)}
    blocks |= {"mid": unet.mid_block}
    blocks |= {f"up.{i}": b for i, b in enumerate(unet.up_blocks)}

    def note(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(name)

    handles = [b.register_forward_pre_hook(note(name)) for name, b in blocks.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
