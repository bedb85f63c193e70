"""Links in a stranger's store: nothing is written outside of its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cache import FeatureStore, StoreError, verify_store
from tests.cache import stores


@pytest.fixture
def store(tmp_path: Path) -> Path:
    stores.write(tmp_path / "store", 9)
    return tmp_path / "store"


@pytest.mark.parametrize("folder", ["commits", "sd", "sd/t195", "sd/t195/s3"])
def test_a_folder_that_leads_out_is_not_written_to(
    store: Path, tmp_path: Path, folder: str
) -> None:
    outside = tmp_path / "outside"
    shutil.move(store / folder, outside)
    (store / folder).symlink_to(outside)
    before = stores.contents(outside)
    with pytest.raises(StoreError, match="is a symbolic link") as caught:
        stores.write(store, 14)
    assert "\n" not in str(caught.value) and str(store / folder) in str(caught.value)
    assert stores.contents(outside) == before
    assert not verify_store(store).sound


def test_linked_commits_are_not_read(store: Path, tmp_path: Path) -> None:
    shutil.move(store / "commits", tmp_path / "outside")
    (store / "commits").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="commits: is a symbolic link"):
        FeatureStore.open(store)
    problems = verify_store(store).problems
    assert [(p.kind, p.where) for p in problems] == [("unexpected", "commits")]
    (store / "commits").unlink()
    (store / "commits").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="commits: is a symbolic link"):
        stores.write(store, 14)
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_that_leads_out_is_not_made(store: Path, tmp_path: Path) -> None:
    (store / ".lock").unlink()
    (store / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(StoreError, match=r"\.lock: cannot write"):
        stores.write(store, 14)
    assert not (tmp_path / "made").exists()


def test_the_store_itself_may_be_a_link(store: Path, tmp_path: Path) -> None:
    """That one its owner made."""
    (tmp_path / "mine").symlink_to(store)
    stores.write(tmp_path / "mine", 14)
    assert verify_store(store).sound and len(FeatureStore.open(tmp_path / "mine")) == 14
