"""Stores in object storage: equal bytes, no lock, and a commit that comes last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cache.storage.remote
from cache import (
    CorruptShard,
    FeatureStore,
    NotAStore,
    NotCommitted,
    QuarantinedImage,
    RecipeMismatch,
    StoreError,
    StoreWriter,
    describe_store,
    list_stores,
    store_path,
    verify_store,
)
from cache.exchange import export_store
from cache.exchange.imports import import_store
from cache.insight.stats import store_stats
from cache.storage.objects import CONDITIONAL, Changed, MemoryPuts
from cache.storage.remote import RemotePath
from tests.cache.stores import (
    ARRAYS,
    POOLED,
    RECIPE,
    S3,
    array_contents,
    assert_holds,
    contents,
    fill,
    image_records,
    values,
    write,
)
from tests.object_store import new_place, objects, remote, s3_server, upload

pytest.importorskip("s3fs")
pytest.importorskip("moto")

NAMES = [spec.name for spec in ARRAYS]


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log"):
        yield


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    return new_place(request.param)


def array_objects(url: str) -> dict[str, bytes]:
    """Every object of a store but its commits, which hold timings."""
    return {name: data for name, data in objects(url).items() if not name.startswith("commits/")}


def assert_complete(url: str, local: Path) -> None:
    """The store is sound, has nothing to spare, and equals a local one byte for byte."""
    assert array_objects(url) == array_contents(local)
    assert {n for n in objects(url) if n.startswith("commits/")} == {
        n for n in contents(local) if n.startswith("commits/")
    }
    report = verify_store(url)
    assert (report.problems, report.notes) == ((), ())


def test_what_is_written_remotely_equals_what_is_written_locally(url: str, tmp_path: Path) -> None:
    for place in (url, tmp_path / "local"):
        write(place, 6, ARRAYS[:2], quarantined={3})
        write(place, 11, ARRAYS[:3], quarantined={3})
        write(place, 11, quarantined={3})
    assert_complete(url, tmp_path / "local")
    store = FeatureStore.open(url, RECIPE)
    for row in set(range(11)) - {3}:
        for spec in ARRAYS:
            assert_holds(store, row, spec)
    found = store.read(store.readable(NAMES)[::-1], NAMES)
    local = FeatureStore.open(tmp_path / "local")
    for name, tensor in local.read(local.readable(NAMES)[::-1], NAMES).items():
        assert (found[name] == tensor).all()
    with pytest.raises(QuarantinedImage):
        store.read([store.ids[3]], [S3.name])
    assert StoreWriter.open(url, RECIPE, image_records(11), ARRAYS, 4).pending() == []


def test_a_copy_of_a_local_store_is_read_checked_and_described(
    url: str, store_path: Path, tmp_path: Path
) -> None:
    upload(store_path, url)
    assert verify_store(url) == verify_store(store_path)
    assert verify_store(url, full=False).sound
    store = FeatureStore.open(url)
    assert_holds(store, 10, S3)
    there, here = describe_store(url), describe_store(store_path)
    assert there.arrays == here.arrays and there.n_committed == here.n_committed
    assert str(there.path) == url
    assert store_stats(url, ["sd/*"]) == store_stats(store_path, ["sd/*"])
    listing = list_stores(url.rpartition("/")[0])
    assert [str(entry.path) for entry in listing.stores] == [url] and not listing.damaged
    export_store(url, tmp_path / "remote.h5", "hdf5")
    elsewhere = f"{url}-again"
    import_store(tmp_path / "remote.h5", elsewhere)
    assert FeatureStore.open(elsewhere).fingerprint == store.fingerprint
    assert verify_store(elsewhere).sound


def test_nothing_unfinished_or_foreign_is_read(url: str) -> None:
    with pytest.raises(NotAStore, match="no feature store"):
        FeatureStore.open(url)
    with pytest.raises(StoreError, match="no such folder"):
        list_stores(url)
    StoreWriter.open(url, RECIPE, image_records(3), ARRAYS, 4)
    store = FeatureStore.open(url)
    with pytest.raises(NotCommitted):
        store.read([store.ids[0]], [S3.name])
    other = type(RECIPE)({**RECIPE.fields, "seed": 1})
    with pytest.raises(RecipeMismatch, match="seed"):
        StoreWriter.open(url, other, image_records(3), ARRAYS, 4)
    place = remote(f"{url}-other") / "thesis.txt"
    place.filesystem.pipe_file(place.key, b"mine")
    with pytest.raises(StoreError, match=r"holds thesis\.txt"):
        StoreWriter.open(f"{url}-other", RECIPE, image_records(3), ARRAYS, 4)


@pytest.mark.parametrize(
    ("name", "change", "kind"),
    [
        ("sd/t195/s3/c.1.0.0.0", lambda data: bytes([data[0] ^ 1]) + data[1:], "record"),
        ("sd/t195/s3/c.1.0.0.0", lambda data: data[:-9], "size"),
        ("sd/t195/s3/c.1.0.0.0", lambda data: data[:-9] + b"\1" + data[-8:], "index"),
        ("sd/t195/s3/c.1.0.0.0", None, "missing"),
        ("clip/pooled/c.0.0", lambda data: bytes([data[120] ^ 1]) + data[1:], "record"),
        ("commits/000001.json", lambda data: data.replace(b"4", b"5", 1), "commit"),
        ("commits/000001.json", None, "commit"),
        ("images.jsonl", lambda data: data[:-40], "images"),
        ("sd/t195/s3/zarr.json", lambda data: data + b" ", "metadata"),
    ],
)
def test_damage_is_found(url: str, store_path: Path, name: str, change: object, kind: str) -> None:
    upload(store_path, url)
    place = remote(url) / name
    if change is None:
        place.filesystem.rm_file(place.key)
    else:
        assert callable(change)
        place.filesystem.pipe_file(place.key, change(place.filesystem.cat_file(place.key)))
    report = verify_store(url)
    assert kind in {problem.kind for problem in report.problems}
    if kind in ("record", "size", "index", "missing") and name.startswith("sd"):
        store = FeatureStore.open(url)
        with pytest.raises(CorruptShard, match=r"c\.1\.0\.0\.0"):
            store.read([store.ids[4]], [S3.name])


class _Death(BaseException):
    """The process ends here: nothing that follows happens."""


@pytest.mark.parametrize("protocol", ["memory", "s3"])
def test_death_at_any_put_then_the_same_command(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every put of a store's making and growing is the last one once, and every removal."""
    write(tmp_path / "local", 5)
    write(tmp_path / "local", 7)
    left = [0]

    def mortal(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            if left[0] == 0:
                raise _Death
            left[0] -= 1
            return change(*arguments)

        return changed

    monkeypatch.setattr(RemotePath, "write", mortal(RemotePath.write))
    monkeypatch.setattr(RemotePath, "remove", mortal(RemotePath.remove))
    deaths = 0
    for n_puts in range(0, 100, 1 if protocol == "memory" else 7):
        url = new_place(protocol)
        died = False
        for n_images in (5, 7):
            left[0] = n_puts if not died else 1000
            try:
                write(url, n_images)
            except _Death:
                died = True
                deaths += 1
                try:
                    assert verify_store(url).sound
                except NotAStore:
                    assert n_puts < 3
                left[0] = 1000
                write(url, n_images)
        assert_complete(url, tmp_path / "local")
        if not died:
            break
    else:
        pytest.fail("a store takes fewer puts than that")
    assert deaths >= (25 if protocol == "memory" else 3)


def test_writers_at_once_lose_nothing(url: str, tmp_path: Path) -> None:
    """Overlapping parts, other arrays, more images: all through the same commits and chunks."""
    write(tmp_path / "local", 11)
    errors: list[BaseException] = []

    def work(n_images: int, arrays: tuple, reverse: bool) -> None:
        try:
            writer = StoreWriter.open(url, RECIPE, image_records(n_images), arrays, 4)
            tasks = writer.pending()
            for task in tasks[::-1] if reverse else tasks:
                with writer.shard(task) as shard:
                    for row in task.rows:
                        named = {name: values(row, writer.arrays[name]) for name in task.arrays}
                        shard.put(row, named)
                    shard.commit()
        except StoreError as error:
            # A shard that grew meanwhile is asked for again.
            if "ask for the pending work again" not in str(error):
                errors.append(error)
        except BaseException as error:
            errors.append(error)

    wishes = [(11, ARRAYS, False), (11, ARRAYS, True), (11, (S3,), False), (6, (POOLED,), True)]
    threads = [threading.Thread(target=work, args=wish) for wish in wishes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    fill(StoreWriter.open(url, RECIPE, image_records(11), ARRAYS, 4))
    assert verify_store(url).problems == ()
    store = FeatureStore.open(url)
    for row in range(11):
        for spec in ARRAYS:
            assert_holds(store, row, spec)
    assert len(store.readable(NAMES)) == 11


def test_a_slow_writer_does_not_take_rows_away_from_a_fast_one(url: str) -> None:
    """It began before the store grew and publishes after: the longer object stays."""
    slow = StoreWriter.open(url, RECIPE, image_records(2), [S3, POOLED], 4)
    (task,) = slow.pending()
    with slow.shard(task) as shard:
        for row in task.rows:
            shard.put(row, {spec.name: values(row, spec) for spec in (S3, POOLED)})
        write(url, 4, [S3, POOLED])
        shard.commit()
    assert verify_store(url).notes == () and verify_store(url).sound
    for row in range(4):
        assert_holds(FeatureStore.open(url), row, S3)


def test_a_writer_that_comes_second_takes_its_announcement_away(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other has committed the same rows between its look at the commit and its own."""
    writers = [StoreWriter.open(url, RECIPE, image_records(4), [S3], 4) for _ in range(2)]
    (task,) = writers[0].pending()
    with writers[0].shard(task) as first, writers[1].shard(task) as second:
        for row in task.rows:
            for shard in (first, second):
                shard.put(row, {S3.name: values(row, S3)})
        plain = RemotePath.write
        announced: list[str] = []

        def overtaken(self: RemotePath, data: bytes) -> str:
            if self.name.endswith(".tmp") and not announced:
                announced.append(self.name)
                first.commit()
            return plain(self, data)

        monkeypatch.setattr(RemotePath, "write", overtaken)
        second.commit()
    assert announced
    assert [name for name in objects(url) if name.startswith("commits/")] == ["commits/000000.json"]
    assert (verify_store(url).problems, verify_store(url).notes) == ((), ())


@pytest.mark.parametrize("same", [True, False])
def test_a_longer_object_that_nobody_has_committed(
    url: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays if it holds these records too; else nobody can tell which are right."""
    slow = StoreWriter.open(url, RECIPE, image_records(2), [S3], 4)
    (task,) = slow.pending()
    with slow.shard(task) as shard:
        for row in task.rows:
            shard.put(row, {S3.name: values(row if same else row + 50, S3)})
        with monkeypatch.context() as patch:
            plain = RemotePath.write

            def mortal(self: RemotePath, data: bytes) -> str:
                if self.name == "000000.json":
                    raise _Death
                return plain(self, data)

            patch.setattr(RemotePath, "write", mortal)
            with pytest.raises(_Death):
                write(url, 4, [S3])
        if same:
            shard.commit()
        else:
            with pytest.raises(StoreError, match="other records"):
                shard.commit()
    assert verify_store(url).sound
    write(url, 4, [S3])
    assert verify_store(url).sound and len(FeatureStore.open(url).readable([S3.name])) == 4


def test_a_server_that_ignores_conditions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(MemoryPuts):
        def put_if(self, filesystem: object, key: str, data: bytes, version: str | None) -> str:
            return self.put(filesystem, key, data)

    monkeypatch.setitem(CONDITIONAL, "memory", Careless())
    url = new_place("memory")
    with pytest.raises(StoreError, match="ignores the conditions"):
        write(url, 2)
    assert objects(url) == {}


def test_what_is_put_on_condition_is_put_once(url: str) -> None:
    place = remote(url)
    first, second = place.transaction(), place.transaction()
    assert (first / "x").read(9) is None and (second / "x").read(9) is None
    (first / "x").write(b"one")
    with pytest.raises(Changed):
        (second / "x").write(b"two")
    (first / "x").write(b"three")  # Its own version is the latest.
    third = place.transaction()
    assert (third / "x").read(9) == b"three"
    (third / "x").remove()
    with pytest.raises(Changed):
        (third / "x").write(b"four")
    assert objects(url) == {}


def test_objects_over_the_limit_are_not_fetched(url: str) -> None:
    place = remote(url) / "zarr.json"
    place.filesystem.pipe_file(place.key, b"x" * 100)
    assert place.read(100) == b"x" * 100
    with pytest.raises(StoreError, match="too large"):
        place.read(99)


def test_many_neighbours_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    url = new_place("memory")
    write(url, 11)
    store = FeatureStore.open(url)
    store.read([store.ids[0], store.ids[9]], [S3.name])
    asked: list[int] = []
    plain = RemotePath.read_ranges

    def counted(self: RemotePath, ranges: list) -> list:
        asked.append(len(ranges))
        return plain(self, ranges)

    monkeypatch.setattr(cache.storage.remote.RemotePath, "read_ranges", counted)
    store.read([store.ids[row] for row in (3, 0, 2, 1, 9)], [S3.name])
    store.read([store.ids[row] for row in range(11)], [POOLED.name])
    # Shard 0 and 2; then commit 1; then the descriptors' one chunk.
    assert [n for n in asked if n] == [2, 1, 1]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere://bucket/store", "no protocol nowhere"),
        ("gs://bucket/store", "gcsfs"),
        ("s3://", "no place for a store"),
        ("s3://bucket/../store", "no place for a store"),
        ("simplecache::s3://bucket/store", "no place for a store"),
    ],
)
def test_places_that_are_none(place: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        store_path(place)
    assert "\n" not in str(caught.value) and place in str(caught.value)


def test_paths_stay_paths(tmp_path: Path) -> None:
    assert store_path("stores/mine") == Path("stores/mine")
    assert store_path(f"file://{tmp_path}") == tmp_path
    assert str(store_path("s3://bucket/a/")) == "s3://bucket/a"
    assert str(remote("s3://bucket/a") / "b/c") == "s3://bucket/a/b/c"


def test_a_bucket_that_is_missing_is_no_empty_store() -> None:
    with pytest.raises(StoreError, match="make the bucket first"):
        FeatureStore.open("s3://no-such-bucket/store")
    with pytest.raises(StoreError, match="make the bucket first"):
        write("s3://no-such-bucket/store", 2)  # type: ignore[arg-type]


def test_a_store_that_may_only_be_read(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = new_place("memory")
    upload(store_path, url)
    place = remote(url)

    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(place.filesystem, "pipe_file", refused)
    assert verify_store(url).sound
    with pytest.raises(StoreError, match=r"cannot write \(Access Denied\); check the credentials"):
        write(url, 12)  # type: ignore[arg-type]


def test_shards_that_one_put_does_not_take_are_refused() -> None:
    url = new_place("memory")
    huge = type(S3)("sd/t195/s3", (1024, 256, 256), "float32")
    with pytest.raises(StoreError, match=r"over 5 GiB.*extraction\.shard_size"):
        StoreWriter.open(url, RECIPE, image_records(2), [huge], 64)
    assert objects(url) == {}


def test_protocols_without_conditions_are_read_only(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="are read from dir://, not written"):
        StoreWriter.open(
            RemotePath(store_filesystem(tmp_path), "dir", "store"), RECIPE, image_records(2), [S3]
        )
    write(tmp_path / "store", 5)
    place = RemotePath(store_filesystem(tmp_path), "dir", "store")
    assert_holds(FeatureStore.open(place), 4, S3)
    assert verify_store(place).sound


def store_filesystem(folder: Path) -> object:
    import fsspec

    return fsspec.filesystem("dir", path=str(folder), fs=fsspec.filesystem("file"))
