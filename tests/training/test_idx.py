"""idx files that are wrong say which file, what was found and what was expected."""

import gzip
import struct

import numpy as np
import pytest

from training.data import idx, mnist
from zoo.errors import DataError


def image_bytes(number=3, rows=4, columns=5):
    header = struct.pack(">4B3I", 0, 0, 8, 3, number, rows, columns)
    return header + bytes(range(number * rows * columns))


def label_bytes(number=3):
    return struct.pack(">4BI", 0, 0, 8, 1, number) + bytes(range(number))


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(image_bytes()))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(label_bytes())
    return tmp_path


def test_images_and_labels_are_read_packed_or_not(folder):
    images = idx.load_pair(folder, "train")
    assert images.pixels_nhwc.shape == (3, 4, 5, 1)
    assert images.pixels_nhwc[1, 0, 0, 0] == 20
    assert images.class_ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1], ("truncated", "shape [3, 4, 5]", "76 bytes", "75")),
        (lambda data: data + b"x", ("too long", "77")),
        (lambda data: b"\x01" + data[1:], ("no idx file", "01 00 08 03")),
        (lambda data: data[:2] + b"\x77" + data[3:], ("no idx file", "00 00 77 03")),
        (lambda data: data[:10], ("truncated", "header")),
        (lambda data: b"", ("no idx file", "nothing")),
        (lambda data: data[:4] + b"\xff" * 12, ("header is damaged",)),
        (lambda data: gzip.compress(data)[:-9], ("truncated", "gzip")),
        (lambda data: gzip.compress(data)[:-5] + b"\0" * 5, ("corrupt",)),
    ],
)
def test_a_damaged_file_is_named_with_what_was_expected(folder, damage, words):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(image_bytes()))
    with pytest.raises(DataError) as refused:
        idx.load_pair(folder, "train")
    assert path.name in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_labels_that_do_not_fit_the_images_name_both(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(label_bytes(2))
    with pytest.raises(DataError, match=r"3 images but labels of shape \[2\]"):
        idx.load_pair(folder, "train")


def test_a_missing_file_names_what_is_there(folder):
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.*found there: t10k-images"):
        idx.load_pair(folder, "train")


def test_every_idx_type_is_read_big_endian(tmp_path):
    for code, dtype in idx.DTYPES.items():
        values = np.arange(6).reshape(2, 3).astype(dtype)
        data = struct.pack(">4B2I", 0, 0, code, 2, 2, 3) + values.tobytes()
        np.testing.assert_array_equal(idx.parse(data, tmp_path), np.arange(6).reshape(2, 3))


def test_files_that_are_not_mnists_are_refused_by_checksum(folder):
    with pytest.raises(DataError, match=r"not MNIST's train-images.*expected ba891046"):
        mnist.load(folder)


def test_real_mnist_is_read_and_its_checksums_hold(datasets):
    train, test = mnist.load(datasets / "mnist")
    assert train.pixels_nhwc.shape == (60_000, 28, 28, 1)
    assert test.class_ids[:5].tolist() == [7, 2, 1, 0, 4]


def test_a_download_is_kept_only_when_its_checksum_holds(tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(image_bytes()))
    with pytest.raises(DataError, match="SHA-256"):
        mnist.download(tmp_path / "cache", (tmp_path / "mirror").as_uri() + "/")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_is_used_from_the_cache_afterwards(tmp_path, datasets):
    mnist.download(tmp_path, (datasets / "mnist").as_uri() + "/")
    train, _ = mnist.load(mnist.download(tmp_path, (tmp_path / "gone").as_uri() + "/"))
    assert len(train) == 60_000


def test_a_place_that_cannot_be_reached_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="--data-dir"):
        mnist.download(tmp_path, (tmp_path / "gone").as_uri() + "/")
