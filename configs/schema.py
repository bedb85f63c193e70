"""Every key a configuration may have, its type, its default and what it means."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.base import FilePath, InjectionPlace, Layer, Section, Whole, one_is_a_list_of_one
from configs.train import TrainConfig

Precision = Literal["float32", "bfloat16", "float16"]
StoreDtype = Literal["float32", "float16", "int8"]
Pad = Literal["edge", "black", "white", "stretch"]
ClipInput = Literal["square", "centre-crop"]
Latent = Literal["mean", "sample"]
VaePixels = Literal["signed", "bytes"]
Site = Literal["down.0", "down.1", "down.2", "down.3", "up.0", "up.1", "up.2"]
TaskName = Literal["correspondence", "retrieval", "fine_grained", "recognition", "segmentation"]


class SDConfig(Section):
    """Where Stable Diffusion comes from."""

    source: str
    """A local diffusers folder or single-file checkpoint (safetensors), a hub id, or the name of a
    built-in architecture."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null takes the default branch."""


class ClipConfig(Section):
    """Where CLIP's visual tower comes from."""

    model: str
    """An open_clip model name (`hf-hub:OWNER/NAME` and `local-dir:FOLDER` too), or the path of an
    open_clip JSON model configuration."""
    pretrained: str | None = None
    """An open_clip tag, or the path of a local weights file; null takes the weights of an `hf-hub:`
    or `local-dir:` model. Unused with `weights: random`."""


class TimmConfig(Section):
    """A vision transformer of timm, for baselines such as DINO."""

    model: str
    """A timm model name, with or without a tag, or the path of a timm JSON configuration."""
    pretrained: FilePath | None = None
    """A local safetensors file; null takes timm's weights for this name from the hub."""


class BackboneConfig(Section):
    """The frozen networks and the side of the square they look at: `sd` and `clip`, or `timm`."""

    name: str | None = None
    sd: SDConfig | None = None
    clip: ClipConfig | None = None
    timm: TimmConfig | None = None
    resolution: Whole = Field(ge=16, le=4096)
    """Side in pixels of the square that every network is given."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random`: the same architecture with seeded random weights, without a download."""

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> BackboneConfig:
        if self.timm is not None and (self.sd is not None or self.clip is not None):
            raise ValueError("give either sd and clip, or timm, not both")
        if self.timm is None and (self.sd is None or self.clip is None):
            missing = "clip" if self.sd else "sd" if self.clip else None
            raise ValueError(
                f"{missing} is missing: sd and clip go together"
                if missing
                else "give either sd and clip, or timm"
            )
        return self

    @property
    def label(self) -> str:
        """What to call it where people read."""
        return self.name or (self.timm.model if self.timm else self.sd.source if self.sd else "")


_DATASET_OPTIONS = ("size", "seed", "pixels", "unseen", "masks", "extended", "rendering")


class DatasetConfig(Section):
    """Which images."""

    name: str
    """shapes, folder, sketchy, tuberlin, quickdraw or psc6k."""
    root: FilePath | None = None
    limit: Whole | None = Field(default=None, ge=1)
    """Take at most this many images, chosen the same way every time."""
    size: Whole | None = Field(default=None, ge=1)
    """`shapes`: how many images the world has."""
    seed: Whole | None = Field(default=None, ge=0)
    """`shapes`: which world."""
    pixels: Whole | None = Field(default=None, ge=16, le=2048)
    """`shapes`: side of an image in pixels."""
    unseen: Literal["first", "second"] | None = None
    """`shapes`: which categories are kept for testing; null is `first`."""
    masks: FilePath | None = None
    """`sketchy`: a folder of foreground masks."""
    extended: Literal["distinct", "all"] | None = None
    """`sketchy`: `all` keeps extended photos that are also under photo/; null is `distinct`."""
    rendering: tuple[str, ...] = ()
    """`folder`, `sketchy`, `tuberlin`, `quickdraw`: names of folders or file types (`png`), to be
    read where the same images lie in several; none takes the first by name."""
    also: tuple[DatasetConfig, ...] = ()
    """Further datasets, each a mapping like this one, read as if they were part of it."""

    def options(self) -> dict[str, Any]:
        """The keys that were given and that only some datasets understand."""
        values = {key: getattr(self, key) for key in _DATASET_OPTIONS}
        return {key: value for key, value in values.items() if value not in (None, ())}

    _as_list = field_validator("rendering", mode="before")(one_is_a_list_of_one)


class ExtractionConfig(Section):
    """What stage 1 computes, and how. Only the first group of keys changes a number."""

    timesteps: tuple[Whole, ...] = (195,)
    """Diffusion timesteps, each an array of its own in the store."""
    layers: tuple[Layer, ...] = ("s3", "s4", "s5")
    """Outputs of up blocks 2, 1 and 0, after injection."""
    prefix: Site | None = None
    """Store also what precedes this injection site, the first that will be trained; null: don't."""
    ensemble: Whole = Field(default=1, ge=1, le=1024)
    """Noise draws per image and timestep, averaged in float32."""
    seed: Whole = Field(default=0, ge=0)
    """Seed of the noise."""
    injection: InjectionPlace | None = None
    """A safetensors file of injection convolutions; `random`: untrained ones at every site, as
    torch initialises them, seeded by `seed`; null is plain SD."""
    pad: Pad = "edge"
    """How an image that is not square is made square; `stretch` distorts it."""
    clip_input: ClipInput = "square"
    """What CLIP sees: the same square as SD, or its own bicubic resize and centre crop, which on
    an image that is not square neither shows all of it nor lines up with SD's maps."""
    latent: Latent = "mean"
    """The VAE posterior's mean, or a seeded sample of it for every noise draw. A store of samples
    cannot be trained live from."""
    vae_pixels: VaePixels = "signed"
    """Range in which pixels enter the VAE: -1 to 1, as it was trained, or 0 to 255."""
    precision: Precision = "float32"
    """Type the networks compute in."""
    store_dtype: StoreDtype = "float16"
    """Type of feature maps on disk; latents and descriptors are always float32."""

    batch_size: Whole | Literal["auto"] = "auto"
    """Images (times noise draws) in one pass of the UNet."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    compile: bool = False
    """Run the networks through torch.compile: minutes at the start, less time an image after."""
    channels_last: bool = False
    """Keep the maps of the VAE and the UNet with channels last in memory: on some cards faster."""
    workers: Whole | Literal["auto"] = "auto"
    """Processes (in a dask worker: threads) that decode images; 0 does it in the main process, as
    auto does on a CPU whose cores the networks use."""
    shard_size: Whole = Field(default=64, ge=1, le=4096)
    """Images per shard of a new store; an existing store keeps its own."""

    _as_list = field_validator("timesteps", "layers", mode="before")(one_is_a_list_of_one)

    @field_validator("timesteps")
    @classmethod
    def _timesteps_are_valid(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 0:
            raise ValueError("give at least one timestep, none of them negative")
        return tuple(sorted(set(value)))

    @field_validator("layers")
    @classmethod
    def _layers_are_valid(cls, value: tuple[Layer, ...]) -> tuple[Layer, ...]:
        if not value:
            raise ValueError("give at least one of s3, s4, s5")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _prefixes_are_of_means(self) -> ExtractionConfig:
        if self.prefix is not None and self.latent == "sample":
            raise ValueError(
                "prefix is for live training, which latent=sample rules out; set prefix=null or "
                "latent=mean"
            )
        return self

    @field_validator("batch_size")
    @classmethod
    def _batch_size_is_positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value

    @field_validator("workers")
    @classmethod
    def _workers_is_not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("must be 0 or more, or auto")
        return value


class Config(Section):
    """A whole configuration file."""

    name: str = "sketchfusion"
    """What to call it: a run without another place is written to `runs/<name>-<task>`."""
    backbone: BackboneConfig
    dataset: DatasetConfig
    extraction: ExtractionConfig = ExtractionConfig()
    task: TaskName | None = None
    train: TrainConfig = TrainConfig()
    """Settings of stage 2; stage 1 does not read them."""

    @field_validator("name")
    @classmethod
    def _name_is_no_path(cls, value: str) -> str:
        if "/" in value or "\\" in value or not 0 < len(value.encode()) <= 100:
            raise ValueError("must be a short name without slashes, it becomes a folder's name")
        return value
