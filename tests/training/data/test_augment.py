"""Random changes: what they draw, and what they do to images."""

import numpy as np
import pytest

from training.data.augment import (
    Affine,
    Augmentation,
    Crop,
    Cutout,
    Elastic,
    Lighting,
    Mixup,
    Photometric,
    ResizedCrop,
    draws_of_epoch,
    transforms,
)
from training.data.dataset import Images
from zoo.preprocess import CentreCrop, Preprocessing, ResizeShorterSide
from zoo.spec import ImageInput


def draw(settings, number=50, stored=(32, 32), wanted=(32, 32), seed=1, epoch=1):
    return transforms(settings, number, stored, wanted, seed, epoch)


def test_distortions_follow_from_seed_and_epoch_and_keep_the_middle():
    affine = Affine(shift=2, rotate=10, scale=0.1, squeeze=0.1, shear=0.1)
    first = draw(Augmentation(affine=affine))
    np.testing.assert_array_equal(first, draw(Augmentation(affine=affine)))
    assert not np.array_equal(first, draw(Augmentation(affine=affine), epoch=2))
    still = draw(Augmentation(affine=affine.model_copy(update={"shift": 0.0})))
    for a0, a1, a2, b0, b1, b2, *_ in still:
        assert a0 * 15.5 + a1 * 15.5 + a2 == pytest.approx(15.5, abs=1e-4)
        assert b0 * 15.5 + b1 * 15.5 + b2 == pytest.approx(15.5, abs=1e-4)
    none = draw(Augmentation(affine=Affine()), number=1)[0]
    np.testing.assert_allclose(none, [1, 0, 0, 0, 1, 0, 0, 0], atol=1e-6)


def test_crops_reach_every_place_and_no_further():
    found = draw(Augmentation(crop=Crop(padding=4)), number=3000)
    assert set(found[:, 2]) == set(found[:, 5]) == set(range(-4, 5))
    larger = draw(Augmentation(crop=Crop()), number=3000, stored=(40, 36))
    assert set(larger[:, 2]) == set(range(5))
    assert set(larger[:, 5]) == set(range(9))


def test_a_resized_crop_keeps_its_area_and_aspect():
    settings = ResizedCrop(area=(0.2, 0.5), aspect=(0.5, 2.0))
    found = draw(Augmentation(resized_crop=settings), 2000, stored=(64, 64), wanted=(32, 32))
    width, height = found[:, 0] * 32, found[:, 4] * 32
    share = width * height / 64**2
    assert share.min() >= 0.2 - 1e-4
    assert share.max() <= 0.5 + 1e-4
    assert (width / height).min() >= 0.5 - 1e-4
    assert (width / height).max() <= 2 + 1e-4
    # Inside the image: the first output pixel's centre lies at least half a step from the border.
    for axis, size in ((0, width), (1, height)):
        start = found[:, 2 + 3 * axis] + 0.5 - size / 32 / 2
        assert start.min() >= -1e-3
        assert (start + size).max() <= 64 + 1e-3


def test_draws_of_one_change_do_not_move_when_another_is_added():
    plain = draws_of_epoch(Augmentation(flip=0.5), 20, (8, 8), (8, 8), 1, 1)
    more = draws_of_epoch(
        Augmentation(flip=0.5, cutout=Cutout(size=2), mixup=Mixup()), 20, (8, 8), (8, 8), 1, 1
    )
    np.testing.assert_array_equal(plain["transforms"], more["transforms"])


# --- what they do to images


def changed(
    augmentation,
    pixels,
    *,
    epoch=1,
    seed=1,
    ids=None,
    steps=(),
    wanted=None,
    rows=None,
    colour="rgb",
):
    from training.data.fit import colour_axes
    from training.data.pipeline import Changes, batches, slices_of

    number, height, width, channels = pixels.shape
    wanted = wanted or (height, width)
    ids = np.arange(number) % 3 if ids is None else ids
    images = Images(pixels, ids.astype(np.int64))
    preprocessing = Preprocessing(
        input=ImageInput(height=wanted[0], width=wanted[1], channels=channels, colour=colour),
        input_steps=steps,
    )
    axes = colour_axes(images) if augmentation.lighting else None
    changes = Changes(augmentation, number, (height, width), wanted, seed, epoch, axes)
    rows = np.arange(number) if rows is None else rows
    dataset = batches(images, rows, slices_of(len(rows), 8), preprocessing, {}, changes)
    # The end of an epoch waits for tf.data's tuner to wake up, for seconds.
    assert dataset.options().autotune.enabled is False
    parts = list(dataset)
    return [np.concatenate([np.asarray(part[each]) for part in parts]) for each in range(4)]


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (16, 12, 12, 3)).astype(np.uint8)


tensorflow = pytest.mark.tensorflow


@tensorflow
def test_a_flip_mirrors_whole_pixels(pixels):
    x, ids, *_ = changed(Augmentation(flip=1.0), pixels)
    np.testing.assert_array_equal(x, pixels[:, :, ::-1])
    np.testing.assert_array_equal(ids, np.arange(16) % 3)


@tensorflow
def test_a_crop_is_a_part_of_the_image_or_of_its_border(pixels):
    augmentation = Augmentation(crop=Crop(padding=2, fill=9), flip=0.5)
    x, *_ = changed(augmentation, pixels)
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=9)
    for found, whole in zip(x, padded, strict=True):
        places = [whole[top : top + 12, left : left + 12] for top in range(5) for left in range(5)]
        assert any(
            np.array_equal(found, place) or np.array_equal(found, place[:, ::-1])
            for place in places
        )


@tensorflow
def test_a_resized_crop_of_everything_is_the_image_itself(pixels):
    whole = ResizedCrop(area=(1, 1), aspect=(1, 1))
    x, *_ = changed(Augmentation(resized_crop=whole), pixels)
    np.testing.assert_allclose(x, pixels, atol=1e-2)


@tensorflow
def test_elastic_fields_are_smooth_bounded_and_repeatable(pixels):
    gradient = np.broadcast_to(np.arange(12)[None, :, None, None] * 20, (16, 12, 12, 1))
    gradient = gradient.astype(np.uint8)
    settings = Augmentation(elastic=Elastic(alpha=6, sigma=3))
    first, *_ = changed(settings, gradient)
    again, *_ = changed(settings, gradient)
    np.testing.assert_array_equal(first, again)
    moved = np.abs(first - gradient) / 20
    assert 0.05 < moved.mean() < 3
    assert np.abs(np.diff(first - gradient, axis=1)).max() < 40
    still, *_ = changed(Augmentation(elastic=Elastic(alpha=0, sigma=3)), pixels)
    np.testing.assert_allclose(still, pixels, atol=1e-3)
    assert not np.array_equal(first, changed(settings, gradient, epoch=2)[0])


@tensorflow
def test_photometric_factors_act_on_brightness_contrast_and_saturation(pixels):
    middle = (pixels // 4 + 90).astype(np.uint8)
    bright, *_ = changed(Augmentation(photometric=Photometric(brightness=0.2)), middle)
    ratio = bright / middle
    for each in ratio:
        assert each.std() < 1e-3
    assert 0.8 <= ratio.min() < 1 < ratio.max() <= 1.2
    contrasted, *_ = changed(Augmentation(photometric=Photometric(contrast=0.3)), middle)
    np.testing.assert_allclose(contrasted.mean((1, 2, 3)), middle.mean((1, 2, 3)), rtol=1e-3)
    assert contrasted.std() != pytest.approx(middle.std(), rel=1e-4)
    saturated, *_ = changed(Augmentation(photometric=Photometric(saturation=0.5)), middle)
    luma = [0.299, 0.587, 0.114]
    np.testing.assert_allclose(saturated @ luma, middle @ luma, rtol=1e-2, atol=1)


@tensorflow
def test_saturation_keeps_the_gray_of_an_image_whichever_way_its_colours_stand(pixels):
    middle = (pixels // 4 + 90).astype(np.uint8)
    settings = Augmentation(photometric=Photometric(saturation=0.5))
    rgb, *_ = changed(settings, middle)
    bgr, *_ = changed(settings, middle[..., ::-1], colour="bgr")
    np.testing.assert_allclose(bgr[..., ::-1], rgb, rtol=1e-4)


@tensorflow
def test_lighting_adds_one_colour_an_image_along_the_principal_axes(pixels):
    middle = (pixels // 4 + 90).astype(np.uint8)
    x, *_ = changed(Augmentation(lighting=Lighting(std=0.5)), middle)
    added = x - middle
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-3)
    assert np.abs(added).max() > 1


@tensorflow
def test_cutout_zeroes_one_square(pixels):
    x, *_ = changed(Augmentation(cutout=Cutout(size=4)), np.maximum(pixels, 1))
    for each in x:
        rows, columns = np.nonzero((each == 0).all(-1))
        assert 4 <= len(rows) <= 16
        assert np.ptp(rows) <= 3
        assert np.ptp(columns) <= 3


@tensorflow
def test_mixup_mixes_inputs_and_says_of_what(pixels):
    x, ids, partners, shares = changed(Augmentation(mixup=Mixup(alpha=1.0)), pixels)
    for half in (slice(0, 8), slice(8, 16)):
        other = np.roll(pixels[half], 1, 0).astype(np.float32)
        weight = shares[half][:, None, None, None]
        np.testing.assert_allclose(x[half], weight * pixels[half] + (1 - weight) * other, atol=0.1)
        np.testing.assert_array_equal(partners[half], np.roll(ids[half], 1))
    assert shares.min() >= 0.5


@tensorflow
def test_what_an_image_gets_does_not_depend_on_where_the_epoch_was_stopped(pixels):
    augmentation = Augmentation(
        crop=Crop(padding=2),
        flip=0.5,
        affine=Affine(rotate=10),
        elastic=Elastic(),
        photometric=Photometric(brightness=0.2),
        lighting=Lighting(),
        cutout=Cutout(size=3),
        mixup=Mixup(),
    )
    rows = np.random.default_rng(2).permutation(16)
    whole = changed(augmentation, pixels, rows=rows)
    rest = changed(augmentation, pixels, rows=rows[8:])
    for found, expected in zip(rest, whole, strict=True):
        np.testing.assert_array_equal(found, expected[8:])


def test_a_random_crop_takes_the_place_of_the_last_centre_crop():
    from training.data.pipeline import stored_steps

    steps = Preprocessing(
        input=ImageInput(height=24, width=24, channels=3),
        pixel_steps=(
            ResizeShorterSide(size=32),
            CentreCrop(height=32, width=32),
            CentreCrop(height=24, width=24),
        ),
    )
    kept = stored_steps(steps, Augmentation(crop=Crop()))
    assert kept.input.shape == (32, 32, 3)
    assert kept.pixel_steps == steps.pixel_steps[:2]
    assert stored_steps(steps, Augmentation(flip=0.5)) == steps
