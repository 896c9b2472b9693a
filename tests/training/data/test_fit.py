"""Fitted preprocessing, against scikit-learn and against what its definition promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from training.data.dataset import Images
from training.data.fit import check, colour_axes, fit, whitening
from zoo.errors import UsageError
from zoo.preprocess import (
    Preprocessing,
    Scale,
    ScaleTo,
    Standardise,
    SubtractMeanImage,
    SubtractMeanPixel,
    Whiten,
)
from zoo.spec import ImageInput


@pytest.fixture
def train():
    rng = np.random.default_rng(1)
    # Correlated pixels, as in real images; more than one block.
    base = rng.normal(0, 40, (1200, 1, 1, 3)) + rng.normal(0, 25, (1200, 4, 5, 3)) + [90, 120, 150]
    return Images(np.clip(base, 0, 255).astype(np.uint8), np.zeros(1200, np.int64))


def preprocessing(*steps, shape=(4, 5, 3)):
    height, width, channels = shape
    return Preprocessing(
        input=ImageInput(
            height=height,
            width=width,
            channels=channels,
            colour="gray" if channels == 1 else "rgb",
        ),
        input_steps=steps,
    )


@pytest.mark.parametrize(
    "step", [Standardise(mean=(1, 2, 3), std=(1,)), SubtractMeanPixel(mean=(1, 2, 3))]
)
def test_numbers_are_one_or_one_a_channel(step):
    check(preprocessing(step))
    with pytest.raises(UsageError, match=r"has 3 values for mean; the input has 1 channel \(gray"):
        check(preprocessing(step, shape=(4, 5, 1)))


def fitted_inputs(train, *steps):
    found, arrays = fit(preprocessing(*steps), train)
    return found, arrays, found.to_input(train.pixels_nhwc, arrays).astype(np.float64)


def test_standardised_channels_have_mean_0_and_deviation_1(train):
    _, _, x = fitted_inputs(train, ScaleTo(low=-1, high=1), Standardise())
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=1e-4)


def test_the_mean_pixel_and_the_mean_image_are_those_of_the_training_part(train):
    found, _, x = fitted_inputs(train, SubtractMeanPixel())
    np.testing.assert_allclose(found.input_steps[0].mean, train.pixels_nhwc.mean((0, 1, 2)))
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-3)
    _, arrays, x = fitted_inputs(train, Scale(scale=0.5), SubtractMeanImage())
    np.testing.assert_allclose(arrays["mean_image"], train.pixels_nhwc.mean(0) / 2, rtol=1e-5)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-3)


def test_pca_whitening_agrees_with_scikit_learn(train):
    flat = train.pixels_nhwc.reshape(1200, -1).astype(np.float64)
    _, _, x = fitted_inputs(train, Whiten(method="pca", epsilon=1e-12))
    expected = PCA(whiten=True).fit(flat).transform(flat)
    # scikit-learn divides by N - 1, and a principal axis has no sign of its own.
    x = x.reshape(1200, -1) * np.sqrt(1199 / 1200)
    np.testing.assert_allclose(np.abs(x[:, :20]), np.abs(expected[:, :20]), atol=5e-3)


@pytest.mark.parametrize("method", ["pca", "zca"])
def test_whitened_inputs_have_the_covariance_that_epsilon_leaves(train, method):
    epsilon = 0.01
    _, _, x = fitted_inputs(train, Whiten(method=method, epsilon=epsilon))
    values = np.linalg.eigvalsh(np.cov(train.pixels_nhwc.reshape(1200, -1).T, bias=True))
    expected = values / (values + epsilon * values[-1])
    found = np.linalg.eigvalsh(np.cov(x.reshape(1200, -1).T, bias=True))
    np.testing.assert_allclose(np.sort(found), np.sort(expected), atol=1e-3)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_zca_is_symmetric_and_stays_closest_to_the_images(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6))
    covariance = root @ root.T + 0.1 * np.eye(6)
    zca = whitening(covariance, 1e-9, is_zca=True).astype(np.float64)
    np.testing.assert_allclose(zca, zca.T, atol=1e-4 * np.abs(zca).max())
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]

    def distance(matrix):
        gap = matrix - np.eye(6)
        return np.trace(gap.T @ covariance @ gap)

    assert distance(zca) <= distance(zca @ rotation) + 1e-6


def test_whitening_too_many_values_is_refused_with_what_would_work():
    train = Images(np.zeros((2, 101, 100, 1), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(UsageError, match=r"10,100.*At most 10,000.*standardise"):
        fit(preprocessing(Whiten(), shape=(101, 100, 1)), train)


def test_numbers_that_were_given_stay_and_steps_without_numbers_are_not_run(train):
    given_step = Standardise(mean=(1, 2, 3), std=(4, 5, 6))
    found, arrays = fit(preprocessing(given_step), train)
    assert found.input_steps == (given_step,)
    assert not arrays
    with pytest.raises(UsageError, match="'standardise' has no numbers yet"):
        preprocessing(Standardise()).to_input(train.pixels_nhwc)


def test_a_channel_that_never_changes_is_only_centred():
    train = Images(np.full((5, 2, 2, 1), 7, np.uint8), np.zeros(5, np.int64))
    found, arrays = fit(preprocessing(Standardise(), shape=(2, 2, 1)), train)
    assert found.to_input(train.pixels_nhwc, arrays).max() == 0


def test_the_colour_axes_carry_the_covariance_of_all_pixels(train):
    axes = colour_axes(train).astype(np.float64)
    covariance = np.cov(train.pixels_nhwc.reshape(-1, 3).T, bias=True)
    np.testing.assert_allclose(axes @ axes.T, covariance, rtol=1e-3)
    lengths = np.linalg.norm(axes, axis=0)
    assert lengths[0] >= lengths[1] >= lengths[2]
