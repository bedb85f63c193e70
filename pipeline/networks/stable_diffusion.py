"""Frozen Stable Diffusion: VAE encoder, UNet, noise schedule and the empty prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file
from torch import Tensor

from configs import SDConfig, preset_names, preset_text
from pipeline.networks.architecture import check_fits, check_numbers
from pipeline.networks.checkpoints import (
    SD_COMPONENTS,
    BackboneError,
    check_safetensors,
    check_safetensors_file,
    one_line,
    read_json,
    sd_folder,
)
from pipeline.networks.digest import digest_tensors, digest_values, hash_tensors
from pipeline.networks.older_digests import (
    older_model_digest,
    older_prompt_digests,
    older_schedule_digests,
)
from pipeline.networks.settings import (
    scheduler_settings,
    text_settings,
    unet_settings,
    vae_settings,
)
from pipeline.networks.single_file import (
    NOT_SD,
    USE_FOLDER,
    read_single_file,
    read_text_encoder,
    single_file,
    single_file_architecture,
)
from pipeline.networks.unet import UnsupportedUNet, check_unet, extract

RANDOM_SEED = 0
"""Seed of `weights: random`: the same random networks for everybody."""

_NETWORKS = ("unet", "vae")

_UNET_PARTS = ("conv_in", "time_embedding", "down_blocks", "mid_block", "up_blocks")
"""What of the UNet runs, its last up block excepted."""


@dataclass(frozen=True)
class StableDiffusion:
    """The frozen parts stage 1 uses, float32 on the CPU, without the VAE's decoder.

    `alphas_cumprod` is float32 [T], `null_prompt` float32 [1, L, D]; `digests` names what the
    features depend on: `unet`, `vae`, `null_prompt`, `scheduler`. `aliases` are the digests that
    older stores may hold in place of these, by name.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    alphas_cumprod: Tensor
    null_prompt: Tensor
    digests: Mapping[str, str]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Prompt:
    """The empty prompt's embedding [1, L, D], its digest, and those that older stores may hold."""

    embedding: Tensor
    digest: str
    aliases: tuple[str, ...] = ()


def load_stable_diffusion(config: SDConfig) -> StableDiffusion:
    """Load a checkpoint from a local diffusers folder or single file, or the hub; safetensors only.

    Raises BackboneError for anything missing, truncated, pickled or mismatched.
    """
    if (file := single_file(config.source)) is not None:
        return _load_single_file(file)
    folder = sd_folder(config.source, config.revision)
    architecture = _read_architecture(folder)
    variants = {name: check_safetensors(folder / name, SD_COMPONENTS[name]) for name in _NETWORKS}
    unet = _load_component(UNet2DConditionModel, folder / "unet", variants["unet"])
    vae = _load_component(AutoencoderKL, folder / "vae", variants["vae"])
    prompt = _null_prompt(folder, unet.config.cross_attention_dim)
    return _assemble(unet, vae, architecture, prompt, str(folder))


def _load_single_file(file: Path) -> StableDiffusion:
    architecture = single_file_architecture(file)
    _check_runs(json.dumps(architecture, sort_keys=True), file)
    states = read_single_file(file, architecture)
    with torch.device("meta"):
        unet, vae = build_architecture(architecture)
    try:
        unet.load_state_dict(states["unet"], assign=True)
        vae.load_state_dict(states["vae"], assign=True)
    except Exception as error:
        # diffusers' converters leave what they do not know, in whatever shape.
        raise BackboneError(f"{file}: {NOT_SD} ({one_line(error)}); {USE_FOLDER}") from None
    encoder, tokens, config = read_text_encoder(file)
    embedding = encoder(tokens).last_hidden_state
    prompt = _Prompt(embedding, *_prompt_digests(encoder, tokens, None, config))
    return _assemble(unet, vae, architecture, prompt, str(file))


def random_stable_diffusion(config: SDConfig) -> StableDiffusion:
    """The same architecture with seeded random weights and a random prompt, nothing downloaded."""
    architecture = sd_architecture(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        unet, vae = build_architecture(architecture)
        shape = (1, architecture["prompt_tokens"], unet.config.cross_attention_dim)
        null_prompt = torch.randn(shape)
    prompt = _Prompt(null_prompt, digest_tensors({"embedding": null_prompt}))
    return _assemble(unet, vae, architecture, prompt, config.source)


def sd_architecture(config: SDConfig) -> dict[str, Any]:
    """The `unet`, `vae` and `scheduler` configurations of a source, without its weights."""
    names = preset_names("architecture")
    for name in names:
        architecture = yaml.safe_load(preset_text(f"architectures/{name}.yaml"))
        if config.source == name or config.source in architecture["hub_ids"]:
            return architecture
    if (file := single_file(config.source)) is not None:
        return single_file_architecture(file)
    folder = Path(config.source).expanduser()
    if folder.is_dir():
        return {**_read_architecture(folder), "prompt_tokens": 77}
    raise BackboneError(
        f"{config.source}: its architecture is not built in (known: {', '.join(names)}); "
        "give a local folder with unet/config.json and vae/config.json, or a single-file checkpoint"
    )


def build_architecture(
    architecture: Mapping[str, Any],
) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """UNet and VAE from their configurations, with whatever weights they initialise to.

    Raises BackboneError for a configuration that makes no network.
    """
    part = "unet"
    try:
        unet = UNet2DConditionModel.from_config(architecture["unet"])
        part = "vae"
        return unet, AutoencoderKL.from_config(architecture["vae"])
    except Exception as error:
        # diffusers has no error of its own for a configuration it cannot build.
        raise BackboneError(
            f"{part}: diffusers cannot build it ({one_line(error)}); use the configuration that "
            "belongs to the weights"
        ) from None


def _read_architecture(folder: Path) -> dict[str, Any]:
    files = {
        "unet": folder / "unet" / "config.json",
        "vae": folder / "vae" / "config.json",
        "scheduler": folder / "scheduler" / "scheduler_config.json",
    }
    architecture = {part: _read_config(file) for part, file in files.items()}
    _check_runs(json.dumps(architecture, sort_keys=True), folder)
    return architecture


@lru_cache(maxsize=8)
@torch.no_grad()
def _check_runs(text: str, folder: Path) -> None:
    """Raise BackboneError for networks that are too large or do not run.

    They are tried on torch's `meta` device, on a square of 64 pixels, where they cost little: a
    configuration that fits the weights may still say something that fails only when it is used.
    `text` is the architecture as JSON, so that the same one is tried once.
    """
    architecture = json.loads(text)
    with torch.device("meta"):
        unet, vae = build_architecture(architecture)
        for part, model in (("unet", unet), ("vae", vae)):
            check_fits(model, str(folder / part / "config.json"))
        try:
            check_unet(unet)
            latent = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
            prompt = torch.zeros(1, 1, unet.config.cross_attention_dim)
            noisy = latent.new_zeros(1, unet.config.in_channels, *latent.shape[-2:])
            extract(unet, noisy, 0, prompt, ["s3", "s4", "s5"], None)
        except UnsupportedUNet as error:
            raise BackboneError(f"{folder}: this UNet is not supported: {error}") from None
        except Exception as error:
            # Whatever a module makes of a setting that nobody has tried.
            raise BackboneError(
                f"{folder}: its configuration makes no network that runs ({one_line(error)}); "
                "use the one that belongs to the weights"
            ) from None


def _read_config(file: Path) -> dict[str, Any]:
    """A component's configuration. Raises BackboneError for one that no network has."""
    config = read_json(file)
    check_numbers(config, str(file))
    if "quantization_config" in config:
        raise BackboneError(f"{file}: asks for quantised weights; use the full-precision ones")
    return config


def _alphas_cumprod(config: Mapping[str, Any], source: str) -> Tensor:
    """The schedule's cumulative alphas, float32 [T]."""
    try:
        alphas = DDPMScheduler.from_config(config).alphas_cumprod.float()
        if not ((alphas > 0) & (alphas <= 1)).all():
            raise ValueError("its cumulative alphas leave the range from 0 to 1")
        return alphas
    except Exception as error:
        # Whatever diffusers makes of a schedule it cannot build.
        raise BackboneError(
            f"{source}: unusable scheduler_config.json ({one_line(error)})"
        ) from None


def _assemble(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    architecture: Mapping[str, Any],
    prompt: _Prompt,
    source: str,
) -> StableDiffusion:
    null_prompt = prompt.embedding
    alphas = _alphas_cumprod(architecture["scheduler"], source)
    scaling = vae.config.scaling_factor
    if isinstance(scaling, bool) or not isinstance(scaling, int | float):
        raise BackboneError(f"{source}: vae/config.json: scaling_factor is not a number")
    try:
        check_unet(unet)
    except UnsupportedUNet as error:
        raise BackboneError(f"{source}: this UNet is not supported: {error}") from None
    if null_prompt.shape[-1] != unet.config.cross_attention_dim:
        raise BackboneError(
            f"{source}: the text encoder's width is {null_prompt.shape[-1]} but the UNet's "
            f"cross attention takes {unet.config.cross_attention_dim}; "
            "they are from different checkpoints"
        )
    if vae.config.latent_channels != unet.config.in_channels:
        raise BackboneError(
            f"{source}: the VAE has {vae.config.latent_channels} latent channels but the UNet "
            f"takes {unet.config.in_channels}; they are from different checkpoints"
        )
    # Only the encoder changes a number; the decoder would only take memory.
    del vae.decoder, vae.post_quant_conv
    hashes = {"unet": hash_tensors(unet.state_dict()), "vae": hash_tensors(vae.state_dict())}
    running = _running_tensors(unet)
    digests = {
        "unet": digest_values(
            [hashed for name, hashed in hashes["unet"].items() if name in running],
            unet_settings(architecture["unet"]),
        ),
        "vae": digest_values(hashes["vae"].values(), vae_settings(architecture["vae"])),
        "null_prompt": prompt.digest,
        # Of what the alphas follow from: their own last bits may differ between machines.
        "scheduler": digest_values([], scheduler_settings(architecture["scheduler"])),
    }
    aliases = {
        **{
            part: (older_model_digest(hashed, architecture[part]),)
            for part, hashed in hashes.items()
        },
        "scheduler": older_schedule_digests(alphas, architecture["scheduler"]),
    }
    if prompt.aliases:
        aliases["null_prompt"] = prompt.aliases
    for model in (unet, vae):
        model.eval().requires_grad_(False)
    return StableDiffusion(unet, vae, alphas, null_prompt.float(), digests, aliases)


def _running_tensors(unet: UNet2DConditionModel) -> set[str]:
    """Names of the UNet's tensors that a feature depends on; the last up block never runs."""
    last = f"up_blocks.{len(unet.up_blocks) - 1}."
    names = {f"{part}.{name}" for part in _UNET_PARTS for name in getattr(unet, part).state_dict()}
    return {name for name in names if not name.startswith(last)}


def _load_component(cls: type[ModelMixin], folder: Path, variant: str | None) -> Any:
    try:
        model, info = cls.from_pretrained(
            folder,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        # diffusers raises many kinds here; all of them mean that this folder cannot be used.
        raise BackboneError(f"{folder}: cannot be loaded ({one_line(error)})") from None
    if info["missing_keys"]:
        raise BackboneError(
            f"{folder}: {len(info['missing_keys'])} weights are missing, first "
            f"{min(info['missing_keys'])}; config.json and weights do not belong together"
        )
    return model


def _null_prompt(folder: Path, width: int) -> _Prompt:
    """The empty prompt's embedding and a digest of what it was computed from.

    The digest is taken of inputs (weights and tokens), not of the result, whose last bits may
    differ between machines.
    """
    stored = folder / "null_prompt.safetensors"
    if not (folder / "text_encoder").is_dir():
        if not stored.is_file():
            raise BackboneError(
                f"{folder}: has neither text_encoder/ nor null_prompt.safetensors; "
                "download the whole checkpoint"
            )
        return _stored_prompt(stored)
    from transformers import CLIPTextModel, CLIPTokenizer

    architecture = _read_config(folder / "text_encoder" / "config.json")
    variant = check_safetensors(folder / "text_encoder", SD_COMPONENTS["text_encoder"])
    if not (folder / "tokenizer").is_dir():
        raise BackboneError(f"{folder / 'tokenizer'}: missing; download the whole checkpoint")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder, info = CLIPTextModel.from_pretrained(
            folder / "text_encoder",
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            # A configuration may name a kernel to be fetched and run instead.
            attn_implementation="sdpa",
            dtype=torch.float32,
            output_loading_info=True,
        )
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        tokens = tokenizer(
            "", padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
    except Exception as error:
        raise BackboneError(
            f"{folder}: text encoder or tokenizer cannot be loaded ({one_line(error)})"
        ) from None
    if info["missing_keys"]:
        raise BackboneError(f"{folder / 'text_encoder'}: weights are missing; download it again")
    if encoder.config.hidden_size != width:
        raise BackboneError(
            f"{folder}: the text encoder's width is {encoder.config.hidden_size} but the UNet's "
            f"cross attention takes {width}; they are from different checkpoints"
        )
    if int(tokens.input_ids.max()) >= encoder.config.vocab_size:
        raise BackboneError(f"{folder}: the tokenizer has more words than the text encoder knows")
    mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
    with torch.no_grad():
        embedding = encoder(tokens.input_ids, attention_mask=mask).last_hidden_state
    return _Prompt(embedding, *_prompt_digests(encoder, tokens.input_ids, mask, architecture))


def _prompt_digests(
    encoder: Any, token_ids: Tensor, mask: Tensor | None, architecture: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """The digest of a prompt [1, L] and what computes its embedding, and those of older stores.

    Of the vocabulary only the rows of the prompt's tokens count, in the prompt's order, which
    says what the numbers of the tokens would.
    """
    state = encoder.state_dict()
    vocabulary = encoder.get_input_embeddings().weight
    hashed = hash_tensors(state | {"": vocabulary[token_ids[0]]})
    rows = hashed.pop("")
    values = [
        rows if state[name].data_ptr() == vocabulary.data_ptr() else value
        for name, value in hashed.items()
    ]
    settings = text_settings(encoder.config)
    if mask is not None:
        settings["mask"] = mask[0].tolist()
    return (
        digest_values(values, settings),
        older_prompt_digests(hashed, token_ids, architecture),
    )


def _stored_prompt(path: Path) -> _Prompt:
    check_safetensors_file(path)
    try:
        embedding = load_file(path).get("embedding")
    except Exception as error:
        # safetensors and torch differ in the types they know, each with errors of its own.
        raise BackboneError(f"{path}: cannot be loaded ({one_line(error)})") from None
    if (
        embedding is None
        or embedding.ndim != 3
        or embedding.shape[0] != 1
        or not embedding.numel()
        or not embedding.is_floating_point()
    ):
        raise BackboneError(f"{path}: must hold a tensor `embedding` of shape [1, L, D]")
    return _Prompt(embedding.float(), digest_tensors({"embedding": embedding.float()}))
