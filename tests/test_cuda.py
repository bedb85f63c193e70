"""On a card: the features, stores and training of the CPU. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache import FeatureStore, verify_store
from configs import Config, load_config
from heads.sources import CachedFeatures
from heads.training.checkpoint import load_checkpoint
from heads.training.run import Run
from heads.training.train import train
from pipeline.job import load_networks
from pipeline.networks.transfer import Downloader, to_device
from pipeline.precompute import precompute

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

CUDA = torch.device("cuda")
WORLD = ["dataset.size=96", "extraction.batch_size=8", "extraction.workers=0"]


def world(device: str, *overrides: str) -> Config:
    return load_config("demo", [*WORLD, f"extraction.device={device}", *overrides])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureStore]:
    """The same features, computed on the CPU and on the card."""
    root = tmp_path_factory.mktemp("stores")
    for device in ("cpu", "cuda"):
        precompute(world(device, "extraction.store_dtype=float32"), root / device)
        assert verify_store(root / device).sound
    return {device: FeatureStore.open(root / device) for device in ("cpu", "cuda")}


def squares(n: int) -> tuple[np.ndarray, list[str]]:
    """Random squares, the same ones for every n, and hashes."""
    values = np.random.default_rng(0).integers(0, 256, (8, 3, 96, 96), dtype=np.uint8)
    return values[:n], [f"{i:064x}" for i in range(n)]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_copies_there_and_back_are_whole_while_the_card_works() -> None:
    busy, downloader = torch.randn(4096, 4096, device=CUDA), Downloader(CUDA)
    values = [torch.full((512, 512), float(n)) for n in range(20)]
    under_way = []
    for value in values:
        there = to_device(value, CUDA)
        busy = busy @ busy / 4096
        with torch.cuda.stream(downloader._stream):
            # The copy comes late: what it reads must not have gone to another tensor by then.
            torch.cuda._sleep(10**8)
        under_way.append(downloader.start({"n": there * 2, "host": value}))
        del there
    for value, download in zip(values, under_way, strict=True):
        found = download.arrays()
        assert np.array_equal(found["n"], 2 * value.numpy())
        assert np.array_equal(found["host"], value.numpy())


def test_the_card_gives_the_features_of_the_cpu(stores: dict[str, FeatureStore]) -> None:
    cpu, cuda = stores["cpu"], stores["cuda"]
    assert cpu.fingerprint == cuda.fingerprint and cpu.ids == cuda.ids
    ids = cpu.readable(list(cpu.arrays))
    assert len(ids) == len(cpu.ids)
    for name in cpu.arrays:
        error = relative_error(cuda.read(ids, [name])[name], cpu.read(ids, [name])[name])
        assert error < 1e-4, name


def test_the_card_makes_the_same_bytes_again(
    stores: dict[str, FeatureStore], tmp_path: Path
) -> None:
    precompute(world("cuda", "extraction.store_dtype=float32"), tmp_path / "again")
    again, first = FeatureStore.open(tmp_path / "again"), stores["cuda"]
    for name in first.arrays:
        assert torch.equal(again.read(again.ids, [name])[name], first.read(again.ids, [name])[name])


@pytest.mark.parametrize(
    "sets",
    [
        ("extraction.precision=bfloat16",),
        ("extraction.precision=float16",),
        ("extraction.precision=bfloat16", "extraction.channels_last=true"),
        ("extraction.precision=bfloat16", "extraction.compile=true"),
    ],
    ids=" ".join,
)
def test_narrow_types_stay_near(stores: dict[str, FeatureStore], sets: tuple[str, ...]) -> None:
    networks = load_networks(world("cuda", *sets))
    names = list(stores["cpu"].arrays)
    expected = load_networks(world("cpu")).extractor(*squares(8), names)
    for n in (8, 3, 1):
        for name, value in networks.extractor(*squares(n), names).items():
            right = expected[name][:n]
            error = np.sqrt(np.mean((value - right) ** 2) / np.mean(right**2))
            assert error < 0.05, name


def test_a_pass_that_does_not_fit_is_halved_while_another_is_under_way(
    stores: dict[str, FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = load_networks(world("cuda")).extractor
    names = list(stores["cpu"].arrays)
    expected = [extractor(*squares(n), names) for n in (8, 5)]
    first = extractor.start(*squares(8), names)
    whole = torch.cuda.get_device_properties(0).total_memory
    compute, sizes = extractor._from_pixels, []

    def tight(part: np.ndarray, *rest: Any) -> Any:
        sizes.append(len(part))
        if len(part) > 2:
            torch.empty(2 * whole, dtype=torch.uint8, device=CUDA)  # the card's own error
        return compute(part, *rest)

    monkeypatch.setattr(extractor, "_from_pixels", tight)
    second = extractor.start(*squares(5), names)
    assert sizes == [5, 4, 2, 2, 1] and extractor.batch_size == 2
    for found, right in zip((first.arrays(), second.arrays()), expected, strict=True):
        for name, value in found.items():
            np.testing.assert_allclose(value, right[name], atol=1e-4 * np.abs(right[name]).max())


def test_page_locked_batches_read_ahead_are_those_of_the_store(
    stores: dict[str, FeatureStore],
) -> None:
    store, arrays = stores["cpu"], ("sd/t195/s3", "clip/pooled")
    source = CachedFeatures([store], arrays, CUDA)
    assert source.reads_ahead
    assert store.read(store.ids[:2], arrays, pin=True)["clip/pooled"].is_pinned()
    batches = [store.ids[i : i + 8] for i in range(0, 64, 8)]
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        if following is not None:
            source.expect(following)
        for name, value in source.maps(batch).items():
            assert value.is_cuda
            assert torch.equal(value.cpu(), store.read(batch, [name])[name].float())


@pytest.mark.parametrize("sites", ["[]", "[up.0]"])
def test_a_head_trains_on_the_card(
    stores: dict[str, FeatureStore], tmp_path: Path, sites: str
) -> None:
    config = load_config(
        "shapes/correspondence",
        [
            *("dataset.size=96", "extraction.store_dtype=float32", "train.epochs=2"),
            *("train.device=auto", f"train.injection.sites={sites}", "train.batch_size=4"),
            "train.dropout=0",
        ],
    )
    losses: dict[str, list[float]] = {"auto": [], "cpu": []}
    for device, found in losses.items():
        part = config.train.model_copy(update={"device": device})
        report = train(
            config.model_copy(update={"train": part}),
            [stores["cpu"].path],
            tmp_path / device,
            resume=False,
            listener=lambda progress, found=found: found.append(progress.loss),
        )
        assert report.steps > 0
    assert losses["auto"][0] == pytest.approx(losses["cpu"][0], rel=0.02)
    weights = load_checkpoint(Run(tmp_path / "auto").best).tensors
    assert all(tensor.isfinite().all() for tensor in weights.values())
    finished = train(config, [], tmp_path / "auto", resume=True)
    assert finished.steps == report.steps
