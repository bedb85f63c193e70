"""The keys of `train`: what stage 2 reads, what it trains, and how. Defaults are the paper's.

`configs/tasks/<task>.yaml` sets what differs from task to task.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from configs.base import Layer, Section, StorePlace, Whole, one_is_a_list_of_one

Family = Literal["sd", "clip", "clip_pooled", "dino", "dino_pooled"]
Matcher = Literal["windowed", "soft-argmax", "nearest", "released"]
Negatives = Literal["hard", "semi-hard"]
Pooling = Literal["mean", "deviation", "extremes", "joined"]
Weight = Annotated[float, Field(ge=0)]

SITES = ("down.0", "down.1", "down.2", "down.3", "up.0", "up.1", "up.2")
"""Blocks of the UNet after which CLIP may be injected, in the order they run."""
_SITE_SETS = {
    "all": SITES,
    "down": SITES[:4],
    "up": SITES[4:],
    "none": (),
}


class InjectionTraining(Section):
    """Training the CLIP-to-SD injection, which needs the UNet live."""

    sites: tuple[str, ...] = ()
    """Sites that are trained: a list, or all, down, up, none. With none the cache is read."""
    init: Literal["zero", "random"] = "zero"
    """How a site starts that `extraction.injection` does not hold: from plain SD, or as a
    convolution usually does."""
    noise: Literal["recipe", "fresh"] = "recipe"
    """The recipe's noise, or new noise at every step."""
    checkpointing: bool = False
    """Compute each block again in the backward pass instead of keeping what is inside it."""
    prefix_memory: Whole = Field(default=0, ge=0)
    """Bytes of memory for what precedes the first trained site; stored prefixes need none. A run
    resumed with it agrees to rounding, not to the bit."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Of the injection; null is `train.learning_rate`."""

    @field_validator("sites", mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if isinstance(value, str) and value in _SITE_SETS:
            return _SITE_SETS[value]
        return one_is_a_list_of_one(() if value is None else value)

    @field_validator("sites")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        strangers = [site for site in value if site not in SITES]
        if strangers:
            raise ValueError(
                f"no site {strangers[0]!r}; give all, down, up, none or some of {', '.join(SITES)}"
            )
        return tuple(site for site in SITES if site in value)


class CycleConfig(Section):
    """After live training: write the injection, precompute with it, go on with the heads."""

    epochs: Whole = Field(default=0, ge=0)
    """Epochs of the heads on the new cache; 0 leaves the cycle out."""


class CorrespondenceConfig(Section):
    """Sketch-photo correspondence."""

    temperature: float = Field(default=0.02, gt=0)
    """Of the softmax over the target's cells."""
    target_noise: float = Field(default=0.05, ge=0)
    """Deviation of the noise on training targets, as a share of the square's side."""
    matcher: Matcher = "windowed"
    """How a point is read from the correlation in evaluation. `released`: as the released code
    does, in the loss too (docs/differences.md)."""
    window: Whole = Field(default=7, ge=0)
    """Cells on either side of the maximum that `windowed` and `released` look at."""
    shuffle: bool = True
    """Take the training pairs in another order in every epoch, or as the protocol lists them."""


class StatisticsConfig(Section):
    """The statistics head (docs/pooling.md). What is null is chosen on training images."""

    pooling: Pooling | None = None
    """Statistics of a map's channels over its cells: mean, deviation, extremes (soft maximum and
    minimum), or joined (all of them)."""
    centring: Literal["none", "common", "kind"] | None = None
    """What is taken off: nothing, the mean of the training images, or that of their kind, sketch
    or photo."""
    whitening: bool | None = None
    shrinkage: float | None = Field(default=None, gt=0)
    """Of the whitening, as a share of the mean eigenvalue."""
    weights: dict[str, Weight] | None = None
    """Length of each part in the descriptor, by array or by family (`sd: 1.5`); 1 if it is not
    named, 0 to leave it out."""
    n_images: Whole = Field(default=2048, ge=16)
    """Training images on which choices are compared, at most."""

    @model_validator(mode="after")
    def _shrinks_what_is_whitened(self) -> Self:
        if self.whitening is False and self.shrinkage is not None:
            raise ValueError("shrinkage: nothing is whitened; leave it out, or set whitening=true")
        return self


class TripletConfig(Section):
    """A loss over the sketches and photos of a batch."""

    loss: Literal["triplet", "contrastive"] = "triplet"
    """A margin to the nearest wrong photo, or the cross-entropy of the right photos among all."""
    temperature: float = Field(default=0.1, gt=0)
    """Of the contrastive loss."""
    margin: float = Field(default=0.2, gt=0)
    """Cosine by which a sketch's photo must be nearer than any wrong one."""
    negatives: Negatives = "semi-hard"
    """The nearest wrong photo, or the nearest that is farther than the right one."""
    same_category: Whole = Field(default=1, ge=1)
    """How many photos of one category come together in a batch."""


class FineGrainedConfig(TripletConfig):
    """The same, with the photos that are hard to tell apart in one batch."""

    same_category: Whole = Field(default=4, ge=1)


class RecognitionConfig(Section):
    """Recognition."""

    classifier: Literal["linear", "mlp"] = "linear"
    hidden: Whole = Field(default=512, ge=1)
    """Width of the MLP's hidden layer."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class SegmentationConfig(Section):
    """Sketch-based segmentation."""

    n_threshold_pairs: Whole = Field(default=400, ge=1)
    """Training pairs on which the threshold is fixed."""


class TrainConfig(Section):
    """Stage 2."""

    caches: tuple[StorePlace, ...] = ()
    """Stores to read where no --cache is given; else those under stores/ that fit."""
    baseline_caches: tuple[StorePlace, ...] = ()
    """Stores of plain SD or of DINO, for the baselines that `caches` cannot give."""
    protocol: str | None = None
    """How results are counted; null is the usual one for the dataset (docs/protocols.md)."""
    variants: dict[str, Any] = Field(default_factory=dict)
    """The protocol's choices: ap, precision, fold, seed, unseen; lists and empty of file-lists."""

    features: tuple[Family, ...] = ("sd",)
    """Which maps are aggregated: sd (injected, where the store's are), clip, dino; and the global
    descriptors clip_pooled and dino_pooled, the same in every cell."""
    layers: tuple[Layer, ...] | None = None
    """Some of extraction.layers; null is all."""
    timesteps: tuple[Whole, ...] | None = None
    """Some of extraction.timesteps; null is all."""
    finetune: bool = False
    """Train the UNet itself instead of an injection: the baseline B-Finetuning."""
    injection: InjectionTraining = InjectionTraining()
    cycle: CycleConfig = CycleConfig()

    aggregation: Literal["bottleneck", "linear", "statistics"] = "bottleneck"
    """The paper's network, a linear probe of the concatenated maps, or statistics of the maps,
    standardised on training images and corrected by a linear map."""
    statistics: StatisticsConfig = StatisticsConfig()
    width: Whole = Field(default=1280, ge=4, le=8192, multiple_of=4)
    """Channels of the descriptors."""
    groups: Whole = Field(default=32, ge=1)
    """Of channels that are normalised together; a narrow network needs fewer."""
    grid: Whole = Field(default=60, ge=2, le=256)
    """Cells on either side of the descriptor map."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    dropout_on: Literal["maps", "grid"] = "maps"
    """Whether values are dropped from the layer maps, or from the maps resized to the grid, as in
    the released code; that costs twice the work. For `aggregation: bottleneck`."""
    dropout_epochs: Whole | None = Field(default=None, ge=0)
    """Epochs after which nothing is dropped any more; null never stops."""

    epochs: Whole = Field(default=50, ge=1)
    batch_size: Whole = Field(default=8, ge=1)
    """Pairs, or images for recognition."""
    learning_rate: float = Field(default=1.25e-3, gt=0)
    final_learning_rate: float = Field(default=1e-6, ge=0)
    """Where the cosine schedule ends."""
    cosine_steps: Whole | None = Field(default=None, ge=1)
    """Steps in which the cosine falls; after them it rises again. Null is all steps."""
    weight_decay: float = Field(default=1e-3, ge=0)
    gradient_norm: float | None = Field(default=None, gt=0)
    """Longer gradients are shortened to this; null leaves them."""
    seed: Whole = Field(default=42, ge=0)
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the head."""
    device: Literal["auto", "cpu"] = "auto"
    validate_every: Whole = Field(default=1, ge=1)
    """Epochs between validations."""
    patience: Whole | None = Field(default=None, ge=1)
    """Validations without a better result after which training stops; null never does."""
    checkpoint_minutes: float = Field(default=10.0, ge=0)
    """Between checkpoints inside a long epoch; one is written after every epoch anyway."""

    correspondence: CorrespondenceConfig = CorrespondenceConfig()
    retrieval: TripletConfig = TripletConfig()
    fine_grained: FineGrainedConfig = FineGrainedConfig()
    recognition: RecognitionConfig = RecognitionConfig()
    segmentation: SegmentationConfig = SegmentationConfig()

    _as_list = field_validator(
        "caches", "baseline_caches", "features", "layers", "timesteps", mode="before"
    )(one_is_a_list_of_one)

    @field_validator("features", "layers", "timesteps")
    @classmethod
    def _some_and_sorted(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if value is not None and not value:
            raise ValueError("is empty; give at least one, or leave the key out")
        return None if value is None else tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _dropout_has_a_grid(self) -> TrainConfig:
        if self.dropout_on == "grid" and self.aggregation != "bottleneck":
            raise ValueError(
                f"dropout_on=grid is for aggregation=bottleneck, not {self.aggregation}; "
                "set dropout_on=maps"
            )
        return self
