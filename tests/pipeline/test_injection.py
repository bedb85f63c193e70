"""Injection files: the pinned format, and every way a file can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.networks.injection import InjectionError, load_injection
from tests import tiny

CHANNELS = dict(zip(tiny.SITES, (32, 64, 64, 64, 64, 64, 64), strict=True))


def test_a_file_round_trips_and_its_digest_is_of_its_content(tmp_path: Path) -> None:
    path = tiny.save_injection(tmp_path / "a.safetensors", sites=("down.1", "up.2"))
    module = load_injection(path, 32, CHANNELS)
    assert module.sites == ("down.1", "up.2")
    module.save(tmp_path / "b.safetensors")
    for name, tensor in load_file(path).items():
        assert torch.equal(load_file(tmp_path / "b.safetensors")[name], tensor)
    assert load_injection(tmp_path / "b.safetensors", 32, CHANNELS).digest() == module.digest()
    other = tiny.save_injection(tmp_path / "c.safetensors", sites=("down.1", "up.2"), seed=1)
    assert load_injection(other, 32, CHANNELS).digest() != module.digest()


def _drop_bias(t: dict[str, Tensor]) -> None:
    del t["up.0.bias"]


def _unknown_site(t: dict[str, Tensor]) -> None:
    t["mid.0.weight"] = torch.zeros(3)


def _wrong_shape(t: dict[str, Tensor]) -> None:
    t["down.2.weight"] = torch.zeros(64, 31, 1, 1)


def _not_finite(t: dict[str, Tensor]) -> None:
    t["up.1.bias"][3] = torch.nan


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_drop_bias, "up.0.bias is missing"),
        (_unknown_site, "unknown tensor 'mid.0.weight'"),
        (_wrong_shape, "down.2.weight has shape"),
        (_not_finite, "not finite"),
        (dict.clear, "no injection site"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], None], says: str
) -> None:
    tensors = tiny.random_injection()
    damage(tensors)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(InjectionError, match=says) as caught:
        load_injection(tmp_path / "bad.safetensors", 32, CHANNELS)
    assert "bad.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InjectionError, match="no such"):
        load_injection(tmp_path / "none.safetensors", 32, CHANNELS)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InjectionError, match="not a readable"):
        load_injection(tmp_path / "text.safetensors", 32, CHANNELS)
