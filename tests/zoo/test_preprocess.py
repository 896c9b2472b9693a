"""From bytes to input, in NumPy."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from zoo.errors import ImageError, UsageError
from zoo.preprocess import (
    CentreCrop,
    ImageLimits,
    Pad,
    Preprocessing,
    Resize,
    ResizeShorterSide,
    Scale,
    Standardise,
    SubtractMeanImage,
    SubtractMeanPixel,
    Whiten,
    decode,
    orientation,
)
from zoo.spec import ImageInput

GRAY = ImageInput(height=32, width=32, channels=1, colour="gray")
RGB = ImageInput(height=8, width=8, channels=3)


def encoded(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_png_comes_back_as_it_was(pixels):
    np.testing.assert_array_equal(decode(encoded(pixels)), pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@given(st.data())
def test_a_jpeg_is_what_pillow_makes_of_it_to_the_bit(mode, data):
    """It is decoded by simplejpeg, which may be newer or older than Pillow's libjpeg-turbo."""
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    image.save(
        buffer,
        "JPEG",
        quality=data.draw(st.integers(1, 100)),
        progressive=data.draw(st.booleans()),
        optimize=data.draw(st.booleans()),
        **({"subsampling": data.draw(st.integers(0, 2))} if mode == "RGB" else {}),
    )
    expected = np.asarray(Image.open(buffer).convert("L" if mode == "L" else "RGB"))
    np.testing.assert_array_equal(
        decode(buffer.getvalue()).squeeze(-1 if mode == "L" else ()), expected
    )


def noted(pixels, orientation, kind="PNG"):
    """A file that says how its image is to be turned, as cameras do."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(16, 24, 3), (16, 24)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_turned_as_the_camera_noted_where_that_is_asked_for(kind, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for number in range(10):
        data = noted(pixels, number, kind)
        assert orientation(data) == (number if 1 <= number <= 8 else 1)
        # Versions of before were trained on images as they lie in the file.
        np.testing.assert_array_equal(decode(data), decode(encoded(pixels, kind)))
        upright = Preprocessing(input=RGB, upright=True).decode(data)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(upright.squeeze(), expected)


def test_a_damaged_note_of_the_camera_turns_nothing():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    data = bytearray(noted(pixels, 6, "JPEG"))
    for place in range(data.index(b"Exif") + 6, data.index(b"Exif") + 14):
        data[place] ^= 0xFF
    assert orientation(bytes(data)) == 1
    assert decode(bytes(data), is_upright=True).shape == (2, 3, 1)
    assert orientation(b"no image") == 1


def test_a_jpeg_that_is_cut_is_refused_wherever_the_cut_is():
    whole = encoded(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8), "JPEG")
    for size in range(0, len(whole) - 2, 7):
        with pytest.raises(ImageError):
            decode(whole[:size])


def test_gray_keeps_one_channel_and_transparency_lies_on_black():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(decode(encoded(gray))[:, :, 0], gray)
    rgba = np.full((2, 2, 4), 200, dtype=np.uint8)
    rgba[0, 0, 3] = 0
    rgba[1, 1, 3] = 255
    found = decode(encoded(rgba))
    assert found[0, 0].tolist() == [0, 0, 0]
    assert found[1, 1].tolist() == [200, 200, 200]


def test_the_gray_that_a_png_names_as_transparent_lies_on_black():
    def png(image, **options):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        return buffer.getvalue()

    gray = Image.fromarray(np.array([[200, 10], [0, 255]], np.uint8))
    assert decode(png(gray, transparency=200)).ravel().tolist() == [0, 10, 0, 255]
    assert decode(png(gray)).ravel().tolist() == [200, 10, 0, 255]
    wide = Image.fromarray(np.array([[51400, 25700]], np.uint16))
    assert decode(png(wide, transparency=51400)).ravel().tolist() == [0, 100]
    black_and_white = Image.new("1", (2, 1), 1)
    assert decode(png(black_and_white, transparency=1)).ravel().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "begin with nothing"),
        (b"GIF89a" + b"\0" * 20, "47 49 46"),
        (encoded(np.zeros((40, 40, 3), np.uint8))[:-30], "damaged"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "PNG"),
    ],
)
def test_bytes_that_are_no_image_say_so(data, words):
    with pytest.raises(ImageError, match=words):
        decode(data)


def test_an_image_bomb_is_refused_by_its_header():
    with pytest.raises(ImageError, match="300 x 300 = 90000 pixels; at most 1000"):
        decode(encoded(np.zeros((300, 300), np.uint8)), ImageLimits(max_pixels=1000))
    with pytest.raises(ImageError, match="bytes; at most 10"):
        decode(encoded(np.zeros((3, 3), np.uint8)), ImageLimits(max_bytes=10))


def test_lenets_digits_lie_in_a_field_of_background():
    steps = Preprocessing(
        input=GRAY,
        pixel_steps=(Resize(height=28, width=28), Pad(top=2, bottom=2, left=2, right=2)),
        input_steps=(Scale(scale=0.005, offset=-0.1),),
    )
    pixels = steps.to_pixels(np.full((8, 8, 1), 255, np.uint8))
    assert pixels.shape == (32, 32, 1)
    assert pixels[:2].max() == 0
    found = steps.to_input(pixels[None])
    assert found.dtype == np.float32
    assert found.min() == np.float32(-0.1)
    assert found.max() == pytest.approx(1.175)


def test_colours_become_what_the_network_takes():
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 0] = 255
    bgr = Preprocessing(input=RGB.model_copy(update={"colour": "bgr"}))
    assert bgr.to_pixels(red)[0, 0].tolist() == [0, 0, 255]
    gray = Preprocessing(input=ImageInput(height=8, width=8, channels=1, colour="gray"))
    luma = np.asarray(Image.fromarray(red).convert("L"))
    np.testing.assert_array_equal(gray.to_pixels(red)[:, :, 0], luma)
    plain = Preprocessing(input=RGB)
    assert plain.to_pixels(np.full((8, 8), 7, np.uint8))[3, 3].tolist() == [7, 7, 7]


def test_the_shorter_side_is_resized_and_the_middle_cut_out():
    steps = Preprocessing(
        input=RGB, pixel_steps=(ResizeShorterSide(size=10), CentreCrop(height=8, width=8))
    )
    assert steps.to_pixels(np.zeros((20, 60, 3), np.uint8)).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (
            np.zeros((9, 8, 3), np.uint8),
            r"\(9, 8, 3\) became \(9, 8, 3\); the network takes \(8, 8, 3\)",
        ),
        (np.zeros((8, 8, 3), np.float32), "uint8"),
        (np.zeros((8, 8, 2), np.uint8), r"\[8, 8, 2\]"),
    ],
)
def test_an_image_that_does_not_fit_names_both_shapes(pixels, words):
    with pytest.raises(ImageError, match=words):
        Preprocessing(input=RGB).to_pixels(pixels)


def test_fitted_steps_compute_what_they_say():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    mean = rng.normal(size=(8, 8, 3)).astype(np.float32)
    flat = rng.normal(size=192).astype(np.float32)
    matrix = rng.normal(size=(192, 192)).astype(np.float32)
    x = pixels.astype(np.float32)
    cases = [
        (Standardise(mean=(1, 2, 3), std=(4, 5, 6)), {}, (x - [1, 2, 3]) / [4, 5, 6]),
        (SubtractMeanPixel(mean=(1, 2, 3)), {}, x - [1, 2, 3]),
        (SubtractMeanImage(), {"mean_image": mean}, x - mean),
        (
            Whiten(),
            {"whiten_mean": flat, "whiten_matrix": matrix},
            ((x.reshape(4, -1) - flat) @ matrix).reshape(x.shape),
        ),
    ]
    for step, needed, expected in cases:
        found = Preprocessing(input=RGB, input_steps=(step,)).to_input(pixels, needed)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_a_missing_fitted_array_is_named():
    steps = Preprocessing(input=RGB, input_steps=(SubtractMeanImage(array="mean"),))
    with pytest.raises(UsageError, match="fitted arrays mean; given: none"):
        steps.to_input(np.zeros((1, 8, 8, 3), np.uint8))
