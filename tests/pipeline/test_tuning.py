"""Networks rearranged for speed give the features of those that are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cache import FeatureStore
from configs import Config, load_config
from pipeline.extraction.extract import ExtractionError
from pipeline.job import load_networks
from pipeline.networks.tuning import compile_parts
from pipeline.precompute import precompute

RANDOM = ["dataset.size=4", "backbone.weights=random", "extraction.device=cpu"]


def features(config: Config, backend: str | None = None) -> dict[str, np.ndarray]:
    """Every array of five random squares."""
    networks = load_networks(config)
    if backend is not None:
        compile_parts(networks.extractor.backbone, backend)  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    side = config.backbone.resolution
    squares = rng.integers(0, 256, (5, 3, side, side), dtype=np.uint8)
    names = [spec.name for spec in networks.specs]
    return networks.extractor(squares, [f"{i:064x}" for i in range(5)], names)


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].flags.c_contiguous
        np.testing.assert_allclose(found[name], value, atol=1e-4 * np.abs(value).max())


@pytest.fixture(scope="module")
def plain() -> dict[str, np.ndarray]:
    return features(load_config("demo", RANDOM))


def test_channels_last_gives_the_same_features(plain: dict[str, np.ndarray]) -> None:
    assert_equal(features(load_config("demo", [*RANDOM, "extraction.channels_last=true"])), plain)


def test_blocks_that_are_traced_give_the_same_features(plain: dict[str, np.ndarray]) -> None:
    torch.compiler.reset()
    assert_equal(features(load_config("demo", RANDOM), "eager"), plain)


def test_no_size_of_a_batch_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one kind share their code, and its compiled variants."""
    monkeypatch.setattr("torch._dynamo.config.fail_on_recompile_limit_hit", True)
    torch.compiler.reset()
    networks = load_networks(load_config("demo", RANDOM))
    compile_parts(networks.extractor.backbone, "eager")  # type: ignore[attr-defined]
    names = [spec.name for spec in networks.specs]
    for n in (4, 3, 1):
        squares = np.zeros((n, 3, 96, 96), np.uint8)
        networks.extractor(squares, [f"{i:064x}" for i in range(n)], names)


@pytest.mark.slow
def test_compiled_networks_give_the_same_features(plain: dict[str, np.ndarray]) -> None:
    torch.compiler.reset()
    assert_equal(features(load_config("demo", [*RANDOM, "extraction.compile=true"])), plain)


def test_every_block_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: compiled.append(type(self).__name__)
    )
    load_networks(load_config("demo", [*RANDOM, "extraction.compile=true"]))
    assert len(compiled) == 1 + 4 + 1 + 3 + 5  # VAE, down, mid, up without the last, CLIP
    compiled.clear()
    load_networks(load_config("demo", ["backbone=dino", *RANDOM, "extraction.compile=true"]))
    assert len(compiled) == 12


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(graph: object, inputs: object) -> None:
        raise RuntimeError("no compiler")

    torch.compiler.reset()
    with pytest.raises(ExtractionError, match=r"extraction\.compile=false"):
        features(load_config("demo", RANDOM), fail)  # type: ignore[arg-type]


def test_it_is_recorded_beside_the_recipe(tmp_path: Path) -> None:
    stores = []
    for channels_last in ("false", "true"):
        out = tmp_path / channels_last
        sets = [*RANDOM, f"extraction.channels_last={channels_last}", "extraction.workers=0"]
        precompute(load_config("demo", sets), out)
        stores.append(FeatureStore.open(out))
    assert stores[0].fingerprint == stores[1].fingerprint
    assert [store.provenance["channels_last"] for store in stores] == [False, True]
