"""Every key a configuration may have, its type, its default and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Layer = Literal["s3", "s4", "s5"]
Precision = Literal["float32", "bfloat16", "float16"]
StoreDtype = Literal["float32", "float16", "int8"]
Pad = Literal["edge", "black", "white", "stretch"]
TaskName = Literal["correspondence", "retrieval", "fine_grained", "recognition", "segmentation"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Whole = Annotated[int, Field(strict=True)]
"""A whole number; `true` and `yes` are none."""


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError("is empty; give a path, or null for none")
    return value


FilePath = Annotated[Path, BeforeValidator(_not_empty)]


class SDConfig(_Section):
    """Where Stable Diffusion comes from."""

    source: str
    """A local diffusers folder, a hub id, or the name of a built-in architecture."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null takes the default branch."""


class ClipConfig(_Section):
    """Where CLIP's visual tower comes from."""

    model: str
    """An open_clip model name, or the path of an open_clip JSON model configuration."""
    pretrained: str | None = None
    """An open_clip tag, or the path of a local weights file; unused with `weights: random`."""


class BackboneConfig(_Section):
    """The two frozen networks and the side of the square they look at."""

    name: str | None = None
    sd: SDConfig
    clip: ClipConfig
    resolution: Whole = Field(ge=16, le=4096)
    """Side in pixels of the square that both networks are given."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random`: the same architecture with seeded random weights, without a download."""


class DatasetConfig(_Section):
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
    masks: FilePath | None = None
    """`sketchy`: a folder of foreground masks."""

    def options(self) -> dict[str, Any]:
        """The keys that were given and that only some datasets understand."""
        values = {key: getattr(self, key) for key in ("size", "seed", "pixels", "masks")}
        return {key: value for key, value in values.items() if value is not None}


class ExtractionConfig(_Section):
    """What stage 1 computes, and how. Only the first group of keys changes a number."""

    timesteps: tuple[Whole, ...] = (195,)
    """Diffusion timesteps, each an array of its own in the store."""
    layers: tuple[Layer, ...] = ("s3", "s4", "s5")
    """Outputs of up blocks 2, 1 and 0, after injection."""
    ensemble: Whole = Field(default=1, ge=1, le=1024)
    """Noise draws per image and timestep, averaged in float32."""
    seed: Whole = Field(default=0, ge=0)
    """Seed of the noise."""
    injection: FilePath | None = None
    """A safetensors file of injection convolutions; null is plain SD."""
    pad: Pad = "edge"
    """How an image that is not square is made square; `stretch` distorts it."""
    precision: Precision = "float32"
    """Type the networks compute in."""
    store_dtype: StoreDtype = "float16"
    """Type of feature maps on disk; latents and descriptors are always float32."""

    batch_size: Whole | Literal["auto"] = "auto"
    """Images (times noise draws) in one pass of the UNet."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    workers: Whole | Literal["auto"] = "auto"
    """Processes that decode and resize images; 0 does it in the main process."""
    shard_size: Whole = Field(default=64, ge=1, le=4096)
    """Images per shard of a new store; an existing store keeps its own."""

    @field_validator("timesteps", "layers", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | str) else value

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


class Config(_Section):
    """A whole configuration file."""

    name: str = "sketchfusion"
    backbone: BackboneConfig
    dataset: DatasetConfig
    extraction: ExtractionConfig = ExtractionConfig()
    task: TaskName | None = None
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings of stage 2; stage 1 does not read them."""
