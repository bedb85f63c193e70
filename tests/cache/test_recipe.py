import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import Recipe, StoreError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_the_fingerprint_is_the_sha256_of_canonical_json():
    recipe = Recipe({"seed": 0, "clip": {"model": "ViT-é", "scale": 0.18215}, "injection": None})
    text = '{"clip":{"model":"ViT-é","scale":0.18215},"injection":null,"seed":0}'
    assert recipe.fingerprint == hashlib.sha256(text.encode()).hexdigest()


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=4))
def test_a_recipe_survives_a_trip_through_json(fields):
    recipe = Recipe(fields)
    again = Recipe(json.loads(json.dumps(recipe.fields)))
    assert again.fingerprint == recipe.fingerprint
    assert again.differences(recipe) == []


def test_differences_name_nested_fields_and_both_values():
    store = Recipe({"seed": 0, "clip": {"model": "ViT-L", "tag": "openai"}, "injection": None})
    asked = Recipe({"seed": 1, "clip": {"model": "ViT-L", "tag": "laion"}, "ensemble": 8})
    assert store.differences(asked) == [
        'clip.tag: store has "openai", requested "laion"',
        "ensemble: store has nothing, requested 8",
        "injection: store has null, requested nothing",
        "seed: store has 0, requested 1",
    ]


def test_true_and_one_differ():
    assert Recipe({"a": True}).fingerprint != Recipe({"a": 1}).fingerprint
    assert Recipe({"a": True}).differences(Recipe({"a": 1}))


@pytest.mark.parametrize(
    "fields",
    [{"a": float("nan")}, {"a": float("inf")}, {"a": object()}, {"a": {1: 2}}, {"a": [{None: 1}]}],
)
def test_what_json_cannot_hold_is_refused(fields):
    with pytest.raises(StoreError):
        Recipe(fields)


def test_a_recipe_does_not_change_with_the_mapping_it_was_made_from():
    fields = {"clip": {"model": "a"}}
    recipe = Recipe(fields)
    before = recipe.fingerprint
    fields["clip"]["model"] = "b"
    assert recipe.fingerprint == before


def test_an_alias_means_the_same_and_has_no_part_in_the_fingerprint():
    plain = Recipe({"unet": "new", "seed": 0})
    named = Recipe({"unet": "new", "act": "gelu", "seed": 0}, {"unet": ["old"], "act": [None]})
    assert named.fingerprint == Recipe(dict(named.fields)).fingerprint
    older = Recipe({"unet": "old", "seed": 0})
    assert named.differences(older) == older.differences(named) == []
    assert named.differences(plain) == []
    assert plain.differences(older) == ['unet: store has "new", requested "old"']
    other = Recipe({"unet": "other", "act": "silu", "seed": 1}, {"unet": ["old"]})
    assert [line.split(":")[0] for line in named.differences(other)] == ["act", "seed", "unet"]
    assert {r.fingerprint for r in named.spellings()} == {
        Recipe({"unet": unet, "seed": 0} | act).fingerprint
        for unet in ("new", "old")
        for act in ({}, {"act": "gelu"})
    }
    assert next(named.spellings()).fingerprint == named.fingerprint


def test_aliases_follow_their_fields():
    named = Recipe({"unet": "new", "vae": "v"}, {"unet": ["old"], "vae": ["w"]})
    changed = named.updated({"unet": "another", "seed": 1})
    assert changed.fields == {"unet": "another", "vae": "v", "seed": 1}
    assert changed.aliases == {"vae": ("w",)}
    older = Recipe({"unet": "old", "vae": "v"})
    assert named.spelled_as(older).fingerprint == older.fingerprint
    assert named.spelled_as(older).differences(named) == []


@pytest.mark.parametrize(
    "provenance", [None, [], {}, {"aliases": 3}, {"aliases": {"unet": "old", "vae": [3]}}]
)
def test_aliases_that_make_no_sense_are_none(provenance):
    assert Recipe.recorded({"unet": "new"}, provenance).aliases == {}
