"""Checkpoints are found again in the order in which they were written."""

import numpy as np

from training.checkpoint import Checkpoints, Place


def test_the_newest_checkpoint_is_kept_and_found_however_many_digits_it_has(tmp_path):
    checkpoints = Checkpoints(tmp_path, "recipe", keep=2)
    places = [(9998, 0), (9999, 99_999_999), (9999, 100_000_000), (10_000, 0), (10_000, 64)]
    for epoch, images in places:
        checkpoints.save(Place(epoch=epoch, images=images), {"0000": np.array(images)})
        place, state = checkpoints.load()
        assert (place.epoch, place.images) == (epoch, images)
        assert state["0000"] == images
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
