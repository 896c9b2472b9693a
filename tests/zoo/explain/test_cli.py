"""`convzoo explain`: what cannot be asked is said, before any network is loaded."""

import pytest

from zoo.errors import UsageError
from zoo.explain.cli import _write
from zoo.explain.methods import Explanation, read_options
from zoo.explain.overview import OVERVIEWS, SanityOptions, TopPatchesOptions, overview


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        ("top_patches", {"count": "abc"}, "count"),
        ("top_patches", {"count": 0}, "count"),
        ("top_patches", {"channels": "abc"}, "channels"),
        ("top_patches", {"channels": []}, "channels"),
        ("top_patches", {"channels": [-1]}, "channels"),
        ("top_patches", {"cuont": 3}, "Did you mean 'count'"),
        ("evolution", {"channel": "x"}, "channel"),
        ("sanity", {"images": "x"}, "images"),
        ("sanity", {"images": 0}, "images"),
        ("sanity", {"seed": -1}, "seed"),
    ],
)
def test_an_overviews_options_are_checked_before_anything_is_done(method, options, text):
    with pytest.raises(UsageError, match=f"{method}: .*{text}"):
        overview(None, method, image=None, data=None, layer=None, target=None, options=options)


def test_an_overviews_options_have_defaults_and_one_map_may_stand_alone():
    assert read_options("sanity", SanityOptions, {}).images == 16
    kind = OVERVIEWS["top_patches"].options
    assert kind is TopPatchesOptions
    assert read_options("top_patches", TopPatchesOptions, {"channels": 3}).channels == (3,)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "there").touch()
    found = Explanation("input", {})
    with pytest.raises(UsageError, match="is a file that is there already"):
        _write(tmp_path / "there", found, None)
    with pytest.raises(UsageError, match=r"Cannot write .*below"):
        _write(tmp_path / "there" / "below", found, None)
