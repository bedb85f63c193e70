"""Networks rearranged for speed give the features of those that are not."""

from __future__ import annotations

import inspect
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cache import FeatureStore
from configs import Config, load_config
from pipeline.extraction.extract import ExtractionError
from pipeline.job import load_networks
from pipeline.networks import tuning
from pipeline.networks.tuning import compile_parts, variant_limit
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


COMPILE_ARGUMENTS = {"model", "fullgraph", "dynamic", "backend", "mode", "options", "disable"}
"""Arguments of `torch.compile` in torch 2.6.0, the oldest version that pyproject.toml admits."""


@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
def test_no_size_of_a_batch_runs_uncompiled() -> None:
    """Blocks of one kind share their code, and its compiled variants."""
    torch.compiler.reset()
    networks = load_networks(load_config("demo", RANDOM))
    compile_parts(networks.extractor.backbone, "eager")  # type: ignore[attr-defined]
    names = [spec.name for spec in networks.specs]
    for n in (4, 3, 1):
        squares = np.zeros((n, 3, 96, 96), np.uint8)
        networks.extractor(squares, [f"{i:064x}" for i in range(n)], names)


def test_more_variants_than_torch_allows_by_default() -> None:
    """Counted by a backend, which is asked once for each variant."""
    counted: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        counted.append(1)
        return graph.forward

    for expected, wrap in ((8, lambda compiled: compiled), (10, tuning._with_variants)):
        torch.compiler.reset()
        counted.clear()
        compiled = wrap(torch.compile(lambda x: x * 2, backend=count, dynamic=False))
        for n in range(2, 12):
            assert compiled(torch.ones(n)).sum() == 2 * n
        assert len(counted) == expected


def test_every_thread_has_the_limit() -> None:
    """Torch keeps its settings per thread, and a dask worker computes in threads of its own."""
    found: list[int] = []
    inner = tuning._with_variants(lambda: found.append(getattr(tuning.dynamo_config, name)))
    name = variant_limit(tuning.dynamo_config)
    before = getattr(tuning.dynamo_config, name)
    inner()
    thread = Thread(target=inner)
    thread.start()
    thread.join()
    assert found == [64, 64]
    assert getattr(tuning.dynamo_config, name) == before


def test_only_arguments_of_the_oldest_torch_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch 2.11 refused the argument `recompile_limit`, which newer versions take."""
    assert inspect.signature(torch.compile).parameters.keys() >= COMPILE_ARGUMENTS
    calls: list[set[str]] = []

    def compile_as_before(model: Any = None, **how: Any) -> Any:
        calls.append(set(how))
        return model

    monkeypatch.setattr(torch, "compile", compile_as_before)
    load_networks(load_config("demo", [*RANDOM, "extraction.compile=true"]))
    assert calls and all(how <= COMPILE_ARGUMENTS for how in calls)


def test_the_limit_has_its_name_in_every_torch() -> None:
    assert variant_limit(SimpleNamespace(cache_size_limit=8)) == "cache_size_limit"  # torch 2.6
    assert variant_limit(SimpleNamespace(cache_size_limit=8, recompile_limit=8)) == (
        "recompile_limit"
    )
    assert hasattr(tuning.dynamo_config, variant_limit(tuning.dynamo_config))


@pytest.mark.slow
def test_compiled_networks_give_the_same_features(plain: dict[str, np.ndarray]) -> None:
    torch.compiler.reset()
    assert_equal(features(load_config("demo", [*RANDOM, "extraction.compile=true"])), plain)


def test_every_block_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        torch, "compile", lambda call, **_: compiled.append(type(call.__self__).__name__)
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
