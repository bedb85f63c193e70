"""A digest depends on what changes a number: not on names, spellings or versions."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs import BackboneConfig, ClipConfig, SDConfig
from pipeline.networks import digest, settings, stable_diffusion
from pipeline.networks.backbone import Backbone, load_backbone
from pipeline.networks.clip import load_clip
from pipeline.networks.stable_diffusion import load_stable_diffusion
from tests import tiny

UNET, VAE = "sd/unet/config.json", "sd/vae/config.json"
UNET_WEIGHTS = "sd/unet/diffusion_pytorch_model.safetensors"
VAE_WEIGHTS = "sd/vae/diffusion_pytorch_model.safetensors"
SCHEDULER, TEXT = "sd/scheduler/scheduler_config.json", "sd/text_encoder/config.json"
TEXT_WEIGHTS = "sd/text_encoder/model.safetensors"
CLIP, CLIP_WEIGHTS = "clip/tiny-vit.json", "clip/tiny-vit.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of each kind, never written to by a test."""
    root = tmp_path_factory.mktemp("checkpoints")
    tiny.save_tiny_sd(root / "sd")
    tiny.save_tiny_clip(root / "clip")
    return root


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Backbone:
    return load(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def load(root: Path) -> Backbone:
    sd = SDConfig(source=str(root / "sd"))
    return load_backbone(BackboneConfig(sd=sd, clip=clip_of(root), resolution=64))


def clip_of(root: Path) -> ClipConfig:
    return ClipConfig(model=str(root / CLIP), pretrained=str(root / CLIP_WEIGHTS))


def changed(before: Backbone, after: Backbone) -> set[str]:
    """The networks that are named by another digest."""
    assert before.digests.keys() == after.digests.keys()
    return {name for name in before.digests if before.digests[name] != after.digests[name]}


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_weights(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt"},
    )


# Names of tensors.

_present_encoder = transformers.CLIPTextModel


class TransformersFour(nn.Module):
    """A text encoder whose tensors have the names that they had before transformers 5."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.text_model = encoder
        self.config = encoder.config

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> tuple[TransformersFour, Any]:
        encoder, info = _present_encoder.from_pretrained(*args, **kwargs)
        return cls(encoder), info

    def get_input_embeddings(self) -> Any:
        return self.text_model.get_input_embeddings()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.text_model(*args, **kwargs)


FORMER_PROMPTS = {
    "4.57.1": "e17ca0570365743abfe3fd1cc0c30d98342342c443f75b1c9796df96d0dc5228",
    "5.23.0": "8024dc7a086aa9213185848b7ec798e1fc893e1fb9b2b5540168f95aabc8f535",
}
"""What stores called `save_exact_encoder`, found by running these releases of transformers."""


def save_exact_encoder(folder: Path) -> None:
    """A text encoder whose numbers and configuration no library has chosen."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for number, name in enumerate(sorted(tensors)):
        steps = torch.arange(tensors[name].numel(), dtype=torch.float32)
        tensors[name] = ((steps * 7 + number) % 17 / 64 - 0.125).reshape(tensors[name].shape)
    # Published checkpoints have the names of transformers 4; both read them.
    named = {"text_model." + name.removeprefix("text_model."): t for name, t in tensors.items()}
    save_file(named, path, metadata={"format": "pt"})
    config = {
        "model_type": "clip_text_model",
        "vocab_size": 56,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": 54,
        "eos_token_id": 55,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))


def test_the_prompt_has_one_digest_under_both_layouts_of_transformers(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_exact_encoder(copy / "sd" / "text_encoder")
    found = []
    for layout in (_present_encoder, TransformersFour):
        monkeypatch.setattr(transformers, "CLIPTextModel", layout)
        found.append(load_stable_diffusion(SDConfig(source=str(copy / "sd"))))
    five, four = found
    assert torch.equal(five.null_prompt, four.null_prompt)
    assert five.digests == four.digests
    # A store that was made with either release is recognised with either.
    assert set(five.aliases["null_prompt"]) == set(FORMER_PROMPTS.values())
    assert five.aliases == four.aliases


def test_values_count_where_they_stand_and_names_do_not() -> None:
    first, second = torch.ones(2, 3), torch.zeros(2, 3)

    def of(**tensors: Tensor) -> str:
        return digest.digest_values(digest.hash_tensors(tensors).values(), {"heads": 2})

    plain = of(to_q=first, to_k=second)
    assert of(query=first, key=second) == plain
    assert of(to_q=second, to_k=first) != plain
    assert of(to_q=first.reshape(3, 2), to_k=second) != plain
    hashed = digest.hash_tensors({"to_q": first, "to_k": second}).values()
    assert digest.digest_values(hashed, {"heads": 4}) != plain


def test_every_tensor_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that older stores use cost no second pass over the weights."""
    seen: list[int] = []
    hash_one = digest._hash

    def count(tensor: Tensor) -> digest.TensorHash:
        seen.append(tensor.nbytes)
        return hash_one(tensor)

    monkeypatch.setattr(digest, "_hash", count)
    sd = load_stable_diffusion(SDConfig(source=str(folder / "sd")))
    text = sum(tensor.nbytes for tensor in load_file(folder / TEXT_WEIGHTS).values())
    networks = (*sd.unet.state_dict().values(), *sd.vae.state_dict().values())
    weights = text + sum(tensor.nbytes for tensor in networks)
    # Besides them the tokens, their rows of the vocabulary, and the schedule.
    assert sum(seen) < 1.02 * weights


# Spellings.


def _spell_out(document: dict[str, Any], model: type) -> None:
    """What the library writes if it saves the configuration again: every default, and news."""
    defaults = settings._arguments(model)
    document.update({**defaults, **document, "a_key_of_a_later_release": None, "_commit": "abc"})


def _leave_out(document: dict[str, Any], model: type) -> None:
    """The opposite: nothing that the library would assume anyway."""
    for key, default in settings._arguments(model).items():
        spelled = json.loads(json.dumps(default))
        if key in document and document[key] == spelled:
            del document[key]


def numbers(backbone: Backbone) -> dict[str, Tensor]:
    """What a store would hold of one picture, and what comes before it."""
    squares = torch.arange(3 * 64 * 64).remainder(251).to(torch.uint8).reshape(1, 3, 64, 64)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latent = backbone.encode_latents(squares)
    tokens, pooled = backbone.encode_clip(squares)
    layers = backbone.unet_features(latent, noise, 195, ["s3", "s5"])
    return {"vae": latent, "tokens": tokens, "clip": pooled, **layers}


@pytest.fixture(scope="module")
def first_numbers(loaded: Backbone) -> dict[str, Tensor]:
    return numbers(loaded)


Changes = list[tuple[str, Callable[[dict[str, Any]], Any]]]

SPELLED_OUT: Changes = [
    (UNET, lambda d: _spell_out(d, diffusers.UNet2DConditionModel)),
    (UNET, lambda d: d.update(act_fn="swish", layers_per_block=[1, 1, 1, 1])),
    (UNET, lambda d: d.update(freq_shift=0.0, mid_block_scale_factor=1.0, sample_size=96)),
    (UNET, lambda d: d.update(upcast_attention=True, dropout=0.1, time_embedding_dim=128)),
    (VAE, lambda d: _spell_out(d, diffusers.AutoencoderKL)),
    (VAE, lambda d: d.update(force_upcast=False, sample_size=512, shift_factor=0.1)),
    (SCHEDULER, lambda d: _spell_out(d, diffusers.DDPMScheduler)),
    (SCHEDULER, lambda d: d.update(prediction_type="v_prediction", steps_offset=0)),
    (TEXT, lambda d: d.update(projection_dim=64, initializer_factor=2.0, bos_token_id=1)),
    (CLIP, lambda d: d["vision_cfg"].update(mlp_ratio=4, pool_type="tok", act_kwargs={})),
    (CLIP, lambda d: d["vision_cfg"].update(output_tokens=True, timm_pool="avg")),
]
LEFT_OUT: Changes = [
    (UNET, lambda d: _leave_out(d, diffusers.UNet2DConditionModel)),
    (VAE, lambda d: _leave_out(d, diffusers.AutoencoderKL)),
    (SCHEDULER, lambda d: _leave_out(d, diffusers.DDPMScheduler)),
    (TEXT, lambda d: [d.pop(key) for key in ("hidden_act", "layer_norm_eps", "dtype")]),
    (CLIP, lambda d: d.pop("quick_gelu")),
]
IDLE_WEIGHTS: Changes = [
    (UNET_WEIGHTS, lambda w: w["conv_out.weight"].add_(1)),
    (UNET_WEIGHTS, lambda w: w["up_blocks.3.resnets.0.conv1.bias"].add_(1)),
    (VAE_WEIGHTS, lambda w: w["decoder.conv_out.bias"].add_(1)),
    (TEXT_WEIGHTS, lambda w: _tensor(w, "token_embedding.weight")[3].add_(1)),
]


@pytest.mark.parametrize("changes", [SPELLED_OUT, LEFT_OUT, IDLE_WEIGHTS])
def test_what_changes_no_number_changes_no_digest(
    copy: Path, loaded: Backbone, first_numbers: dict[str, Tensor], changes: Changes
) -> None:
    make(copy, changes)
    again = load(copy)
    assert changed(loaded, again) == set()
    for name, value in numbers(again).items():
        assert torch.equal(value, first_numbers[name]), name


def test_half_precision_is_another_spelling_of_the_same_values(copy: Path) -> None:
    def rounded(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.half().float() for name, tensor in tensors.items()})

    def halved(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    files = (UNET_WEIGHTS, VAE_WEIGHTS, TEXT_WEIGHTS, CLIP_WEIGHTS)
    make(copy, [(file, rounded) for file in files])
    single = load(copy)
    make(copy, [(file, halved) for file in files])
    assert changed(single, load(copy)) == set()


def make(root: Path, changes: Changes) -> None:
    for path, change in changes:
        (edit if path.endswith("json") else edit_weights)(root / path, change)


def _tensor(tensors: dict[str, Tensor], end: str) -> Tensor:
    return next(t for name, t in tensors.items() if name.endswith(end))


def _swap(tensors: dict[str, Tensor], *ends: str) -> None:
    """Exchange two tensors of one shape."""
    one, other = (next(name for name in tensors if name.endswith(end)) for end in ends)
    tensors[one], tensors[other] = tensors[other], tensors[one]


_BLOCK = "visual.transformer.resblocks.0."
_ROUNDS: list[Changes] = [
    [
        (UNET, lambda d: d.update(attention_head_dim=[2, 2, 4, 4])),
        (VAE, lambda d: d.update(scaling_factor=0.2)),
        (SCHEDULER, lambda d: d.update(beta_schedule="linear")),
        (TEXT, lambda d: d.update(hidden_act="gelu")),
        (CLIP, lambda d: d.update(quick_gelu=True)),
    ],
    [
        (UNET, lambda d: d.update(norm_eps=1e-3)),
        (
            VAE_WEIGHTS,
            lambda w: _swap(w, "encoder.conv_norm_out.weight", "encoder.conv_norm_out.bias"),
        ),
        (SCHEDULER, lambda d: d.update(beta_end=0.02)),
        (TEXT, lambda d: d.update(num_attention_heads=4)),
        (CLIP, lambda d: d["vision_cfg"].update(head_width=8)),
    ],
    [
        (UNET, lambda d: d.update(freq_shift=1)),
        (VAE, lambda d: d.update(norm_num_groups=4)),
        (SCHEDULER, lambda d: d.update(rescale_betas_zero_snr=False, num_train_timesteps=500)),
        (TEXT_WEIGHTS, lambda w: _tensor(w, "token_embedding.weight")[0].add_(1)),
        (CLIP, lambda d: d["vision_cfg"].update(pool_type="avg")),
    ],
    [
        (UNET_WEIGHTS, lambda w: _swap(w, "attn1.to_q.weight", "attn1.to_k.weight")),
        (VAE_WEIGHTS, lambda w: _tensor(w, "encoder.conv_in.bias").add_(1)),
        (SCHEDULER, lambda d: d.update(beta_start=0.001)),
        (TEXT_WEIGHTS, lambda w: _swap(w, "q_proj.weight", "v_proj.weight")),
        (CLIP_WEIGHTS, lambda w: _swap(w, f"{_BLOCK}ln_1.weight", f"{_BLOCK}ln_1.bias")),
    ],
]


@pytest.mark.parametrize("changes", _ROUNDS)
def test_what_changes_a_number_changes_its_networks_digest(
    copy: Path, loaded: Backbone, changes: Changes
) -> None:
    """Each round changes every network in one way, without changing a shape."""
    make(copy, changes)
    assert changed(loaded, load(copy)) == set(loaded.digests)


def test_the_last_bits_of_the_schedule_are_in_no_digest(
    folder: Path, loaded: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are computed, and differ between processors."""
    compute = stable_diffusion._alphas_cumprod
    monkeypatch.setattr(
        stable_diffusion,
        "_alphas_cumprod",
        lambda *args: torch.nextafter(compute(*args), torch.zeros(())),
    )
    again = load(folder)
    assert changed(loaded, again) == set()
    # What older stores say, found with ATEN_CPU_CAPABILITY set to `default` and to `avx2`.
    former = {
        "2a524a043591009598564e2515bbe13a99b2c19936ead405f1f545c30a8d6e94",
        "3980136561b49d99e23b6bb9c78bf2af67fe314b62571267f62b0333d01f5157",
    }
    assert former <= set(again.aliases["scheduler"])
    assert former == set(loaded.aliases["scheduler"])


def test_listed_betas_make_other_keys_of_a_schedule_idle() -> None:
    listed = {"trained_betas": [0.1, 0.2]}
    of = settings.scheduler_settings
    assert of(listed) == of({**listed, "beta_start": 0.5, "num_train_timesteps": 2})
    assert of(listed) != of({"trained_betas": [0.1, 0.3]})
    cosine = {"beta_schedule": "squaredcos_cap_v2"}
    assert of(cosine) == of({**cosine, "beta_end": 0.5})


def test_interpolated_positions_are_in_the_digest_as_they_were_trained(folder: Path) -> None:
    """The resolution is in the recipe; the last bits of an interpolation differ by machine."""
    config = clip_of(folder)
    trained, larger = load_clip(config, 64), load_clip(config, 96)
    assert larger.visual.state_dict()["positional_embedding"].shape[0] == 1 + 6 * 6
    assert trained.digest == larger.digest
    # Older stores have the interpolated ones in it.
    assert trained.aliases != larger.aliases


def test_timms_former_names_are_the_same_architecture() -> None:
    def of(name: str, **arguments: Any) -> dict[str, Any]:
        return settings.timm_settings(name, arguments, (0, 0, 0), (1, 1, 1))

    present = "vit_base_patch16_224.dino"
    assert of("vit_base_patch16_224_dino") == of(present) == of("vit_base_patch16_224")
    assert of(present, img_size=98, drop_path_rate=0.1) == of(present)
    assert of(present, num_heads=4) != of(present)
    assert of("vit_base_patch14_dinov2") != of(present)
    names = settings.timm_names(present)
    assert "vit_base_patch16_224_dino" in names and all(map(timm.is_model, names))


def test_a_clip_tower_of_timm_has_timms_name_and_no_key_of_open_clip() -> None:
    of = settings.clip_settings
    plain = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "avg"}
    assert of(plain) == of({**plain, "layers": 3, "timm_drop": 0.1, "timm_proj": "linear"})
    assert of(plain) != of({**plain, "timm_pool": ""})


# What a CLIP file says of its activation.


def test_weights_that_say_nothing_are_warned_of_in_one_line(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings(config: ClipConfig) -> list[str]:
        caplog.clear()
        load_clip(config, 64)
        return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]

    config = clip_of(copy)
    assert warnings(config) == []  # Its configuration has the key.
    edit(copy / CLIP, lambda d: d.pop("quick_gelu"))
    (line,) = warnings(config)
    assert str(config.pretrained) in line and "QuickGELU" in line and "\n" not in line
    beside = copy / "clip" / "open_clip_config.json"
    beside.write_text(json.dumps({"model_cfg": {"quick_gelu": False}}))
    assert warnings(config) == []


@pytest.mark.parametrize(("quick_gelu", "name"), [(False, "gelu"), (True, "quick_gelu")])
def test_the_activation_is_told(copy: Path, quick_gelu: bool, name: str) -> None:
    edit(copy / CLIP, lambda d: d.update(quick_gelu=quick_gelu))
    assert load_clip(clip_of(copy), 64).activation == name
