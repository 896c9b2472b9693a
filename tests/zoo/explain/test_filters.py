"""The classical filters against what they are for."""

import numpy as np
import pytest

from zoo.errors import ExplainError
from zoo.explain import filters

RAMP = np.tile(np.arange(6, dtype=np.float32), (5, 1))[..., None]


def test_identity_changes_nothing():
    image = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    assert np.allclose(filters.apply(image, filters.find("identity")), image)


@pytest.mark.parametrize("name", ["box", "gaussian", "gaussian_5", "sharpen", "identity"])
def test_filters_that_keep_brightness_sum_to_one(name):
    assert filters.find(name).sum() == pytest.approx(1)


@pytest.mark.parametrize("name", ["laplacian", "laplacian_diagonal", "sobel_x", "sobel_y"])
def test_edges_see_nothing_on_a_flat_image(name):
    assert np.allclose(filters.apply(np.full((4, 4, 1), 3.0), filters.find(name)), 0)


def test_sobel_measures_the_slope_of_a_ramp():
    assert np.allclose(filters.apply(RAMP, filters.find("sobel_x"))[:, 1:-1], 8)
    assert np.allclose(filters.apply(RAMP, filters.find("sobel_y")), 0)
    assert np.allclose(filters.apply(RAMP.transpose(1, 0, 2), filters.find("sobel_y"))[1:-1], 8)


def test_the_laplacian_is_the_second_difference():
    parabola = np.tile(np.arange(6, dtype=np.float32) ** 2, (5, 1))
    assert np.allclose(filters.apply(parabola, filters.find("laplacian"))[:, 1:-1], 2)


def test_a_blur_is_the_mean_of_its_window():
    image = np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32)
    blurred = filters.apply(image, filters.find("box"))
    assert blurred[2, 2] == pytest.approx(image[1:4, 1:4].mean(), rel=1e-5)


def test_sharpening_is_the_image_less_its_laplacian():
    image = np.random.default_rng(2).normal(size=(6, 6, 1)).astype(np.float32)
    less = image - filters.apply(image, filters.find("laplacian"))
    assert np.allclose(filters.apply(image, filters.find("sharpen")), less, atol=1e-5)


def test_a_learned_filter_is_compared_with_the_classical_ones():
    kernel = np.zeros((5, 5, 2), np.float32)
    kernel[1:4, 1:4] = -2 * filters.find("sobel_x")[..., None]
    name, cosine = filters.nearest(kernel)
    assert name == "sobel_x"
    assert cosine == pytest.approx(-1)


def test_an_unknown_filter_and_an_even_kernel_are_refused():
    with pytest.raises(ExplainError, match="Did you mean 'sobel_x'"):
        filters.find("sobelx")
    with pytest.raises(ExplainError, match="2 x 2"):
        filters.apply(RAMP, np.ones((2, 2), np.float32))
