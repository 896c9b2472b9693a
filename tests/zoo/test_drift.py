"""What images and answers look like in numbers: the same everywhere, and never an image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from training.corruptions import CHANGES
from zoo.drift import measures
from zoo.drift.records import (
    MOST_ROWS,
    Baseline,
    Counter,
    Histogram,
    Rows,
    count,
    edges_of,
    read_window,
    window_files,
)
from zoo.errors import DataError
from zoo.spec import ImageInput

GRAY = ImageInput(height=8, width=8, channels=1, colour="gray")
RNG = np.random.default_rng(0)


def gray(pixels):
    return np.asarray(pixels, np.float32)[None, :, :, None]


def test_brightness_contrast_and_sharpness_by_hand():
    found = measures.of_inputs(gray([[0, 2], [2, 4]]), GRAY)
    assert found["mean"] == pytest.approx([2])
    assert found["contrast"] == pytest.approx([np.sqrt(2)])
    # Each step to a neighbour, along rows and along columns, is 2.
    assert found["sharpness"] == pytest.approx([np.sqrt(4 + 4) / np.sqrt(2)])
    assert measures.of_inputs(gray(np.full((3, 3), 7)), GRAY)["sharpness"] == [0]


def test_what_is_measured_fast_is_what_numpy_measures_plainly():
    image_nhwc = RNG.normal(100, 50, (3, 40, 31, 3)).astype(np.float32)
    found = measures.of_inputs(image_nhwc, ImageInput(height=40, width=31, channels=3))
    exact = image_nhwc.astype(np.float64)
    plane = exact.mean(3)
    steps = sum(np.square(np.diff(plane, axis=axis)).mean((1, 2)) for axis in (1, 2))
    for channel, colour in enumerate(("red", "green", "blue")):
        pixels = exact[..., channel]
        np.testing.assert_allclose(found[f"mean_{colour}"], pixels.mean((1, 2)), rtol=1e-5)
        np.testing.assert_allclose(found[f"contrast_{colour}"], pixels.std((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["sharpness"], np.sqrt(steps) / plane.std((1, 2)), rtol=1e-5)
    one = measures.of_inputs(image_nhwc[1:2], ImageInput(height=40, width=31, channels=3))
    for name, values in one.items():
        np.testing.assert_allclose(values, found[name][1:2], rtol=1e-6)


def test_each_channel_goes_by_its_colour():
    image_nhwc = np.zeros((2, 4, 4, 3), np.float32)
    image_nhwc[..., 0] = 5
    for colour, name in (("rgb", "mean_red"), ("bgr", "mean_blue")):
        input_ = ImageInput(height=4, width=4, channels=3, colour=colour)
        found = measures.of_inputs(image_nhwc, input_)
        assert found[name] == pytest.approx([5, 5])
        assert found["mean_green"].tolist() == [0, 0]


def test_noise_raises_sharpness_blur_lowers_it_and_light_leaves_it():
    pixels = np.kron(RNG.integers(0, 256, (8, 8)), np.ones((4, 4))).astype(np.uint8)[:, :, None]

    def sharpness(image_hwc):
        return measures.of_inputs(image_hwc[None].astype(np.float32), GRAY)["sharpness"][0]

    plain = sharpness(pixels)
    assert sharpness(pixels * np.float32(0.3) + 20) == pytest.approx(plain, rel=1e-5)
    assert sharpness(CHANGES["noise"][0](pixels, 25.0, RNG)) > plain * 1.1
    assert sharpness(CHANGES["blur"][0](pixels, 1.0, RNG)) < plain * 0.9


def test_answers_are_the_same_from_logits_and_from_probabilities():
    logits_nk = RNG.normal(size=(50, 7)).astype(np.float32) * 5
    exponents = np.exp(logits_nk - logits_nk.max(-1, keepdims=True))
    probabilities_nk = exponents / exponents.sum(-1, keepdims=True)
    from_logits = measures.log_probabilities({"logits": logits_nk, "other": logits_nk})
    from_probabilities = measures.log_probabilities({"probabilities": probabilities_nk})
    np.testing.assert_allclose(from_logits, from_probabilities, atol=1e-4)
    found = measures.of_answers(from_logits)
    np.testing.assert_allclose(found["probability"], probabilities_nk.max(-1), atol=6e-4)
    even = measures.of_answers(np.log(np.full((1, 4), 0.25, np.float32)))
    assert even["entropy"] == [1.0]
    sure = measures.log_probabilities({"logits": np.array([[99.0, 0, 0]], np.float32)})
    assert sure.min() == measures.LEAST_LOG
    assert measures.of_answers(sure)["entropy"] == [0.0]
    assert measures.log_probabilities({"maps": logits_nk}) is None


@pytest.mark.parametrize(
    ("shape", "dimensions"),
    [((2, 2, 1), 0), ((8, 8, 1), 4), ((9, 9, 1), 5), ((28, 28, 1), 16), ((31, 57, 3), 16)],
)
def test_no_image_can_be_had_back_from_its_vector(shape, dimensions):
    image_nhwc = RNG.normal(size=(500, *shape)).astype(np.float32)
    vectors_nd = measures.embed_inputs(image_nhwc)
    assert vectors_nd.shape == (500, dimensions)
    # A linear reading of an image from it, the best there is, gets next to nothing right.
    if dimensions:
        flat = image_nhwc.reshape(500, -1)
        best, *_ = np.linalg.lstsq(vectors_nd, flat, rcond=None)
        explained = 1 - np.square(flat - vectors_nd @ best).sum() / np.square(flat).sum()
        assert explained < 2 / measures.VALUES_A_DIMENSION


def test_vectors_are_the_same_in_every_process_and_tell_images_apart():
    # These numbers are in every baseline that was ever published: they must never change.
    known = [[1.24737, 0.28295], [0.69207, 1.58455], [1.32059, -0.69104], [0.67180, -0.10702]]
    np.testing.assert_allclose(measures.projection(4, 2), known, atol=1e-4)
    dark, light = (np.full((1, 28, 28, 1), value, np.float32) for value in (0, 1))
    assert np.linalg.norm(measures.embed_inputs(light) - measures.embed_inputs(dark)) > 1
    many = np.zeros((3, 1000), np.float32)
    assert measures.embed_answers(many).shape == (3, 16)
    assert measures.embed_answers(many[:, :5]).shape == (3, 5)


numbers = arrays(
    np.float64,
    st.integers(1, 300),
    elements=st.floats(-1e6, 1e6, allow_nan=False) | st.sampled_from([0.0, 1.0, 28.0]),
)


@given(numbers)
def test_the_values_that_made_the_edges_lie_between_them(values):
    edges = edges_of(values)
    counts = count(values, edges)
    assert list(edges) == sorted(set(edges))
    assert counts.sum() == len(values)
    assert counts[0] == counts[-1] == 0
    # Rounding moves nothing into another bin.
    assert (count(values * (1 + 1e-15), edges) == counts).all()


def test_bins_hold_a_tenth_each_and_what_is_common_has_its_own():
    counts = count(values := RNG.normal(size=5000), edges_of(values))
    assert len(counts) == 12
    assert set(counts[1:-1]) == {500}
    edges = edges_of(np.concatenate([RNG.normal(size=500), np.full(500, 9.0)]))
    (place,) = np.flatnonzero(count([9.0], edges))
    assert edges[place - 1] < 9 < edges[place]
    assert count([5.0, 9.1, np.nan, np.inf, -np.inf], edges)[place] == 0
    assert count([np.nan, np.inf], edges)[-1] == 2


def counter(most_rows, seed=0):
    baseline = Baseline(
        inputs=1, histograms={"mean": Histogram(edges=(0.0, 1.0), counts=(0, 1, 0))}, classes=(1, 1)
    )
    return Counter(baseline, most_rows, seed)


def measured(numbers):
    values = np.asarray(numbers, np.float64)
    return measures.Measured(
        len(values),
        {"mean": values, "unknown": values},
        np.zeros(len(values), np.int64),
        {"inputs": values[:, None].astype(np.float32)},
    )


def test_every_image_is_counted_and_each_has_the_same_chance_to_be_kept():
    kept = np.zeros(100)
    for seed in range(300):
        one = counter(10, seed)
        for start in (0, 3, 60):
            one.add(measured(np.arange(start, {0: 3, 3: 60, 60: 100}[start])))
        assert one.images == one.counts["mean"].sum() == one.classes.sum() == 100
        rows = one.embeddings()["inputs"].array()[:, 0].astype(int)
        assert len(set(rows)) == 10
        kept[rows] += 1
    # 300 draws of 10 in 100: 30 each, give or take five standard deviations.
    assert abs(kept - 30).max() < 5 * np.sqrt(27)
    one.clear()
    assert one.images == 0
    assert one.embeddings() == {}
    none = counter(0)
    none.add(measured([0.5]))
    assert none.embeddings() == {}


def test_vectors_survive_the_disk_without_what_is_no_number():
    rows_nd = np.array([[1.5, -2.0], [np.nan, 0], [np.inf, 1], [1e30, -1e30]], np.float32)
    packed = Rows.model_validate_json(Rows.of(rows_nd).model_dump_json())
    assert packed.array().tolist() == [[1.5, -2.0], [60_000, -60_000]]
    for wrong in ("!", "AAAA", "AHwAfA=="):
        with pytest.raises(ValidationError):
            Rows(dimensions=2, float16=wrong)


@pytest.mark.parametrize(
    ("edges", "counts", "words"),
    [
        ((0.0,), (1,), "1 edges do not have 1 bins"),
        ((1.0, 0.0), (1, 1, 1), "do not ascend"),
        ((0.0,), (1, -1), "negative"),
    ],
)
def test_a_histogram_that_is_none_is_refused(edges, counts, words):
    with pytest.raises(ValidationError, match=words):
        Histogram(edges=edges, counts=counts)


def test_only_windows_are_taken_for_windows(tmp_path):
    folder = tmp_path / "m" / "3"
    folder.mkdir(parents=True)
    name = "20261121T113000Z-1a2b3c.json"
    for path in (
        folder / name,
        folder / f".{name}-12345678",
        folder / "notes.json",
        tmp_path / "m" / name,
        tmp_path / name,
    ):
        path.write_text("{}")
    (tmp_path / "m" / "other").mkdir()
    (tmp_path / "m" / "other" / name).write_text("{}")
    assert {path.name for path in window_files(tmp_path)} == {name, f".{name}-12345678"}
    assert window_files(tmp_path, "m", 4) == window_files(tmp_path / "none") == []
    with pytest.raises(DataError, match=r"no window of a drift log: model: Field required"):
        read_window(folder / name)
    assert MOST_ROWS * 32 * 2 < 40_000  # the vectors of a baseline, in bytes
