"""OpenAI's CLIP as it was published: a TorchScript archive in float16, read without running it."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs import ClipConfig
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.clip import clip_features, load_clip
from pipeline.networks.torchscript import is_torchscript, read_torchscript
from tests import tiny
from tests.hostile.bounds import bounded
from tests.hostile.mutate import damaged

WIDTH, PIXELS, PATCH = 32, 64, 16
HEAD = 16


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual attention block with OpenAI's names; its mask is a plain attribute, as theirs."""

    def __init__(self, width: int, mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // HEAD)
        self.ln_1 = nn.LayerNorm(width)
        layers = [
            ("c_fc", nn.Linear(width, 4 * width)),
            ("gelu", QuickGELU()),
            ("c_proj", nn.Linear(4 * width, width)),
        ]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width)
        self.attn_mask = mask

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, mask) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((PIXELS // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH, 2)
        self.ln_post = nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, 24))

    def tokens(self, x: Tensor) -> Tensor:
        """The last block's output [B, 1 + n, D]."""
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        x = self.ln_pre(x + self.positional_embedding)
        return self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln_post(self.tokens(x)[:, 0]) @ self.proj


class OpenAIClip(nn.Module):
    """CLIP with the attributes, in the order, of the published archives."""

    def __init__(self) -> None:
        super().__init__()
        mask = torch.full((8, 8), float("-inf")).triu(1)
        self.visual = Vision()
        self.transformer = Transformer(16, 1, mask)
        self.token_embedding = nn.Embedding(64, 16)
        self.positional_embedding = nn.Parameter(torch.randn(8, 16))
        self.ln_final = nn.LayerNorm(16)
        self.text_projection = nn.Parameter(torch.randn(16, 24))
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        for name, size in (("input_resolution", PIXELS), ("context_length", 8), ("vocab_size", 64)):
            self.register_buffer(name, torch.tensor(size))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        x = self.token_embedding(text) + self.positional_embedding
        x = self.ln_final(self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2))
        text_features = x[:, -1] @ self.text_projection
        return self.logit_scale.exp() * self.visual(image) @ text_features.t()


@pytest.fixture(scope="module")
def theirs() -> OpenAIClip:
    """A model whose weights are exact in float16."""
    torch.manual_seed(0)
    return OpenAIClip().half().float().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def archive(theirs: OpenAIClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as TorchScript, in float16 on disk."""
    path = tmp_path_factory.mktemp("openai") / "ViT-tiny-64px.pt"
    example = torch.zeros(1, 3, PIXELS, PIXELS), torch.zeros(1, 8, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        torch.jit.trace(theirs, example).half().save(str(path))
    theirs.float()  # the traced model shares its tensors
    return path


@pytest.fixture(autouse=True)
def _nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the archive was run")

    monkeypatch.setattr(torch.jit, "load", refuse)


def clip_json(folder: Path, quick_gelu: bool) -> str:
    return str(tiny.save_tiny_clip(folder / f"clip-{quick_gelu}", quick_gelu=quick_gelu)[0])


def test_an_openai_archive_gives_the_features_of_the_model(
    theirs: OpenAIClip, archive: Path, tmp_path: Path
) -> None:
    config = ClipConfig(model=clip_json(tmp_path, True), pretrained=str(archive))
    clip = load_clip(config, PIXELS)
    images = torch.randn(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens, embedding = clip_features(clip.visual, images)
        expected = theirs.visual.tokens(images)[:, 1:]
        torch.testing.assert_close(tokens.flatten(2).mT, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(embedding, theirs.visual(images), atol=1e-5, rtol=1e-5)


def test_its_tensors_are_those_of_the_model(theirs: OpenAIClip, archive: Path) -> None:
    state = theirs.state_dict()
    found = read_torchscript(archive)
    assert {name for name in found if not name.endswith("attn_mask")} == set(state)
    assert found["visual.conv1.weight"].dtype == torch.float16
    for name, tensor in state.items():
        assert torch.equal(found[name].to(tensor.dtype), tensor), name


def test_an_openai_archive_needs_quickgelu_whatever_it_is_called(
    archive: Path, tmp_path: Path
) -> None:
    config = ClipConfig(model=clip_json(tmp_path, False), pretrained=str(archive))
    with pytest.raises(BackboneError, match="trained with QuickGELU; OpenAI's weights need"):
        load_clip(config, PIXELS)


def test_a_state_dict_saved_from_an_archive_loads(
    theirs: OpenAIClip, archive: Path, tmp_path: Path
) -> None:
    """The sizes that OpenAI keeps among the weights are in it."""
    torch.save(read_torchscript(archive), tmp_path / "state.pt")
    model = clip_json(tmp_path, True)
    clip = load_clip(ClipConfig(model=model, pretrained=str(tmp_path / "state.pt")), PIXELS)
    same = load_clip(ClipConfig(model=model, pretrained=str(archive)), PIXELS)
    assert clip.digest == same.digest


def test_an_archive_of_another_model_is_one_line(archive: Path, tmp_path: Path) -> None:
    model, _ = tiny.save_tiny_clip(tmp_path, width=48, quick_gelu=True)
    with pytest.raises(BackboneError, match="cannot be loaded into") as caught:
        load_clip(ClipConfig(model=str(model), pretrained=str(archive)), PIXELS)
    assert "\n" not in str(caught.value)


def rewritten(archive: Path, path: Path, pickled: bytes) -> Path:
    """The archive with another `data.pkl`."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            data = pickled if entry.filename.endswith("/data.pkl") else old.read(entry)
            new.writestr(entry.filename, data)
    return path


class Trap:
    """What makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def _named(module: str, name: str, tail: bytes) -> bytes:
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + tail


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda mark: pickle.dumps(Trap(mark), 2), "calls posix.mkdir"),
        (lambda mark: pickle.dumps({"visual": [Trap(mark)]}, 2), "calls posix.mkdir"),
        (lambda mark: pickle.dumps(Trap(mark), 4), "has the instruction FRAME"),
        (lambda mark: f"(S'{mark}'\nios\nmkdir\n.".encode(), "has the instruction STRING"),
        (lambda _: _named("os", "system", b")\x81."), "makes an object of os.system"),
        (lambda _: _named("builtins", "eval", b"X\x03\x00\x00\x001+1\x85R."), "calls builtins"),
    ],
)
def test_an_archive_with_a_trap_is_refused_and_not_run(
    archive: Path, tmp_path: Path, make: Callable[[Path], bytes], says: str
) -> None:
    mark = tmp_path / "ran"
    path = rewritten(archive, tmp_path / "trap.pt", make(mark))
    assert is_torchscript(path)
    config = ClipConfig(model=clip_json(tmp_path, True), pretrained=str(path))
    with pytest.raises(BackboneError, match=says) as caught:
        load_clip(config, PIXELS)
    assert "nothing was run" in str(caught.value) and "\n" not in str(caught.value)
    assert not mark.exists()


def test_code_that_says_something_else_is_not_looked_at(archive: Path, tmp_path: Path) -> None:
    """`code/` may hold anything: only names, shapes and numbers are read."""
    path = tmp_path / "code.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            data = b"raise SystemExit" if "/code/" in entry.filename else old.read(entry)
            new.writestr(entry.filename, data)
    found, expected = read_torchscript(path), read_torchscript(archive)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


class _Pickler(pickle.Pickler):
    """Writes a module that holds one tensor, as TorchScript does."""

    def __init__(self, file: io.BytesIO, storage: tuple[Any, ...]) -> None:
        super().__init__(file, 2)
        self.storage = storage

    def persistent_id(self, value: Any) -> Any:
        return self.storage if value == "STORAGE" else None


class _Tensor:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments


def one_tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], items: int) -> bytes:
    """`data.pkl` of a module whose attribute `w` is such a tensor of the storage `0`."""
    file = io.BytesIO()
    storage = ("storage", torch.FloatStorage, "0", "cpu", items)
    tensor = _Tensor("STORAGE", offset, shape, strides, False, OrderedDict())
    _Pickler(file, storage).dump({"w": tensor, "training": False})
    state = file.getvalue()[2:-1]  # without PROTO and STOP
    return b"\x80\x02c__torch__\nM\n)\x81" + state + b"b."


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "items"),
    [
        (0, (10**12,), (0,), 4),
        (0, (10**12,), (1,), 10**12),
        (0, (4,), (10**15,), 4),
        (3, (2,), (1,), 4),
        (-1, (2,), (1,), 4),
        (0, (-1, -4), (1, 1), 4),
        (0, (2,), (1, 1), 4),
        (0, (4,), (1,), 5),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_allocates_nothing(
    archive: Path, tmp_path: Path, offset: int, shape: Any, strides: Any, items: int
) -> None:
    path = tmp_path / "lies.pt"
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("m/constants.pkl", b"\x80\x02).")
        new.writestr("m/data/0", bytes(16))
        new.writestr("m/data.pkl", one_tensor(offset, shape, strides, items))
    found = bounded(lambda: read_torchscript(path), mib=256)
    assert found.startswith("BackboneError: ") and "damaged TorchScript archive" in found
    rewritten(path, tmp_path / "sound.pt", one_tensor(0, (2, 2), (1, 2), 4))
    assert read_torchscript(tmp_path / "sound.pt")["w"].shape == (2, 2)


def test_damaged_archives(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    with zipfile.ZipFile(archive) as file:
        sound = file.read(next(n for n in file.namelist() if n.endswith("/data.pkl")))
    cases = [rewritten(archive, path, data).read_bytes() for data in damaged(sound, 60, seed=7)]
    for case in [*cases, *damaged(archive.read_bytes(), 60, seed=8)]:
        path.write_bytes(case)
        try:
            read_torchscript(path)
        except BackboneError as why:
            assert "\n" not in str(why)


def test_a_file_of_torch_save_is_not_torchscript(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "plain.pt")
    (tmp_path / "text.pt").write_text(json.dumps({}))
    assert not is_torchscript(tmp_path / "plain.pt")
    assert not is_torchscript(tmp_path / "text.pt")
    assert not is_torchscript(tmp_path / "nothing.pt")
