"""Live features that start at a stored prefix are those that start at the latents."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cache import FeatureStore
from heads.sources import CachedFeatures, LiveFeatures, LiveOptions, choose_source
from heads.sources.prefixes import Memory
from pipeline.networks.injection import Injection
from pipeline.networks.unet import block_sequence
from pipeline.precompute import Part, precompute
from tests import tiny
from tests.heads.source_world import (
    ARRAYS,
    CPU,
    PLAIN,
    World,
    assert_close,
    gradients,
    loss_of,
    make_world,
    stage_one,
    state_of,
    watched_blocks,
)

CHECKPOINTING = LiveOptions(checkpointing=True)
REMEMBERING = LiveOptions(prefix_bytes=10**9)


@pytest.fixture(
    scope="module",
    params=[("sd2", 72, 24, 2), ("sd15", 56, 14, 1)],  # latents of 9 x 9 and 7 x 7
    ids=["sd2-9x9-ensemble", "sd15-7x7"],
)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), *request.param)


@pytest.fixture(scope="module")
def stores(world: World) -> dict[str, FeatureStore]:
    """The world's two stores with the prefixes of all sites, added one after the other."""
    grown = {}
    for name, injection in (("plain", None), ("injected", world.root / "injection.safetensors")):
        out = world.root / f"{name}-prefixes"
        shutil.copytree(world.root / name, out)
        for site in tiny.SITES:
            grown[name] = stage_one(world.config, out, injection=injection, prefix=site)
    return grown


def live(
    world: World,
    stores: Sequence[FeatureStore],
    injection: Injection,
    options: LiveOptions = PLAIN,
    arrays: Sequence[str] = ARRAYS,
) -> LiveFeatures:
    return LiveFeatures(stores, arrays, world.backbone, injection, options=options)


def sites_from(first: str) -> tuple[str, ...]:
    return tiny.SITES[tiny.SITES.index(first) :]


def blocks_up_to(world: World, site: str) -> set[str]:
    blocks = block_sequence(world.backbone.unet)
    return set(blocks[: blocks.index(site) + 1])


def starts_at(world: World, source: LiveFeatures, site: str) -> bool:
    """Whether no block up to the site runs; the source must say so in words, too."""
    with watched_blocks(world.backbone.unet) as calls, torch.no_grad():
        source.maps(source.ids)
    uses = not blocks_up_to(world, site) & set(calls)
    assert uses == (source.start == f"it starts at the stored prefix at {site}"), source.start
    return uses


# The same numbers.


@pytest.mark.parametrize("first", tiny.SITES)
@pytest.mark.parametrize("options", [PLAIN, CHECKPOINTING], ids=["plain", "checkpointing"])
def test_features_and_gradients_are_those_without_a_prefix(
    world: World, stores: dict[str, FeatureStore], first: str, options: LiveOptions
) -> None:
    trained = sites_from(first)
    with_prefix = live(world, [stores["injected"]], world.injection(trained), options)
    without = live(world, [world.injected], world.injection(trained), options)
    assert starts_at(world, with_prefix, first)
    assert not starts_at(world, without, first)
    ids = [*reversed(with_prefix.ids), with_prefix.ids[1]]
    found = with_prefix.maps(ids)
    assert_close(found, without.maps(ids), 1e-5)
    assert_close(found, CachedFeatures([world.injected], ARRAYS, CPU).maps(ids), 1e-5)
    assert {value.dtype for value in found.values()} == {torch.float32}
    expected = gradients(without, ids[:2])
    for name, gradient in gradients(with_prefix, ids[:2]).items():
        reference = expected[name]
        assert (gradient is None) == (reference is None), name
        if gradient is not None and reference is not None:
            torch.testing.assert_close(
                gradient, reference, atol=1e-5 * reference.abs().max().item(), rtol=1e-4
            )


def test_one_trained_site_amid_frozen_ones(world: World, stores: dict[str, FeatureStore]) -> None:
    source = live(world, [stores["injected"]], world.injection(["down.2"]))
    assert starts_at(world, source, "down.2")
    expected = CachedFeatures([world.injected], ARRAYS, CPU)
    assert_close(source.maps(source.ids), expected.maps(source.ids), 1e-5)


def test_only_what_is_trained_moves(world: World, stores: dict[str, FeatureStore]) -> None:
    source = live(world, [stores["injected"]], world.injection(("down.1", "up.0")))
    backbone = world.backbone
    frozen = state_of(backbone.unet, backbone.vae, backbone.clip.visual)
    before = {name: value.clone() for name, value in source.injection.state().items()}
    parameters = [p for p in source.injection.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0)
    losses = []
    for _ in range(3):
        loss = loss_of(source.maps(source.ids[:3]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
    for name, value in source.injection.state().items():
        learns = name.startswith(("down.1.", "up.0."))
        assert torch.equal(value, before[name]) != learns, name
    for ours, theirs in zip(
        state_of(backbone.unet, backbone.vae, backbone.clip.visual), frozen, strict=True
    ):
        assert torch.equal(ours, theirs)
    # A run that goes on from here finds the sites in front as they were.
    again = live(world, [stores["injected"]], source.injection)
    assert starts_at(world, again, "down.1")
    # Trained further, the features are no longer the store's, with or without its prefix.
    without = live(world, [world.injected], source.injection)
    assert_close(again.maps(again.ids), without.maps(again.ids), 1e-5)


# When a prefix is used, and when it is not.


def test_a_plain_store_serves_whatever_injects_nothing_in_front(
    world: World, stores: dict[str, FeatureStore], tmp_path: Path
) -> None:
    everything = live(world, [stores["plain"]], world.injection())
    assert starts_at(world, everything, "down.0")
    expected = CachedFeatures([world.injected], ARRAYS, CPU).maps(everything.ids)
    assert_close(everything.maps(everything.ids), expected, 1e-5)
    ups = tiny.save_injection(tmp_path / "ups.safetensors", sites=tiny.SITES[4:])
    assert starts_at(
        world, live(world, [stores["plain"]], world.injection(tiny.SITES[4:], ups)), "up.0"
    )


def test_a_prefix_of_another_injection_in_front_is_not_used(
    world: World, stores: dict[str, FeatureStore], tmp_path: Path
) -> None:
    frozen_downs = world.injection(tiny.SITES[4:])
    expected = live(world, [world.plain], frozen_downs)
    source = live(world, [stores["plain"]], frozen_downs)
    assert not starts_at(world, source, "up.0")
    assert "has another injection before it" in source.start
    assert_close(source.maps(source.ids), expected.maps(source.ids), 1e-5)
    # None where the store has one, and one whose weights differ at a single site.
    ups = tiny.save_injection(tmp_path / "ups.safetensors", sites=tiny.SITES[4:])
    assert not starts_at(
        world, live(world, [stores["injected"]], world.injection(tiny.SITES[4:], ups)), "up.0"
    )
    altered = world.injection(("down.2", "up.2"))
    with torch.no_grad():
        altered["down.1"].bias[0] += 1e-3
    source = live(world, [stores["injected"]], altered)
    assert not starts_at(world, source, "down.2")
    expected = live(world, [world.plain], altered)
    assert_close(source.maps(source.ids), expected.maps(source.ids), 1e-5)
    altered["down.1"].requires_grad_(True)  # what differs lies no longer in front
    assert starts_at(world, live(world, [stores["injected"]], altered), "down.1")


def test_a_store_that_does_not_say_what_was_injected_where(
    world: World, stores: dict[str, FeatureStore]
) -> None:
    store = FeatureStore.open(stores["injected"].path)
    store.provenance = {}
    assert not starts_at(world, live(world, [store], world.injection(["up.1"])), "up.1")
    assert starts_at(world, live(world, [store], world.injection()), "down.0")


def test_fresh_noise_has_no_prefix(world: World, stores: dict[str, FeatureStore]) -> None:
    fresh = LiveOptions(fresh_noise=True)
    source = live(world, [stores["injected"]], world.injection(), fresh)
    assert not starts_at(world, source, "down.0")
    assert "fresh noise" in source.start
    plain = live(world, [world.injected], world.injection(), fresh)
    torch.manual_seed(2)
    ours = source.maps(source.ids)
    torch.manual_seed(2)
    assert_close(ours, plain.maps(source.ids), 1e-6)


def test_the_prefix_of_another_site_is_not_used(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.plain.path, tmp_path / "s")
    store = stage_one(world.config, tmp_path / "s", prefix="down.1")
    source = live(world, [store], world.injection())
    assert not starts_at(world, source, "down.0")
    assert "extraction.prefix=down.0 adds it" in source.start


def test_layers_before_the_site_come_from_the_store_or_nothing_does(
    world: World, tmp_path: Path
) -> None:
    injection = world.root / "injection.safetensors"
    few = {"injection": injection, "layers": ("s3",), "prefix": "up.1"}
    store = stage_one(world.config, tmp_path / "s", **few)
    module = world.injection(["up.1", "up.2"])
    late = ["sd/t195/s3", "sd/t195/s4"]
    assert starts_at(world, live(world, [store], module, arrays=late), "up.1")
    source = live(world, [store], module, arrays=[*late, "sd/t195/s5"])
    assert not starts_at(world, source, "up.1")
    expected = CachedFeatures([world.injected], source.arrays, CPU).maps(source.ids)
    assert_close(source.maps(source.ids), expected, 1e-5)


@pytest.mark.parametrize("options", [PLAIN, REMEMBERING], ids=["plain", "remembering"])
def test_what_is_not_stored_is_computed_or_remembered(
    world: World, tmp_path: Path, options: LiveOptions
) -> None:
    """Prefixes of one shard and one timestep: batches mix images that have them with others."""
    shutil.copytree(world.plain.path, tmp_path / "s")
    extraction = world.config.extraction.model_copy(
        update={"prefix": "down.0", "timesteps": (195,)}
    )
    precompute(
        world.config.model_copy(update={"extraction": extraction}), tmp_path / "s", Part(2, 3)
    )
    store = FeatureStore.open(tmp_path / "s")
    source = live(world, [store], world.injection(), options)
    assert source.start.endswith("at down.0 for 2 of 10 pairs of image and timestep")
    ids = [source.ids[row] for row in (4, 1, 3, 0, 2)]
    expected = CachedFeatures([world.injected], ARRAYS, CPU).maps(ids)
    draws = world.config.extraction.ensemble
    for turn in range(2):
        with watched_blocks(world.backbone.unet) as calls:
            assert_close(source.maps(ids), expected, 1e-5)
        # One pass per timestep and draw, for those that have no prefix.
        again = turn == 1 and options is REMEMBERING
        assert calls.count("down.0") == (0 if again else 2 * draws)
        assert calls.count("down.1") == 2 * draws
        # The order of a batch is kept whichever of its images have one.
        stored = [image_id for image_id in ids if image_id in source.ids[1:3]]
        ours = source.maps(stored[::-1])
        assert_close(ours, CachedFeatures([world.injected], ARRAYS, CPU).maps(stored[::-1]), 1e-5)


def test_of_several_stores_each_gives_what_it_has(
    world: World, stores: dict[str, FeatureStore]
) -> None:
    source = live(world, [world.plain, stores["plain"]], world.injection())
    assert starts_at(world, source, "down.0")
    expected = CachedFeatures([world.injected], ARRAYS, CPU).maps(source.ids)
    assert_close(source.maps(source.ids), expected, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.01), ("int8", 0.1)])
def test_narrow_stores_start_near_the_exact_features(
    world: World, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    injection = world.root / "injection.safetensors"
    changes = {"injection": injection, "store_dtype": dtype, "prefix": "down.3"}
    store = stage_one(world.config, tmp_path / "s", **changes)
    source = live(world, [store], world.injection(sites_from("down.3")))
    assert starts_at(world, source, "down.3")
    exact = CachedFeatures([world.injected], ARRAYS, CPU).maps(source.ids)
    for name, value in source.maps(source.ids).items():
        assert value.dtype == torch.float32
        assert (value - exact[name]).norm() < tolerance * exact[name].norm(), name


def test_the_log_line_says_where_it_starts(world: World, stores: dict[str, FeatureStore]) -> None:
    for store, says in (
        (stores["plain"], "requires gradients; it starts at the stored prefix at down.0"),
        (world.plain, "requires gradients; it starts at the latents: no prefix at down.0 is "),
    ):
        _, line = choose_source([store], ARRAYS, world.injection(), lambda: world.backbone, CPU)
        assert says in line and "\n" not in line


def test_memory_keeps_what_fits() -> None:
    memory = Memory(2 * 4 * 3 + 1)
    keys = [("a", 1, 0), ("b", 1, 0), ("c", 1, 0)]
    batch = {"hidden": torch.arange(9.0).reshape(3, 3)}
    memory.keep(keys, batch)
    assert [key in memory for key in keys] == [True, True, False]
    assert torch.equal(memory.read([keys[1], keys[0]], CPU)["hidden"], batch["hidden"][[1, 0]])
