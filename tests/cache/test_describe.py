import pytest

from cache import DamagedStore, NotAStore, StoreError, describe_store, list_stores
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
    assert [store.path.name for store in list_stores(tmp_path)] == ["a", "b"]
    assert [store.n_images for store in list_stores(tmp_path / "b")] == [2]
    assert list_stores(tmp_path / "pictures") == []
    with pytest.raises(StoreError, match="no such folder"):
        list_stores(tmp_path / "absent")
    with pytest.raises(NotAStore):
        describe_store(tmp_path)
    (tmp_path / "a" / "images.jsonl").write_text("[]\n")
    with pytest.raises(DamagedStore, match="line 1"):
        list_stores(tmp_path)
