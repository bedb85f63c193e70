"""What a network's configuration says that changes a number, spelled one way.

Two configurations that give the same numbers have equal settings: a default may be spelled out or
left out, and a newer library may add keys. The defaults are written down here and not taken from
the installed library, so that a digest does not depend on its version; only a key that is not
listed is compared with the library's own default.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from typing import Any

import timm
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from open_clip.model import CLIPVisionCfg

Settings = dict[str, Any]
"""Plain JSON."""

_UNET: Settings = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "only_cross_attention": False,
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None,
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "attention_type": "default",
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
}
_UNET_IDLE = {
    # Nothing that runs here looks at them; scaled_dot_product_attention ignores upcast_attention.
    *("sample_size", "out_channels", "conv_out_kernel", "dropout", "upcast_attention"),
    # The shapes of the weights tell them.
    *("in_channels", "block_out_channels", "cross_attention_dim", "time_embedding_dim"),
    *("conv_in_kernel", "use_linear_projection"),
}
_PER_BLOCK = {
    *("attention_head_dim", "num_attention_heads", "layers_per_block", "only_cross_attention"),
    *("transformer_layers_per_block",),
}
"""One value, or a list with one for each block."""

_VAE: Settings = {
    "down_block_types": ["DownEncoderBlock2D"],
    "layers_per_block": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "mid_block_add_attention": True,
    "use_quant_conv": True,
}
_VAE_IDLE = {
    # Of the decoder, or of pipelines.
    *("out_channels", "up_block_types", "use_post_quant_conv", "sample_size", "force_upcast"),
    *("shift_factor", "latents_mean", "latents_std"),
    # The shapes of the weights tell them.
    *("in_channels", "block_out_channels", "latent_channels"),
}

SCHEDULER_DEFAULTS: Settings = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
_SCHEDULER_IDLE = {
    # How a sampler steps back from noise; only the cumulative alphas are used here.
    *("variance_type", "clip_sample", "prediction_type", "thresholding", "sample_max_value"),
    *("dynamic_thresholding_ratio", "clip_sample_range", "timestep_spacing", "steps_offset"),
}

_CLIP: Settings = {
    "attentional_pool": False,
    "attn_pooler_heads": 8,
    "no_ln_pre": False,
    "final_ln_after_pool": False,
    "pool_type": "tok",
    "act_kwargs": None,
    "norm_kwargs": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
_CLIP_IDLE = {
    # `resolution` is in the recipe; the number of heads is taken from `width` and `head_width`.
    *("image_size", "width", "head_width", "output_tokens", "patch_dropout"),
    # Shapes and values of the weights tell them.
    *("layers", "mlp_ratio", "patch_size", "ls_init_value", "attn_pooler_queries"),
    "pos_embed_type",
}
_CLIP_TIMM: Settings = {"timm_pool": "avg", "timm_proj": "linear", "timm_proj_bias": False}
_CLIP_TIMM_IDLE = {"timm_model_name", "timm_model_pretrained", "timm_drop", "timm_drop_path"}

_TIMM_IDLE = {
    # Overridden, or without effect on a frozen network.
    *("img_size", "num_classes", "checkpoint_path", "pretrained", "pretrained_cfg"),
    *("pretrained_cfg_overlay", "drop_rate", "pos_drop_rate", "patch_drop_rate"),
    *("proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init", "fix_init"),
    *("strict_img_size", "dynamic_img_size"),
    # Shapes and values of the weights tell them.
    *("patch_size", "in_chans", "embed_dim", "depth", "mlp_ratio", "init_values", "qkv_bias"),
}


def unet_settings(config: Mapping[str, Any]) -> Settings:
    """What `unet/config.json` says beyond the weights' shapes, defaults left out."""
    return _spelled_once(config, _UNET, _UNET_IDLE, _arguments(UNet2DConditionModel))


def vae_settings(config: Mapping[str, Any]) -> Settings:
    """The same of the VAE's encoder, the only part that runs."""
    return _spelled_once(config, _VAE, _VAE_IDLE, _arguments(AutoencoderKL))


def scheduler_settings(config: Mapping[str, Any]) -> Settings:
    """What the cumulative alphas follow from."""
    found = _spelled_once(config, SCHEDULER_DEFAULTS, _SCHEDULER_IDLE, _arguments(DDPMScheduler))
    if "trained_betas" in found:
        unused = ["num_train_timesteps", "beta_start", "beta_end", "beta_schedule"]
    elif found.get("beta_schedule") in ("squaredcos_cap_v2", "laplace"):
        unused = ["beta_start", "beta_end"]
    else:
        unused = []
    return {key: value for key, value in found.items() if key not in unused}


def clip_settings(vision: Mapping[str, Any]) -> Settings:
    """What `vision_cfg` of an open_clip model says beyond the weights' shapes."""
    library = {
        field.name: field.default
        for field in dataclasses.fields(CLIPVisionCfg)
        if field.default is not dataclasses.MISSING
    }
    of_timm = {key: value for key, value in library.items() if key.startswith("timm_")}
    trunk = vision.get("timm_model_name")
    if trunk:
        own = {key: value for key, value in vision.items() if key in of_timm}
        found = _spelled_once(own, _CLIP_TIMM, _CLIP_TIMM_IDLE, of_timm)
        return found | {"timm_model": timm_architecture(trunk)}
    of_open_clip = {key: value for key, value in library.items() if key not in of_timm}
    found = _spelled_once(vision, _CLIP, _CLIP_IDLE, of_open_clip)
    if "attentional_pool" not in found:
        found.pop("attn_pooler_heads", None)
    width, head_width = (vision.get(key, library[key]) for key in ("width", "head_width"))
    return found | {"heads": width // head_width}


def text_settings(config: Any) -> Settings:
    """What a CLIPTextConfig says beyond the weights' shapes."""
    return {
        "activation": config.hidden_act,
        "heads": config.num_attention_heads,
        "eps": plain(config.layer_norm_eps),
    }


def timm_settings(
    name: str, arguments: Mapping[str, Any], mean: Collection[float], std: Collection[float]
) -> Settings:
    """What a timm name and the arguments beside it say beyond the weights' shapes.

    An argument that repeats what the name stands for cannot be told from one that changes it, so
    it counts.
    """
    return {
        "architecture": timm_architecture(name),
        "arguments": {k: plain(v) for k, v in arguments.items() if k not in _TIMM_IDLE},
        "mean": plain(list(mean)),
        "std": plain(list(std)),
    }


def timm_architecture(name: str) -> str:
    """timm's present name of an architecture, without the tag of its weights."""
    present = timm.models.get_deprecated_models().get(name) or name
    return present.partition(".")[0]


def timm_names(name: str) -> list[str]:
    """Every name that timm has or had for the architecture of `name`."""
    present = timm_architecture(name)
    former = timm.models.get_deprecated_models()
    aliases = [old for old, new in former.items() if new and new.partition(".")[0] == present]
    return [present, *(old for old in aliases if "." not in old)]


def _spelled_once(
    config: Mapping[str, Any],
    defaults: Settings,
    idle: Collection[str],
    library: Mapping[str, Any],
) -> Settings:
    """The settings that are not the default.

    Args:
        config: as it is spelled in a file.
        defaults: of the keys known here.
        idle: keys that change no number.
        library: all keys that the installed library reads, with its defaults.
    """
    found = {}
    for key, default in library.items():
        if key in idle:
            continue
        value = _one_of(key, plain(config.get(key, default)))
        if value != _one_of(key, plain(defaults.get(key, default))):
            found[key] = value
    return found


def _arguments(model: type) -> dict[str, Any]:
    """A library class's arguments and their defaults."""
    parameters = inspect.signature(model).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _one_of(key: str, value: Any) -> Any:
    """The one of several spellings that counts."""
    if key in _PER_BLOCK and isinstance(value, list) and value and value == value[:1] * len(value):
        return value[0]
    synonyms = {("act_fn", "swish"): "silu", ("block_type", "default"): None}
    if isinstance(value, str):
        return synonyms.get((key, value), value)
    return None if key in ("act_kwargs", "norm_kwargs") and not value else value


def plain(value: Any) -> Any:
    """JSON with lists for tuples and whole numbers without a decimal point."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
