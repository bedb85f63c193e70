"""Cached and live features are the same features, and only what should learn learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache import FeatureStore, QuarantinedImage, Recipe, RecipeMismatch, StoreError, UnknownImage
from configs import DatasetConfig
from heads import sources
from heads.sources import (
    CachedFeatures,
    LiveFeatures,
    LiveOptions,
    SourceError,
    choose_source,
    trained_sites,
)
from pipeline.networks.backbone import Backbone
from pipeline.networks.injection import Injection, load_injection
from tests import tiny
from tests.heads.source_world import (
    ARRAYS,
    CPU,
    PLAIN,
    SD_ARRAYS,
    TIMESTEPS,
    World,
    assert_close,
    gradients,
    loss_of,
    make_world,
    stage_one,
    watched_blocks,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def unet_calls(world: World) -> Iterator[list[str]]:
    with watched_blocks(world.backbone.unet) as calls:
        yield calls


# The two sources give the same thing.


@pytest.mark.parametrize(
    "trained",
    [tiny.SITES, tiny.SITES[4:], ("down.0",), ("down.2", "up.1"), ("down.3",), ("up.2",)],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "options",
    [PLAIN, LiveOptions(checkpointing=True, prefix_bytes=150_000)],  # room for some images
    ids=["plain", "checkpointing and prefixes"],
)
def test_live_equals_cached(world: World, trained: tuple[str, ...], options: LiveOptions) -> None:
    cached = CachedFeatures([world.injected], ARRAYS, CPU)
    live = world.live(trained, options)
    assert live.ids == cached.ids and len(cached.ids) == 5
    assert live.shapes == cached.shapes
    ids = [*reversed(cached.ids), cached.ids[1]]
    expected = cached.maps(ids)
    for _ in range(2):  # the second time from memory, where there is one
        found = live.maps(ids)
        assert_close(found, expected)
        assert {v.dtype for v in found.values()} == {torch.float32}
        assert all(v.shape[1:] == cached.shapes[name] for name, v in found.items())
    # A batch of another composition.
    assert_close(live.maps(ids[1:2]), cached.maps(ids[1:2]))


def test_a_site_without_weights_is_not_injected(world: World, tmp_path: Path) -> None:
    sites = ("down.1", "up.1")
    path = tiny.save_injection(tmp_path / "two.safetensors", sites=sites, seed=4)
    store = stage_one(world.config, tmp_path / "store", injection=path)
    module = load_injection(path, world.backbone.clip.width, world.backbone.channels)
    module["up.1"].requires_grad_(True)
    live = LiveFeatures([world.plain], ARRAYS, world.backbone, module)
    assert_close(live.maps(live.ids), CachedFeatures([store], ARRAYS, CPU).maps(live.ids))


def test_only_what_is_asked_for_is_computed(world: World, unet_calls: list[str]) -> None:
    arrays = ["sd/t195/s5"]
    live = world.live(("down.3",), arrays=arrays)
    found = live.maps(live.ids[:2])
    assert_close(found, CachedFeatures([world.injected], arrays, CPU).maps(live.ids[:2]))
    assert unet_calls == ["down.0", "down.1", "down.2", "down.3", "mid", "up.0"] * 2  # draws


def test_remembered_prefixes_are_not_computed_again(world: World, unet_calls: list[str]) -> None:
    live = world.live(("up.1", "up.2"), LiveOptions(prefix_bytes=10**9))
    first = live.maps(live.ids)
    unet_calls.clear()
    again = live.maps(live.ids)
    assert set(unet_calls) == {"up.2"}
    for name, value in first.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=0)


def test_memory_for_prefixes_is_bounded(world: World, unet_calls: list[str]) -> None:
    per_entry = (
        4 * tiny.UNET_CHANNELS[0] * 5 * 5
    )  # down.0's output in float32: nothing else is needed
    live = world.live(options=LiveOptions(prefix_bytes=3 * per_entry + 1))
    for image_id in live.ids:
        live.maps([image_id])
    unet_calls.clear()
    for image_id in live.ids:
        live.maps([image_id])
    n_starts = len(live.ids) * len(TIMESTEPS) * 2
    assert unet_calls.count("down.0") == n_starts - 3
    assert unet_calls.count("down.1") == n_starts


# What learns.


@pytest.mark.parametrize(
    "options",
    [PLAIN, LiveOptions(checkpointing=True, prefix_bytes=10**9)],
    ids=["plain", "checkpointing and prefixes"],
)
@pytest.mark.parametrize("trained", [tiny.SITES, ("down.1", "up.0"), ("up.2",)], ids=" ".join)
def test_every_trained_tensor_moves_and_nothing_else(
    world: World, trained: tuple[str, ...], options: LiveOptions
) -> None:
    live = world.live(trained, options)
    backbone = world.backbone
    frozen = {
        name: value.clone()
        for model in (backbone.unet, backbone.vae, backbone.clip.visual)
        for name, value in model.state_dict().items()
    }
    before = {name: value.clone() for name, value in live.injection.state().items()}
    optimiser = torch.optim.AdamW(
        [p for p in live.injection.parameters() if p.requires_grad], lr=1e-3, weight_decay=0
    )
    losses = []
    for _ in range(3):
        loss = loss_of(live.maps(live.ids[:3]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    for name, value in live.injection.state().items():
        site, _, kind = name.rpartition(".")
        parameter = getattr(live.injection[site], kind)
        if site in trained:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
            assert not torch.equal(value, before[name]), name
        else:
            assert parameter.grad is None, name
            assert torch.equal(value, before[name]), name
    for model in (backbone.unet, backbone.vae, backbone.clip.visual):
        assert not model.training and not any(m.training for m in model.modules())
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())
        assert all(torch.equal(frozen[name], v) for name, v in model.state_dict().items())


@pytest.mark.parametrize("trained", [tiny.SITES, ("down.3", "up.1")], ids=" ".join)
def test_options_change_no_gradient(world: World, trained: tuple[str, ...]) -> None:
    ids = world.plain.readable(["vae/latent"])[:2]
    expected = gradients(world.live(trained), ids)
    for options in (LiveOptions(checkpointing=True), LiveOptions(prefix_bytes=10**9)):
        source = world.live(trained, options)
        for _ in range(2):
            for name, gradient in gradients(source, ids).items():
                reference = expected[name]
                if reference is None:
                    assert gradient is None
                    continue
                torch.testing.assert_close(
                    gradient, reference, atol=1e-5 * reference.abs().max().item(), rtol=1e-4
                )


def test_starting_in_the_middle_changes_no_gradient(world: World) -> None:
    """The gradients of late sites are those of the full pass, in which all sites learn."""
    full = gradients(world.live(), world.plain.readable(["vae/latent"])[:2])
    late = gradients(world.live(tiny.SITES[4:]), world.plain.readable(["vae/latent"])[:2])
    for name, gradient in late.items():
        if gradient is None:
            assert name.startswith("_convs.down")
        else:
            torch.testing.assert_close(gradient, full[name], atol=1e-7, rtol=1e-4)


def test_checkpointing_runs_blocks_again_in_the_backward_pass(
    world: World, unet_calls: list[str]
) -> None:
    live = world.live(tiny.SITES, LiveOptions(checkpointing=True), ["sd/t195/s3"])
    loss = loss_of(live.maps(live.ids[:1]))
    forward = unet_calls.count("up.1")
    loss.backward()
    assert forward == 2 and unet_calls.count("up.1") == 2 * forward
    # What runs without gradients is not run again, and neither is anything while validating.
    assert unet_calls.count("down.0") == forward
    with torch.no_grad():
        assert not live.maps(live.ids[:1])["sd/t195/s3"].requires_grad


def test_fresh_noise_differs_at_each_call_and_repeats_with_torchs_seed(world: World) -> None:
    live = world.live(options=LiveOptions(fresh_noise=True), arrays=["sd/t195/s3", "clip/tokens"])
    recipes = world.live().maps(live.ids)["sd/t195/s3"]
    torch.manual_seed(1)
    one, two = (live.maps(live.ids)["sd/t195/s3"] for _ in range(2))
    torch.manual_seed(1)
    again = live.maps(live.ids)["sd/t195/s3"]
    assert torch.equal(one, again)
    assert (one - two).abs().max() > 0.01 < (one - recipes).abs().max()


# Which source, and on what.


def test_the_question_decides(world: World, unet_calls: list[str]) -> None:
    def refuse() -> Backbone:
        raise AssertionError("the backbone must not be loaded")

    source, line = choose_source([world.plain], ARRAYS, None, refuse, CPU)
    assert isinstance(source, CachedFeatures)
    assert line.startswith("features: cached in ") and "no injection parameter" in line
    source, line = choose_source([world.injected], ARRAYS, world.injection(()), refuse, CPU)
    assert isinstance(source, CachedFeatures)
    source.maps(source.ids)
    assert not unet_calls

    some = world.injection(("down.1", "up.2"))
    options = LiveOptions(checkpointing=True)
    source, line = choose_source(
        [world.plain], ARRAYS, some, lambda: world.backbone, CPU, live=options
    )
    assert isinstance(source, LiveFeatures) and source.options == options
    assert line.startswith("features: live") and "down.1, up.2 requires gradients" in line
    assert str(world.plain.path) in line and "\n" not in line


def test_one_learning_bias_is_enough(world: World) -> None:
    injection = world.injection(())
    assert trained_sites(injection) == ()
    injection["up.1"].bias.requires_grad_(True)
    assert trained_sites(injection) == ("up.1",)


def test_cached_features_of_another_injection_are_refused(world: World, tmp_path: Path) -> None:
    def choose(store: FeatureStore, injection: Injection | None) -> object:
        return choose_source([store], ARRAYS, injection, lambda: world.backbone, CPU)

    with pytest.raises(RecipeMismatch, match="injection: store has null"):
        choose(world.plain, world.injection(()))
    with pytest.raises(RecipeMismatch, match=r"injection: store has .*requested null"):
        choose(world.injected, None)
    other = tiny.save_injection(tmp_path / "other.safetensors", seed=9)
    frozen = load_injection(other, world.backbone.clip.width, world.backbone.channels)
    with pytest.raises(RecipeMismatch, match="injection"):
        choose(world.injected, frozen)


def test_a_recipe_asked_for_is_enforced_by_both(world: World) -> None:
    fields = dict(world.plain.recipe.fields)
    other = Recipe(fields | {"seed": 4})
    for injection in (None, world.injection()):
        for recipe, fits in ((world.plain.recipe, True), (other, False)):
            arguments = ([world.plain], ARRAYS, injection, lambda: world.backbone, CPU, recipe)
            if fits:
                source, _ = choose_source(*arguments)
                assert source.recipe.fingerprint == world.plain.fingerprint
            else:
                with pytest.raises(RecipeMismatch, match="seed: store has 3, requested 4"):
                    choose_source(*arguments)


def test_live_starts_from_any_stores_latents_but_only_of_the_same_networks(world: World) -> None:
    live = LiveFeatures([world.injected], ARRAYS, world.backbone, world.injection())
    assert_close(live.maps(live.ids), CachedFeatures([world.injected], ARRAYS, CPU).maps(live.ids))
    digests = dict(world.backbone.digests) | {"vae": "0" * 64}
    stranger = replace(world.backbone, digests=digests)
    with pytest.raises(RecipeMismatch, match="vae: store has"):
        LiveFeatures([world.plain], ARRAYS, stranger, world.injection())


def test_what_live_cannot_be_asked_for(world: World) -> None:
    with pytest.raises(SourceError, match="read the cache"):
        world.live(())
    with pytest.raises(SourceError, match=r"up\.2 is trained, but no layer .*s4"):
        world.live(("up.0", "up.2"), arrays=["sd/t195/s4", "clip/tokens"])
    with pytest.raises(SourceError, match="no layer s9"):
        world.live(arrays=["sd/t195/s9"])
    with pytest.raises(ValueError, match="beyond this checkpoint's last"):
        world.live(arrays=["sd/t5000/s3"])
    with pytest.raises(SourceError, match="fresh noise"):
        LiveOptions(fresh_noise=True, prefix_bytes=1)
    with pytest.raises(StoreError, match="no array dino/tokens; it holds"):
        world.live(arrays=["sd/t195/s3", "dino/tokens"])


# Several stores.


def store_of(world: World, tmp_path: Path, name: str, rows: Sequence[int]) -> FeatureStore:
    """A store of some of the world's pictures, under the same ids."""
    folder = tmp_path / name / "pictures"
    folder.mkdir(parents=True)
    for path in (sorted((world.root / "pictures").glob("picture*"))[row] for row in rows):
        (folder / path.name).write_bytes(path.read_bytes())
    config = world.config.model_copy(update={"dataset": DatasetConfig(name="folder", root=folder)})
    return stage_one(config, tmp_path / name / "store")


def test_several_stores_read_as_one(world: World, tmp_path: Path) -> None:
    parts = [store_of(world, tmp_path, "a", [3, 1]), store_of(world, tmp_path, "b", [0, 1, 2, 4])]
    whole = CachedFeatures([world.plain], ARRAYS, CPU)
    several = CachedFeatures(parts, ARRAYS, CPU)
    assert sorted(several.ids) == sorted(whole.ids)
    ids = [whole.ids[row] for row in (4, 3, 0, 1, 3, 2)]
    assert_close(several.maps(ids), whole.maps(ids))
    live = LiveFeatures(parts, SD_ARRAYS, world.backbone, world.injection())
    injected = CachedFeatures([world.injected], SD_ARRAYS, CPU)
    assert_close(live.maps(ids), injected.maps(ids))
    assert several.maps([])["sd/t195/s3"].shape == (0, *whole.shapes["sd/t195/s3"])


def test_stores_that_do_not_go_together_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(RecipeMismatch, match="injection"):
        CachedFeatures([world.plain, world.injected], ARRAYS, CPU)
    with pytest.raises(StoreError, match="name at least one"):
        CachedFeatures([], ARRAYS, CPU)
    with pytest.raises(StoreError, match="no array sd/t7/s3; it holds"):
        CachedFeatures([world.plain], ["sd/t7/s3"], CPU)
    # Another picture under a name that the first store knows.
    tiny.write_images(tmp_path / "c" / "pictures", 1, seed=5)
    dataset = DatasetConfig(name="folder", root=tmp_path / "c" / "pictures")
    other = stage_one(world.config.model_copy(update={"dataset": dataset}), tmp_path / "c" / "s")
    with pytest.raises(StoreError, match="another picture"):
        CachedFeatures([world.plain, other], ARRAYS, CPU)


def test_images_that_are_not_there_are_errors_by_name(world: World) -> None:
    for source in (CachedFeatures([world.plain], ARRAYS, CPU), world.live()):
        assert "broken.png" not in source.ids
        with pytest.raises(QuarantinedImage, match=r"broken\.png"):
            source.maps([source.ids[0], "broken.png"])
        with pytest.raises(UnknownImage, match=r"nowhere\.png"):
            source.maps(["nowhere.png"])


def test_half_precision_stores_come_as_float32_near_the_live_features(
    world: World, tmp_path: Path
) -> None:
    injection = world.root / "injection.safetensors"
    for dtype, tolerance in (("float16", 0.01), ("int8", 0.1)):
        store = stage_one(world.config, tmp_path / dtype, injection=injection, store_dtype=dtype)
        cached = CachedFeatures([store], ARRAYS, CPU)
        live = LiveFeatures([store], ARRAYS, world.backbone, world.injection())
        ours = live.maps(live.ids)
        for name, value in cached.maps(live.ids).items():
            assert value.dtype == torch.float32
            assert (value - ours[name]).norm() < tolerance * value.norm(), name


def test_both_are_feature_sources(world: World) -> None:
    wanted = sources.FeatureSource.__annotations__
    for source in (CachedFeatures([world.plain], ARRAYS, CPU), world.live()):
        assert all(hasattr(source, name) for name in wanted)
