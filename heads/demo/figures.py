"""The report's figures: plan and reality, where the time went, what the cache saves, the store."""

from __future__ import annotations

import json

from cache.units import human_bytes, human_flops
from heads.demo.records import Demonstration, Stage1
from heads.demo.summary import live_instead
from heads.demo.words import duration, times
from heads.report.markup import Html, join, tag
from heads.report.page import Section, Share, bar, facts, table


def plan_section(stage1: Stage1) -> Section:
    """What was planned beside what was measured."""
    planned, first = stage1.planned, stage1.runs[0]
    rows = [
        ("images", f"{planned.n_to_do:,}", f"{first.n_computed:,}"),
        ("disk", human_bytes(planned.bytes_needed), human_bytes(first.bytes_written)),
        (f"time on {planned.device}", duration(planned.seconds), duration(first.seconds)),
    ]
    cost = ", ".join(f"{name} {human_flops(n)}" for name, n in planned.flops.items())
    body = join(
        tag(
            "p",
            "The plan counts operations on the real architecture without running it, and "
            "measures this machine for half a second. Its bytes include a margin of 2 % for "
            "indexes; its time is rough.",
        ),
        table(("first run", "planned", "measured"), rows, numbers=(1, 2)),
        tag(
            "p",
            f"Per image: {cost}; the UNet runs once for each timestep and noise draw "
            f"({planned.unet_passes} in all).",
            class_="soft",
        ),
    )
    return Section("Plan and reality", body)


def time_section(stage1: Stage1) -> Section:
    """What each run waited for, as bars."""
    bars = [
        bar(
            run.title,
            f"{run.n_computed:,} images in {duration(run.seconds)}, "
            f"{run.images_per_second:.1f} images/s",
            [
                Share(kind, seconds, duration(seconds))
                for kind, seconds in (
                    ("read", run.read),
                    ("compute", run.compute),
                    ("write", run.write),
                )
            ],
        )
        for run in stage1.runs
        if run.n_computed
    ]
    body = join(
        tag(
            "p",
            "Pictures are decoded in other processes and shards are written by another thread, "
            "so reading and writing cost time only where the networks had to wait for them.",
        ),
        *(bars or [tag("p", "Nothing was left to compute in this run of the demonstration.")]),
    )
    return Section("Where the time went", body)


def savings_section(demonstration: Demonstration) -> Section:
    """Reading beside computing, what that made of each training, and how it was measured."""
    stage1 = demonstration.stage1
    reading = stage1.reading
    n = stage1.store.n_images
    rows = [
        (
            "read from the store",
            duration(reading.cached_seconds),
            f"{1 / reading.cached_seconds:,.0f}",
            duration(n * reading.cached_seconds),
        ),
        (
            "computed live",
            duration(reading.live_seconds),
            f"{1 / reading.live_seconds:,.1f}",
            duration(n * reading.live_seconds),
        ),
    ]
    body = join(
        tag(
            "p",
            "A head is trained for many epochs, again and again. Each time it needs these "
            f"features of every image. From the store they come {times(reading.ratio)} faster.",
        ),
        table(("", "per image", "images/s", f"once through {n:,} images"), rows, numbers=(1, 2, 3)),
        table(
            ("head", "epochs", "images read", "training took", "computing them live takes"),
            [
                (
                    head.task.replace("_", "-"),
                    f"{head.epochs}",
                    f"{head.n_reads:,}",
                    duration(head.seconds),
                    duration(live_instead(demonstration, head)),
                )
                for head in demonstration.heads
            ],
            numbers=(1, 2, 3, 4),
        ),
        tag(
            "p",
            f"{reading.n_batches} batches of {reading.batch_size} images drawn at random, the "
            "same for both, after one batch to warm up; median over the batches. Both give ",
            join(*_listed(reading.arrays)),
            f": {human_bytes(reading.bytes_per_image)} an image. The store's files were in memory, "
            "as they are from the second epoch on where a store fits there. Live means VAE, CLIP "
            "and UNet on squares decoded beforehand: drawing, opening and resizing pictures is "
            f"not counted against it. Stored as {_stored_types(stage1)}, the features differ from "
            f"the computed ones by at most {100 * reading.largest_difference:.2g} % of an array's "
            "largest value.",
            class_="soft",
        ),
    )
    return Section("What the cache saves", body)


def _stored_types(stage1: Stage1) -> str:
    """The types of the arrays that were read, as `float16`."""
    return " and ".join(sorted({stage1.store.arrays[name].dtype for name in stage1.reading.arrays}))


def _listed(names: tuple[str, ...]) -> list[object]:
    parts: list[object] = []
    for name in names:
        parts += [", " if parts else "", tag("code", name)]
    return parts


def store_section(stage1: Stage1) -> Section:
    """Arrays, recipe and fingerprint."""
    store = stage1.store
    rows: list[tuple[object, ...]] = [
        (
            tag("span", name, class_="mono"),
            " x ".join(str(size) for size in array.shape),
            array.dtype,
            f"{array.n_images:,}",
            human_bytes(array.bytes_on_disk / max(array.n_images, 1)),
            human_bytes(array.bytes_on_disk),
        )
        for name, array in store.arrays.items()
    ]
    rows.append(
        (
            "all",
            "",
            "",
            f"{store.n_images:,}",
            human_bytes(store.bytes_on_disk / max(store.n_images, 1)),
            human_bytes(store.bytes_on_disk),
        )
    )
    recipe = [
        (name, tag("span", value if isinstance(value, str) else json.dumps(value), class_="mono"))
        for name, value in sorted(store.recipe.items())
    ]
    body = join(
        tag(
            "p",
            "A Zarr v3 group at ",
            tag("code", stage1.store_name),
            f". One chunk holds one image, one shard {store.shard_size} images, each with its "
            "checksum. Sizes are those of the files; the last line adds documents and commits.",
        ),
        table(
            ("array", "shape per image", "type", "images", "per image", "on disk"),
            rows,
            numbers=(3, 4, 5),
        ),
        _quarantine(store.quarantined),
        tag("h3", "Recipe"),
        tag(
            "p",
            "Everything that changes a number, and nothing else. Its hash is the fingerprint: a "
            "store with another one holds other features.",
        ),
        facts([("fingerprint", tag("span", store.fingerprint, class_="mono")), *recipe]),
    )
    return Section("The store", body)


def _quarantine(quarantined: dict[str, str]) -> Html:
    if not quarantined:
        return tag("p", "No image had to be quarantined.", class_="soft")
    rows = [(tag("span", image_id, class_="mono"), why) for image_id, why in quarantined.items()]
    return table(("quarantined image", "reason"), rows)
