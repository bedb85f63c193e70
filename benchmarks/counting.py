"""Operations and memory counted, not timed: also of full-size networks, on torch's meta device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from configs import BackboneConfig
from heads.aggregation import AggregationNetwork
from heads.matching import correlate, sample_descriptors, soft_argmax
from pipeline.networks.backbone import Backbone, sd_and_clip
from pipeline.networks.clip import ClipVision, build_clip, clip_shapes
from pipeline.networks.injection import Injection, adder
from pipeline.networks.prefix import inject_at, next_block, pack, run_to_site, unpack
from pipeline.networks.stable_diffusion import build_architecture, sd_architecture
from pipeline.networks.unet import LAYER_SITE, Prefix, advance

LAYERS = ("s3", "s4", "s5")
N_POINTS = 8
"""Keypoints of a pair, as in PSC6K."""


def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of a function, two per multiply-add, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


class PeakMemory(TorchDispatchMode):
    """The most bytes of tensors that were made inside and alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # What was there before is not counted: views and in-place results of it come back here.
        before = {
            id(leaf.untyped_storage())
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage not in self._known and id(storage) not in before:
                    self._known.add(storage)
                    self._now += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self._now)
        return result

    def _freed(self, n_bytes: int) -> None:
        self._now -= n_bytes


@dataclass(frozen=True)
class Blueprint:
    """A backbone without numbers, what encodes its prompt, an injection at all sites, a head."""

    backbone: Backbone
    text: nn.Module
    injection: Injection
    network: AggregationNetwork

    @property
    def side(self) -> int:
        """Of the latent, in cells."""
        return self._resolution // 2 ** (len(self.backbone.vae.config.block_out_channels) - 1)

    @property
    def _resolution(self) -> int:
        return int(self.backbone.clip.visual.image_size[0])  # type: ignore[union-attr,index]

    def square(self) -> Tensor:
        """One picture, uint8 [1, 3, R, R]."""
        return torch.zeros(1, 3, self._resolution, self._resolution, dtype=torch.uint8)

    def latents(self, n: int) -> Tensor:
        """[n, 4, h, w]."""
        return torch.zeros(n, 4, self.side, self.side)

    def tokens(self, n: int) -> Tensor:
        """CLIP's token maps [n, D, h, w]."""
        return torch.zeros(n, *self.backbone.clip.tokens)

    def encode_prompt(self) -> object:
        """One pass of the text encoder."""
        return self.text(torch.zeros(1, 77, dtype=torch.long))

    def points(self) -> Tensor:
        """Keypoints [1, K, 2] of a pair."""
        return torch.zeros(1, N_POINTS, 2)

    def loss(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Something to go back from, of two descriptor maps, by the keypoints' rows only."""
        rows = correlate(sample_descriptors(sketch, self.points(), 1.0), photo)
        return soft_argmax(rows, 1.0).sum()

    def start(self, z_t: Tensor, tokens: Tensor, first: str) -> tuple[dict[str, Tensor], Prefix]:
        """The constant part of a live step: up to site `first`."""
        with torch.no_grad():
            inject = adder(self.injection.project(tokens))
            return run_to_site(
                self.backbone.unet, z_t, 0, self.backbone.null_prompt, first, LAYERS, inject
            )

    def finish(
        self, features: Mapping[str, Tensor], state: Prefix, tokens: Tensor, first: str
    ) -> dict[str, Tensor]:
        """The rest of it, with gradients: all layers, by array name."""
        unet, prompt = self.backbone.unet, self.backbone.null_prompt
        inject = adder(self.injection.project(tokens))
        latent = (self.side, self.side)
        state = unpack(unet, first, pack(unet, first, state), latent)
        state = inject_at(first, state, inject)
        found = dict(features)
        found |= {layer: state.hidden for layer in LAYERS if LAYER_SITE[layer] == first}
        later = [layer for layer in LAYERS if layer not in found]
        if later:
            found |= advance(unet, state, 0, prompt, layers=later, inject=inject)[0]
        return {f"sd/t0/{layer}": found[layer].float() for layer in LAYERS}

    def finish_checkpointed(
        self, features: Mapping[str, Tensor], state: Prefix, tokens: Tensor, first: str
    ) -> dict[str, Tensor]:
        """The same, every block computed again in the backward pass."""
        unet, prompt = self.backbone.unet, self.backbone.null_prompt
        inject = adder(self.injection.project(tokens))
        state = inject_at(first, state, inject)
        found = dict(features)
        found |= {layer: state.hidden for layer in LAYERS if LAYER_SITE[layer] == first}
        while len(found) < len(LAYERS):
            block: Callable[[], Any] = _block(unet, state, prompt, inject)
            made, state = checkpoint(block, use_reentrant=False, preserve_rng_state=False)
            found |= made
        return {f"sd/t0/{layer}": found[layer].float() for layer in LAYERS}


def _block(unet: Any, state: Prefix, prompt: Tensor, inject: Any) -> Callable[[], Any]:
    until = next_block(unet, state.site)
    return lambda: advance(unet, state, 0, prompt, layers=LAYERS, until=until, inject=inject)


def blueprint(config: BackboneConfig, width: int, grid: int) -> Blueprint:
    """A Stable Diffusion 2 backbone on the meta device, and the paper's head on its layers."""
    sd, clip = sd_and_clip(config)
    architecture = sd_architecture(sd)
    device = torch.device("meta")
    with on_meta():
        unet, vae = build_architecture(architecture)
        visual = build_clip(clip, config.resolution).visual.eval()
        for network in (unet, vae, visual):
            nn.Module.requires_grad_(network, False)
        tokens, embedding = clip_shapes(visual, config.resolution)
        vision = ClipVision(visual, tokens, embedding, (0.5,) * 3, (0.5,) * 3, "")
        prompt_width = unet.config.cross_attention_dim
        backbone = Backbone(
            unet=unet,
            vae=vae,
            clip=vision,
            alphas_cumprod=torch.zeros(1000),
            null_prompt=torch.zeros(1, architecture["prompt_tokens"], prompt_width),
            digests={},
            device=device,
            dtype=torch.float32,
        )
        # The text encoder of Stable Diffusion 2, as its published configuration describes it.
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                hidden_act="gelu",
                attn_implementation="eager",
            )
        ).eval()
        channels = backbone.channels
        injection = Injection(tokens[0], channels)
        by_layer = {f"sd/t0/{layer}": channels[LAYER_SITE[layer]] for layer in LAYERS}
        network = AggregationNetwork(by_layer, width, grid)
    return Blueprint(backbone, text, injection, network)


@contextmanager
def on_meta() -> Iterator[None]:
    """Tensors made inside have shapes and no numbers."""
    with torch.device("meta"):
        yield


def layer_maps(plan: Blueprint, n: int = 1) -> dict[str, Tensor]:
    """Maps [n, C, h, w] of the layers, by array name, as a store would give them."""
    side, found = plan.side, {}
    sides = {"s3": side, "s4": (side + 1) // 2, "s5": ((side + 1) // 2 + 1) // 2}
    for layer in LAYERS:
        channels = plan.backbone.channels[LAYER_SITE[layer]]
        found[f"sd/t0/{layer}"] = torch.zeros(n, channels, sides[layer], sides[layer])
    return found
