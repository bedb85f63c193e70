"""What narrower types cost: against an independent computation, and where they overflow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from cache import ArraySpec, FeatureStore
from cli import main
from pipeline.numerics import FLOAT16_MAX, loss, round_trip
from tests import tiny
from tests.heads.worlds import save_networks, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks and five pictures, one of which cannot be read."""
    root = tmp_path_factory.mktemp("numerics")
    save_networks(root)
    tiny.save_injection(root / "injection.safetensors")
    tiny.write_images(root / "pictures" / "one", 4, seed=1)
    (root / "pictures" / "one" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    path = write_config(root / "c.yaml", root, {"name": "folder", "root": str(root / "pictures")})
    path.write_text(path.read_text().replace("extraction:", "extraction:\n  layers: [s4, s5]"))
    return path


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def relative(values: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """RMS and largest error over the reference's RMS, with other operations than the product's."""
    error, exact = (torch.from_numpy(a).double() for a in (values - reference, reference))
    rms = exact.square().mean().sqrt()
    return float(error.square().mean().sqrt() / rms), float(error.abs().max() / rms)


def stored(config: Path, out: Path, **extraction: str) -> FeatureStore:
    """A store precomputed by the command, with some keys of the extraction changed."""
    sets = [w for key, value in extraction.items() for w in ("--set", f"extraction.{key}={value}")]
    result = CliRunner().invoke(main, ["precompute", str(config), "--out", str(out), *sets])
    assert result.exit_code == 0, result.output
    return FeatureStore.open(out)


def test_errors_are_those_between_stores(config: Path, tmp_path: Path) -> None:
    result = doctor(config, "--numerics", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    exact = stored(config, tmp_path / "exact")
    ids = report["images"]
    assert ids == exact.readable(exact.arrays)
    assert list(report["left_out"]) == ["one/torn.png"]
    reference = {name: v.numpy() for name, v in exact.read(ids, list(exact.arrays)).items()}
    assert report["arrays"].keys() == reference.keys()
    others = {
        ("precision", "bfloat16"): {"precision": "bfloat16"},
        ("precision", "float16"): {"precision": "float16"},
        ("store_dtype", "float16"): {"store_dtype": "float16"},
        ("store_dtype", "int8"): {"store_dtype": "int8"},
    }
    for (kind, dtype), keys in others.items():
        store = stored(config, tmp_path / f"{kind}-{dtype}", **keys)
        for name, values in store.read(ids, list(store.arrays)).items():
            found = report["arrays"][name][kind][dtype]
            rms, largest = relative(values.float().numpy(), reference[name])
            assert found["finite"]
            assert found["rms"] == pytest.approx(rms, rel=1e-5, abs=1e-12)
            assert found["max"] == pytest.approx(largest, rel=1e-5, abs=1e-12)
    for name, values in reference.items():
        found = report["arrays"][name]
        assert found["largest"] == pytest.approx(float(np.abs(values).max()))
        assert found["precision"]["float32"] == {"finite": True, "rms": 0.0, "max": 0.0}
    assert report["arrays"]["sd/t195/s4"]["precision"]["bfloat16"]["rms"] > 1e-3
    assert report["arrays"]["clip/pooled"]["store_dtype"]["int8"]["rms"] == 0.0  # stays float32
    assert report["sound"] and "extraction.store_dtype=" in report["advice"]


def test_a_table_for_people(config: Path) -> None:
    result = doctor(config, "--numerics", "--images", 2)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("2 images of c on cpu")
    heads = ["computed in bfloat16", "computed in float16", "stored as float16", "stored as int8"]
    assert all(head in lines[1] for head in heads)
    assert any(line.startswith("vae/latent") for line in lines)
    assert lines[-1].startswith("do: ")


def large_injection(config: Path, path: Path, factor: float) -> str:
    """An injection so strong that features leave float16's range."""
    tensors = load_file(config.parent / "injection.safetensors")
    save_file({name: factor * tensor for name, tensor in tensors.items()}, path)
    return f"extraction.injection={path}"


def test_overflow_is_told_before_a_store_is_made(config: Path, tmp_path: Path) -> None:
    strong = ["--set", large_injection(config, tmp_path / "i.safetensors", 1e6)]
    result = doctor(config, "--numerics", "--json", *strong)
    assert result.exit_code == 0  # the configuration asks for float32 in both places
    report = json.loads(result.stdout)
    array = report["arrays"]["sd/t195/s5"]
    assert array["largest"] > FLOAT16_MAX
    assert not array["store_dtype"]["float16"]["finite"]
    assert not array["precision"]["float16"]["finite"]
    assert array["precision"]["bfloat16"]["finite"] and array["store_dtype"]["int8"]["finite"]
    assert "float16 overflows in" in report["advice"]
    asked = doctor(config, "--numerics", *strong, "--set", "extraction.store_dtype=float16")
    assert asked.exit_code == 1 and "not finite" in asked.stdout


@pytest.mark.parametrize(
    ("key", "hint"),
    [("precision", "set extraction.precision to bfloat16"), ("store_dtype", "store_dtype to")],
)
def test_overflow_stops_the_shard_and_names_the_images(
    config: Path, tmp_path: Path, key: str, hint: str
) -> None:
    strong = ["--set", large_injection(config, tmp_path / "i.safetensors", 1e6)]
    out = ["--out", str(tmp_path / "store"), "--set", f"extraction.{key}=float16"]
    result = CliRunner().invoke(main, ["precompute", str(config), *out, *strong])
    assert result.exit_code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and hint in last
    assert all(f"one/picture_00{i}." in last for i in range(4))
    store = FeatureStore.open(tmp_path / "store")
    assert not any(rows.any() for rows in store.committed.values())


def test_numbers_of_one_array() -> None:
    reference = np.array([[3.0, -4.0], [0.0, 0.0]], np.float32)  # RMS 2.5
    found = loss(reference + np.float32(0.5), reference)
    assert (found.finite, found.rms, found.max) == (True, 0.2, 0.2)
    assert not loss(np.full_like(reference, np.inf), reference).finite
    assert loss(np.zeros_like(reference), np.zeros_like(reference)).rms == 0.0
    spec = ArraySpec("a", (2,), "float16")
    assert round_trip(np.array([[1e5, 0]], np.float32), spec, ["x"]) is None
    assert round_trip(np.array([[2049, 0]], np.float32), spec, ["x"]).tolist() == [[2048, 0]]  # type: ignore[union-attr]


def test_nothing_to_measure(tmp_path: Path, config: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "torn.png").write_bytes(b"torn")
    result = doctor(config, "--numerics", "--set", f"dataset.root={tmp_path / 'pictures'}")
    assert result.exit_code == 1
    assert "can be read" in result.stderr and len(result.stderr.strip().splitlines()) == 1
