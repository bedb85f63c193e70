"""What is under way on a device reaches the store in order, whole, and only once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.extraction.extract as extract
from cache import FeatureStore, verify_store
from configs import Config, DatasetConfig, load_config
from pipeline.extraction.extract import Extractor
from pipeline.networks.transfer import Downloader, to_device
from pipeline.precompute import PrecomputeReport, precompute
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Eleven pictures, one of them broken, in shards of 4 and batches of 3."""
    root = tmp_path_factory.mktemp("pictures")
    tiny.write_images(root, 10)
    (root / "005.png").write_bytes(b"not a picture")
    sets = ["backbone.weights=random", "extraction.device=cpu", "extraction.workers=0"]
    made = load_config("demo", [*sets, "extraction.shard_size=4", "extraction.batch_size=3"])
    return made.model_copy(update={"dataset": DatasetConfig(name="folder", root=root)})


class _InFlight:
    """Counts batches that were started and not taken yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n_ahead: int) -> None:
        self.now = self.most = 0
        start, init = Extractor.start, Extractor.__init__

        def counting(this: Extractor, *args: object) -> object:
            computing = start(this, *args)  # type: ignore[arg-type]
            self.now += 1
            self.most = max(self.most, self.now)
            return _Counted(self, computing)

        def ahead(this: Extractor, *args: object) -> None:
            init(this, *args)  # type: ignore[arg-type]
            this.n_ahead = n_ahead

        monkeypatch.setattr(Extractor, "start", counting)
        monkeypatch.setattr(Extractor, "__init__", ahead)


class _Counted:
    def __init__(self, counter: _InFlight, computing: extract.Computing) -> None:
        self._counter, self._computing = counter, computing

    def arrays(self) -> dict[str, np.ndarray]:
        self._counter.now -= 1
        return self._computing.arrays()


def run(config: Config, out: Path) -> tuple[PrecomputeReport, dict[str, str]]:
    """A report, and a digest of every file but the commits, which hold times."""
    report = precompute(config, out)
    assert verify_store(out).sound
    files = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.parent.name != "commits"
    }
    return report, files


@pytest.mark.parametrize("n_ahead", [1, 2, 9])
def test_batches_under_way_make_the_same_store(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_ahead: int
) -> None:
    report, expected = run(config, tmp_path / "plain")
    assert list(report.quarantined) == ["005.png"]
    flights = _InFlight(monkeypatch, n_ahead)
    again, found = run(config, tmp_path / "ahead")
    assert found == expected
    assert flights.most == min(n_ahead + 1, 5) and flights.now == 0
    assert (again.n_computed, again.n_shards_committed) == (report.n_computed, 3)
    assert again.quarantined == report.quarantined


def test_on_a_cpu_nothing_is_under_way(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.job import load_networks

    assert load_networks(config).extractor.n_ahead == 0


def test_an_error_under_way_keeps_what_is_committed(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = run(config, tmp_path / "plain")
    with monkeypatch.context() as patched:
        _InFlight(patched, 1)
        calls = 0
        encode = extract.Backbone.encode_latents

        def failing(this: extract.Backbone, squares: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise RuntimeError("device-side assert")
            return encode(this, squares)

        patched.setattr(extract.Backbone, "encode_latents", failing)
        with pytest.raises(RuntimeError, match="device-side"):
            precompute(config, tmp_path / "ahead")
    assert 0 < len(list((tmp_path / "ahead" / "commits").iterdir())) < 3
    assert run(config, tmp_path / "ahead")[1] == expected


def test_without_a_card_a_transfer_is_a_copy() -> None:
    values = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0, 4)}
    found = Downloader(CPU).start(values).arrays()
    assert all(np.array_equal(found[name], value.numpy()) for name, value in values.items())
    assert to_device(values["a"], CPU) is values["a"]


def test_latents_that_are_stored_take_the_same_way(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = config.extraction.model_copy(update={"timesteps": (50, 195)})
    both = config.model_copy(update={"extraction": later})
    run(both, tmp_path / "at once")
    run(config, tmp_path / "later")
    _InFlight(monkeypatch, 1)
    run(both, tmp_path / "later")
    at_once, grown = (FeatureStore.open(tmp_path / name) for name in ("at once", "later"))
    ids = grown.readable(["sd/t50/s3"])
    assert len(ids) == 10
    for name in grown.arrays:
        assert torch.equal(grown.read(ids, [name])[name], at_once.read(ids, [name])[name]), name
