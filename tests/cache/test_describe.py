import pytest

from cache import NotAStore, StoreError, describe_store, list_stores
from tests.cache.stores import LATENT, QUANTISED, RECIPE, S3, contents, write


def test_a_description_adds_up(store_path):
    description = describe_store(store_path)
    assert description.recipe == RECIPE.fields
    assert description.fingerprint == RECIPE.fingerprint
    assert (description.n_images, description.n_committed) == (11, 11)
    assert list(description.quarantined) == ["class 2/5.png"]
    assert description.bytes_on_disk == sum(map(len, contents(store_path).values()))
    quantised = description.arrays[QUANTISED.name]
    assert (quantised.shape, quantised.dtype) == (QUANTISED.shape, "int8")
    both = [
        *contents(store_path, QUANTISED.name).values(),
        *contents(store_path, QUANTISED.name + "_scale").values(),
    ]
    assert quantised.bytes_on_disk == sum(map(len, both))


def test_an_image_counts_when_it_has_every_array(tmp_path):
    write(tmp_path, 7, [S3])
    write(tmp_path, 5, [LATENT])
    description = describe_store(tmp_path)
    assert (description.n_images, description.n_committed) == (7, 5)
    assert description.arrays[S3.name].n_images == 7


def test_stores_are_found_in_a_folder(tmp_path):
    write(tmp_path / "b", 2, [S3])
    write(tmp_path / "a", 1, [S3])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert [store.path.name for store in list_stores(tmp_path).stores] == ["a", "b"]
    assert [store.n_images for store in list_stores(tmp_path / "b").stores] == [2]
    assert list_stores(tmp_path / "pictures").stores == []
    assert list_stores(tmp_path).damaged == {}
    with pytest.raises(StoreError, match="no such folder"):
        list_stores(tmp_path / "absent")
    with pytest.raises(NotAStore):
        describe_store(tmp_path)


def test_a_damaged_store_does_not_hide_the_others(tmp_path):
    for name in ("a", "b", "c", "d"):
        write(tmp_path / name, 1, [S3])
    (tmp_path / "a" / "images.jsonl").write_text("[]\n")
    (tmp_path / "b" / "commits" / "000000.json").write_text("{}\n")
    for name in ("zarr.json", "images.jsonl"):
        (tmp_path / "c" / name).unlink()
    listing = list_stores(tmp_path)
    assert [store.path.name for store in listing.stores] == ["d"]
    assert list(listing.damaged) == [str(tmp_path / name) for name in ("a", "b", "c")]
    for said, name in zip(
        listing.damaged.values(),
        ("a/images.jsonl: line 1", "b/commits/000000.json: differs", "c/zarr.json: missing"),
        strict=True,
    ):
        assert said.startswith(f"{tmp_path}/{name}") and "\n" not in said
    alone = list_stores(tmp_path / "a")
    assert alone.stores == [] and list(alone.damaged) == [str(tmp_path / "a")]
